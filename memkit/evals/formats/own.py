"""memkit's own records: a context with questions, one JSON object on each line.

    {"id": "a", "context": "...", "questions": [{"q": "...", "answers": ["..."]}]}

``answers`` is empty for a question that the context does not answer. A question may have a ``category`` (or
``type``); the default is the record's (or its ``task``). A record may have a ``metric``.
"""

from __future__ import annotations

from collections.abc import Iterator

from memkit.evals.formats.base import METRICS, Format, Node, Question, Record, record


def _records(row: Node) -> Iterator[Record]:
    metric = row.optional("metric") or None
    if metric is not None and metric not in METRICS:
        raise row["metric"].malformed(f"is {metric!r}; there are: {', '.join(METRICS)}")
    kind = row.optional("category", "type", "task")
    questions = [
        Question(q["q"].text(), q["answers"].texts(), q.optional("category", "type") or kind)
        for q in row["questions"].items()
    ]
    yield record(row, row.id, row["context"].text(), questions, metric)


FORMATS = (
    Format(
        "records",
        "memkit's own: id, context, questions (q, answers)",
        lambda row: "context" in row and "questions" in row,
        _records,
    ),
)
