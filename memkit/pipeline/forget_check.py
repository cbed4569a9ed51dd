"""Forgetting, and asking afterwards whether it is forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memkit.bank import Receipt
from memkit.document import Document, Span, sentences
from memkit.engine.base import Request
from memkit.errors import ConfigError
from memkit.pipeline.admission import AdmissionConfig, SelfTest
from memkit.pipeline.answer import Sampling, ask_many
from memkit.pipeline.context import Context
from memkit.pipeline.forget import by_whole_id, forget, forget_all, forget_matching
from memkit.router.gate import Route
from memkit.text.normalize import occurrences
from memkit.text_metrics import contains


@dataclass(frozen=True)
class LeakCheck:
    """A question that the forgotten text answered, asked again.

    ``answered``: the answer still holds what that text said; by memory ``memory_id``, if by one.
    """

    question: str
    answered: bool
    route: Route
    memory_id: str | None


@dataclass(frozen=True)
class ForgetReport:
    """What was removed, and what the questions about it got afterwards."""

    receipts: tuple[Receipt, ...]
    checks: tuple[LeakCheck, ...]

    @property
    def still_answered(self) -> tuple[LeakCheck, ...]:
        return tuple(check for check in self.checks if check.answered)


def forget_and_check(
    context: Context,
    memory_id: str | None = None,
    spans: Sequence[Span] = (),
    questions: int = 16,
    *,
    matching: str | None = None,
) -> ForgetReport:
    """`Memory.forget`, with questions about what goes, which the model writes and answers from its text.

    With ``matching`` as `Memory.forget_matching`, without a ``memory_id`` as `Memory.forget_all`. Questions
    that the model answers the same way with nothing in front of it are left out, as no bank can forget what
    the model knows anyway. What remains of a memory is compiled anew before anything is asked.
    """
    _ = context.engine  # a model that cannot be loaded is an error before anything is forgotten
    if matching is not None:
        receipts, asked = _forget_matching(context, memory_id, spans, matching, questions)
    else:
        asked = [
            pair
            for text in _texts_to_forget(context, memory_id, spans)
            for pair in _questions_about(context, text, questions)
        ]
        receipts = (
            forget_all(context) if memory_id is None else forget(context, memory_id, spans or None, True)
        )
    context.queue.resume()
    context.queue.wait()
    return ForgetReport(
        tuple(receipts), tuple(_check(context, question, answer) for question, answer in asked)
    )


def _forget_matching(
    context: Context, memory_id: str | None, spans: Sequence[Span], wanted: str, count: int
) -> tuple[list[Receipt], list[tuple[str, str]]]:
    """Forget a text in a memory; the receipts, and questions that what went has answered."""
    if memory_id is None or spans:
        raise ConfigError(
            "a text is forgotten in one memory and wherever it stands: name its id, and no spans"
        )
    info, logs = by_whole_id(context, memory_id), context.bank.logs
    text = context.bank.source(context.owner, info.id).text
    entries = logs.entries(context.owner, info.id)
    receipts = forget_matching(context, info.id, wanted, True)
    if receipts[-1].left is None:
        return receipts, _questions_about(context, text, count)
    if info.running:  # entries go whole, also for the sake of a speaker or a key
        kept = {entry.number for entry in logs.entries(context.owner, info.id)}
        lines = [text[entry.start : entry.end] for entry in entries if entry.number not in kept]
        return receipts, _questions_about(context, "\n".join(lines), count)
    # Of a document the rest of the sentence stays: only what is answered by the text itself has to be gone.
    held = [(span.start, span.end) for span in sentences(text)]
    found = occurrences(text, wanted)
    about = [text[a:b] for a, b in held if any(start < b and a < end for start, end in found)]
    pairs = _questions_about(context, "".join(about), count)
    return receipts, [pair for pair in pairs if occurrences(pair[1], wanted) or occurrences(wanted, pair[1])]


def _texts_to_forget(context: Context, memory_id: str | None, spans: Sequence[Span]) -> list[str]:
    """The texts that are going to be forgotten."""
    infos = (
        context.bank.list(context.owner)
        if memory_id is None
        else [context.bank.get(context.owner, memory_id)]
    )
    texts = [context.bank.source(context.owner, info.id).text for info in infos]
    if not spans:
        return texts
    entries = context.bank.logs.entries(context.owner, infos[0].id)  # of a log whole entries go
    lines = [Span(e.start, e.end) for e in entries]
    gone = [line for line in lines if any(s.start < line.end and line.start < s.end for s in spans)]
    return ["\n".join(texts[0][span.start : span.end] for span in gone or spans)]


def _questions_about(context: Context, text: str, count: int) -> list[tuple[str, str]]:
    """Questions and answers that the model owes to a text."""
    if not text.strip():
        return []
    engine = context.engine
    pairs = SelfTest.of(engine, Document(text), AdmissionConfig(questions=count)).pairs
    bare = engine.generate([Request(question, max_tokens=32) for question, _ in pairs])
    return [pair for pair, said in zip(pairs, bare, strict=True) if not contains(said.text, [pair[1]])]


def _check(context: Context, question: str, answer: str) -> LeakCheck:
    (said,) = ask_many(context, [question], (), Sampling(max_tokens=32))
    return LeakCheck(question, bool(contains(said.text, [answer])), said.route, said.trace.memory_id)
