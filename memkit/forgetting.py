"""Forgetting, and asking afterwards whether it is forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memkit.admission import AdmissionConfig, SelfTest
from memkit.bank import Receipt
from memkit.document import Document, Span
from memkit.engine.base import Request
from memkit.evals.metrics import contains
from memkit.router.gate import Route

if TYPE_CHECKING:
    from memkit.memory import Memory


@dataclass(frozen=True)
class Check:
    """A question that the forgotten text answered, asked again.

    ``answered``: the answer still holds what that text said; by memory ``memory_id``, if by one.
    """

    question: str
    answered: bool
    route: Route
    memory_id: str | None


@dataclass(frozen=True)
class Forgotten:
    """What was removed, and what the questions about it got afterwards."""

    receipts: tuple[Receipt, ...]
    checks: tuple[Check, ...]

    @property
    def still_answered(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if check.answered)


def forget_and_check(
    memory: Memory, memory_id: str | None = None, spans: Sequence[Span] = (), questions: int = 16
) -> Forgotten:
    """`Memory.forget`, with questions about what goes, which the model writes and answers beforehand.

    Left out are those that the model answers the same way with nothing in front of it, as what it
    knows anyway no bank can forget. What remains of a memory is compiled anew before anything is asked.
    """
    asked = [pair for text in _doomed(memory, memory_id, spans) for pair in _told(memory, text, questions)]
    receipts = tuple(memory.forget(memory_id, spans=spans))
    memory.wait()
    return Forgotten(receipts, tuple(_check(memory, question, answer) for question, answer in asked))


def _doomed(memory: Memory, memory_id: str | None, spans: Sequence[Span]) -> list[str]:
    """The texts that are going to be forgotten."""
    infos = memory.list() if memory_id is None else [memory.show(memory_id)]
    texts = [memory.bank.source(memory.owner, info.id).text for info in infos]
    if not spans:
        return texts
    entries = memory.bank.logs.entries(memory.owner, infos[0].id)  # of a log whole entries go
    lines = [Span(e.start, e.end) for e in entries]
    gone = [line for line in lines if any(s.start < line.end and line.start < s.end for s in spans)]
    return ["\n".join(texts[0][span.start : span.end] for span in gone or spans)]


def _told(memory: Memory, text: str, count: int) -> list[tuple[str, str]]:
    """Questions and answers that the model owes to a text."""
    if not text.strip():
        return []
    engine = memory.engine
    pairs = SelfTest.of(engine, Document(text), AdmissionConfig(questions=count)).pairs
    bare = engine.generate([Request(question, max_tokens=32) for question, _ in pairs])
    return [pair for pair, said in zip(pairs, bare, strict=True) if not contains(said.text, [pair[1]])]


def _check(memory: Memory, question: str, answer: str) -> Check:
    said = memory.ask(question, max_tokens=32)
    return Check(question, bool(contains(said.text, [answer])), said.route, said.trace.memory_id)
