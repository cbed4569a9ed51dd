"""Questions about past conversations: LongMemEval, LoCoMo, and memkit's own format of conversations.

References: Wu et al. 2025 (LongMemEval); Maharana et al. 2024 (LoCoMo). The context is the conversation as
text: each session below its date, each turn on its own line after the speaker. memkit's own format has
``sessions`` with a ``date`` and ``turns``, or only ``turns``; a turn is [speaker, text] or [id, speaker,
text, picture].
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from memkit.evals.formats.base import Format, Node, Question, Record, record

LOCOMO = {"1": "multi-hop", "2": "temporal", "3": "open-domain", "4": "single-hop", "5": "adversarial"}
Session = tuple[str, Iterable[str]]  # a date or "", and lines


def _context(sessions: Iterable[Session]) -> str:
    return "\n\n".join("\n".join([f"[{date}]", *lines] if date else lines) for date, lines in sessions)


def _line(speaker: str, text: str, picture: str = "") -> str:
    return f"{speaker}: {text}" + (f" [picture: {picture}]" if picture else "")


def _dated(question: str, date: str) -> str:
    """A question with the date on which it is asked."""
    return f"Today is {date}. {question}" if date else question


# --- LongMemEval -----------------------------------------------------------------------------
def _longmemeval(row: Node) -> Iterator[Record]:
    sessions, dates = row["haystack_sessions"].items(), row["haystack_dates"].items()
    if len(sessions) != len(dates):
        raise row["haystack_dates"].malformed(f"has {len(dates)} dates for {len(sessions)} sessions")
    # The dates' form sorts by time; the oracle's files are not in order.
    dated = sorted(zip((date.text() for date in dates), sessions, strict=True), key=lambda one: one[0])
    context = _context(
        (date, [_line(turn["role"].text(), turn["content"].text()) for turn in session.items()])
        for date, session in dated
    )
    id = row["question_id"].text()
    answers = () if id.endswith("_abs") else row["answer"].texts()
    question = _dated(row["question"].text(), row.optional("question_date"))
    yield record(row, id, context, [Question(question, answers, row["question_type"].text())])


# --- LoCoMo ----------------------------------------------------------------------------------
def _locomo(row: Node) -> Iterator[Record]:
    conversation = row["conversation"]
    numbers = sorted(int(m[1]) for key in conversation.fields() if (m := re.fullmatch(r"session_(\d+)", key)))
    context = _context(
        (
            conversation.optional(f"session_{n}_date_time"),
            [_line(t["speaker"].text(), t["text"].text(), t.optional("blip_caption")) for t in turns],
        )
        for n in numbers
        if (turns := conversation[f"session_{n}"].items())
    )
    questions = [_locomo_question(qa, "question") for qa in row["qa"].items()]
    yield record(row, row.optional("sample_id") or row.id, context, questions)


def _locomo_question(qa: Node, key: str) -> Question:
    category = LOCOMO.get(qa["category"].text(), qa["category"].text())
    return Question(qa[key].text(), () if category == "adversarial" else qa["answer"].texts(), category)


# --- memkit's own ----------------------------------------------------------------------------
def _conversation(row: Node) -> Iterator[Record]:
    sessions = row["sessions"].items() if "sessions" in row else [row]
    context = _context((s.optional("date"), [_turn(turn) for turn in s["turns"].items()]) for s in sessions)
    kind, date = row.optional("category", "type"), row.optional("question_date")
    if "qa" in row:
        questions = [_locomo_question(qa, "q") for qa in row["qa"].items()]
    else:
        questions = [
            Question(_dated(q["q"].text(), date), q["answers"].texts(), kind)
            for q in row["questions"].items()
        ]
    yield record(row, row.id, context, questions)


def _turn(turn: Node) -> str:
    parts = [part.text() for part in turn.items()]
    if not 2 <= len(parts) <= 4:
        raise turn.malformed(f"has {len(parts)} members, where 2 to 4 are expected")
    return _line(*(parts if len(parts) == 2 else parts[1:]))


FORMATS = (
    Format(
        "longmemeval",
        "LongMemEval (oracle, s, m), by type of question",
        lambda row: "haystack_sessions" in row,
        _longmemeval,
    ),
    Format("locomo", "LoCoMo, by category", lambda row: "conversation" in row and "qa" in row, _locomo),
    Format(
        "conversations",
        "sessions of turns, or turns alone, with questions or qa",
        lambda row: ("sessions" in row or "turns" in row) and ("questions" in row or "qa" in row),
        _conversation,
    ),
)
