"""Questions about several titled paragraphs: HotpotQA, 2WikiMultihopQA, MuSiQue, and the Natural Questions of
*Lost in the Middle*.

References: Yang et al. 2018 (HotpotQA, distractor setting); Ho et al. 2020 (2WikiMultihopQA); Trivedi et al.
2022 (MuSiQue); Liu et al. 2023 (*Lost in the Middle*).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from memkit.evals.formats.base import Format, Node, Question, Record, record, titled


def _hotpot(row: Node) -> Iterator[Record]:
    paragraphs = [_paragraph(node) for node in row["context"].items()]
    question = Question(row["question"].text(), row["answer"].texts(), row.optional("type"))
    yield record(row, row.id, titled(paragraphs), [question])


def _paragraph(node: Node) -> tuple[str, str]:
    parts = node.items()
    if len(parts) != 2:
        raise node.malformed(f"has {len(parts)} members, where a title and sentences are expected")
    title, sentences = parts
    return title.text(), " ".join(sentence.text().strip() for sentence in sentences.items())


def _musique(row: Node) -> Iterator[Record]:
    paragraphs = [(p["title"].text(), p["paragraph_text"].text()) for p in row["paragraphs"].items()]
    aliases = row["answer_aliases"].texts() if "answer_aliases" in row else ()
    answers = tuple(dict.fromkeys((*row["answer"].texts(), *aliases)))
    if "answerable" in row and not row["answerable"].value:
        answers = ()
    hops = re.match(r"\d+hop\d*", row.id)  # ids such as 2hop__482757_12019, 3hop1__...
    yield record(
        row, row.id, titled(paragraphs), [Question(row["question"].text(), answers, hops[0] if hops else "")]
    )


def _nq(row: Node) -> Iterator[Record]:
    passages = row["ctxs"].items()
    gold = next((i for i, p in enumerate(passages) if "isgold" in p and p["isgold"].value), None)
    category = "" if gold is None or len(passages) == 1 else f"gold at {gold}"  # like the names of the files
    context = titled((p["title"].text(), p["text"].text()) for p in passages)
    yield record(row, row.id, context, [Question(row["question"].text(), row["answers"].texts(), category)])


FORMATS = (
    Format(
        "hotpot",
        "HotpotQA (distractor) and 2WikiMultihopQA, by type of question",
        lambda row: "context" in row and isinstance(row["context"].value, list) and "question" in row,
        _hotpot,
    ),
    Format(
        "musique",
        "MuSiQue, by number of hops",
        lambda row: "paragraphs" in row and "question" in row,
        _musique,
    ),
    Format(
        "nq",
        "Natural Questions as in Lost in the Middle, by place of the gold passage",
        lambda row: "ctxs" in row,
        _nq,
    ),
)
