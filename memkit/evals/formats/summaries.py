"""Long answers, from a sentence to a page, scored by ROUGE-L: SQuALITY and XSum.

References: Wang et al. 2022 (SQuALITY, v1.3); Narayan et al. 2018 (XSum, as JSON lines).
"""

from __future__ import annotations

from collections.abc import Iterator

from memkit.evals.formats.base import Format, Node, Question, Record, record

METRIC = "rouge_l"
SUMMARISE = "What is the text about? Answer in one sentence."


def _squality(row: Node) -> Iterator[Record]:
    questions = list[Question]()
    for number, question in enumerate(row["questions"].items()):
        responses = [a["response_text"].text().strip() for a in question["responses"].items()]
        category = "plot" if number == 0 else "detail"  # the first is always about the plot
        questions.append(Question(question["question_text"].text(), tuple(responses), category))
    about = row.get("metadata")
    yield record(
        row,
        (about.optional("passage_id") if about else "") or row.id,
        row["document"].text(),
        questions,
        METRIC,
    )


def _xsum(row: Node) -> Iterator[Record]:
    text = row["document" if "document" in row else "context"].text()
    yield record(row, row.id, text, [Question(SUMMARISE, row["summary"].texts())], METRIC)


FORMATS = (
    Format(
        "squality",
        "SQuALITY, scored by ROUGE-L",
        lambda row: "document" in row and "questions" in row,
        _squality,
    ),
    Format(
        "xsum",
        "XSum: document and summary, scored by ROUGE-L",
        lambda row: "summary" in row and ("document" in row or "context" in row),
        _xsum,
    ),
)
