"""Extractive question answering: SQuAD 1.1 and 2.0, SQuADShifts, and MRQA's common format.

References: Rajpurkar et al. 2016, 2018 (SQuAD); Miller et al. 2020 (SQuADShifts); Fisch et al. 2019 (MRQA).
``squad`` makes one record of each paragraph, ``squad-long`` joins consecutive paragraphs of an article.
"""

from __future__ import annotations

from collections.abc import Iterator

from memkit.evals.formats.base import Format, Node, Question, Record, record

LONG_WORDS = 2000  # maximum of joined paragraphs; a single longer paragraph stays whole
Paragraph = tuple[str, list[Question]]


def _paragraphs(article: Node) -> Iterator[Paragraph]:
    for paragraph in article["paragraphs"].items():
        yield paragraph["context"].text(), [_question(qa) for qa in paragraph["qas"].items()]


def _question(qa: Node) -> Question:
    if "is_impossible" in qa and qa["is_impossible"].value:
        return Question(qa["question"].text(), ())
    answers = dict.fromkeys(text for a in qa["answers"].items() for text in a["text"].texts())
    return Question(qa["question"].text(), tuple(answers))


def _joined(paragraphs: Iterator[Paragraph]) -> Iterator[Paragraph]:
    """Join consecutive paragraphs up to `LONG_WORDS`."""
    texts, questions, words = list[str](), list[Question](), 0
    for text, more in paragraphs:
        length = len(text.split())
        if texts and words + length > LONG_WORDS:
            yield "\n\n".join(texts), questions
            texts, questions, words = [], [], 0
        texts.append(text)
        questions, words = [*questions, *more], words + length
    if texts:
        yield "\n\n".join(texts), questions


def _records(document: Node, long: bool = False) -> Iterator[Record]:
    for number, article in enumerate(document["data"].items(), start=1):
        title = article.optional("title") or f"article {number}"
        paragraphs = _paragraphs(article)
        for part, (context, questions) in enumerate(_joined(paragraphs) if long else paragraphs, start=1):
            yield record(article, f"{title} {part}", context, questions)


def _mrqa(row: Node) -> Iterator[Record]:
    if "header" in row:
        return
    questions = [Question(qa["question"].text(), qa["answers"].texts()) for qa in row["qas"].items()]
    yield record(row, row.id, row["context"].text(), questions)


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
