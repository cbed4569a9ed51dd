"""Extractive question answering: SQuAD 1.1 and 2.0, SQuADShifts, and MRQA's common format.

References: Rajpurkar et al. 2016, 2018 (SQuAD); Miller et al. 2020 (SQuADShifts); Fisch et al. 2019 (MRQA).
``squad`` is one record a paragraph, ``squad-long`` joins consecutive paragraphs of an article.
"""

from __future__ import annotations

from collections.abc import Iterator

from memkit.evals.formats.base import Format, Node, Question, Record, record

LONG_WORDS = 2000  # of joined paragraphs; one longer paragraph stays whole
Paragraph = tuple[str, list[Question]]


def _paragraphs(article: Node) -> Iterator[Paragraph]:
    for paragraph in article["paragraphs"].items():
        yield paragraph["context"].text(), [_asked(qa) for qa in paragraph["qas"].items()]


def _asked(qa: Node) -> Question:
    if "is_impossible" in qa and qa["is_impossible"].value:
        return Question(qa["question"].text(), ())
    answers = dict.fromkeys(text for a in qa["answers"].items() for text in a["text"].texts())
    return Question(qa["question"].text(), tuple(answers))


def _joined(paragraphs: Iterator[Paragraph]) -> Iterator[Paragraph]:
    """Consecutive paragraphs, joined while they have at most `LONG_WORDS`."""
    texts, asked, words = list[str](), list[Question](), 0
    for text, more in paragraphs:
        length = len(text.split())
        if texts and words + length > LONG_WORDS:
            yield "\n\n".join(texts), asked
            texts, asked, words = [], [], 0
        texts.append(text)
        asked, words = [*asked, *more], words + length
    if texts:
        yield "\n\n".join(texts), asked


def _records(document: Node, long: bool = False) -> Iterator[Record]:
    for number, article in enumerate(document["data"].items(), start=1):
        title = article.optional("title") or f"article {number}"
        found = _paragraphs(article)
        for part, (context, asked) in enumerate(_joined(found) if long else found, start=1):
            yield record(article, f"{title} {part}", context, asked)


def _mrqa(row: Node) -> Iterator[Record]:
    if "header" in row:
        return
    asked = [Question(qa["question"].text(), qa["answers"].texts()) for qa in row["qas"].items()]
    yield record(row, row.id, row["context"].text(), asked)


FORMATS = (
    Format(
        "squad", "SQuAD 1.1 and 2.0, SQuADShifts: one record a paragraph", lambda row: "data" in row, _records
    ),
    Format(
        "squad-long",
        f"the same, paragraphs of an article joined to at most {LONG_WORDS:,} words; only by name",
        lambda row: False,
        lambda row: _records(row, long=True),
    ),
    Format(
        "mrqa", "MRQA 2019: JSON lines under a header", lambda row: "header" in row or "qas" in row, _mrqa
    ),
)
