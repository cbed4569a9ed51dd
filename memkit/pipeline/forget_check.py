"""Forget a memory and check with questions that it can no longer be answered."""

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
from memkit.pipeline.forget import forget, forget_all, forget_matching, require_whole_id
from memkit.router.gate import Route
from memkit.text.normalize import occurrences
from memkit.text_metrics import contains


@dataclass(frozen=True)
class LeakCheck:
    """A question about the forgotten text, asked again.

    ``answered`` says whether the answer still has the forgotten fact. ``route`` and ``memory_id`` are those
    of the answer; ``memory_id`` is None if no memory was used.
    """

    question: str
    answered: bool
    route: Route
    memory_id: str | None


@dataclass(frozen=True)
class ForgetReport:
    """The receipts of what was removed, and the checks of the questions about it."""

    receipts: tuple[Receipt, ...]
    checks: tuple[LeakCheck, ...]

    @property
    def still_answered(self) -> tuple[LeakCheck, ...]:
        """The checks that found a forgotten fact."""
        return tuple(check for check in self.checks if check.answered)


def forget_and_check(
    context: Context,
    memory_id: str | None = None,
    spans: Sequence[Span] = (),
    questions: int = 16,
    *,
    matching: str | None = None,
) -> ForgetReport:
    """Forget as `Memory.forget` does, and ask questions about the forgotten text.

    With ``matching`` it forgets as `Memory.forget_matching`, without a ``memory_id`` as `Memory.forget_all`.
    The model writes up to ``questions`` questions and answers them from the text before it is forgotten.
    Questions that it answers the same way without memory are dropped: a bank cannot forget what the model
    itself knows. What remains of a memory is compiled again before the questions are asked.

    Raises what these methods raise, and `ModelError` before anything is forgotten.
    """
    _ = context.engine  # raises before anything is forgotten if the model cannot be loaded
    if matching is not None:
        receipts, pairs = _forget_matching(context, memory_id, spans, matching, questions)
    else:
        pairs = [
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
        tuple(receipts), tuple(_check(context, question, answer) for question, answer in pairs)
    )


def _forget_matching(
    context: Context, memory_id: str | None, spans: Sequence[Span], wanted: str, count: int
) -> tuple[list[Receipt], list[tuple[str, str]]]:
    """Forget a text in a memory; returns the receipts and the questions that the text answered."""
    if memory_id is None or spans:
        raise ConfigError(
            "a text is forgotten wherever it occurs in one memory: give the memory's id and no spans"
        )
    info, logs = require_whole_id(context, memory_id), context.bank.logs
    text = context.bank.source(context.owner, info.id).text
    entries = logs.entries(context.owner, info.id)
    receipts = forget_matching(context, info.id, wanted, True)
    if receipts[-1].left is None:
        return receipts, _questions_about(context, text, count)
    if info.running:  # whole entries are forgotten, also those with the text in their speaker or key
        remaining = {entry.number for entry in logs.entries(context.owner, info.id)}
        lines = [text[entry.start : entry.end] for entry in entries if entry.number not in remaining]
        return receipts, _questions_about(context, "\n".join(lines), count)
    # The rest of a document's sentence stays, so only answers with the text itself must be gone.
    matches = occurrences(text, wanted)
    affected = [
        text[span.start : span.end]
        for span in sentences(text)
        if any(start < span.end and span.start < end for start, end in matches)
    ]
    pairs = _questions_about(context, "".join(affected), count)
    return receipts, [pair for pair in pairs if occurrences(pair[1], wanted) or occurrences(wanted, pair[1])]


def _texts_to_forget(context: Context, memory_id: str | None, spans: Sequence[Span]) -> list[str]:
    """The texts that will be forgotten."""
    infos = (
        context.bank.list(context.owner)
        if memory_id is None
        else [context.bank.get(context.owner, memory_id)]
    )
    texts = [context.bank.source(context.owner, info.id).text for info in infos]
    if not spans:
        return texts
    entries = context.bank.logs.entries(context.owner, infos[0].id)  # a running memory forgets whole entries
    lines = [Span(e.start, e.end) for e in entries]
    affected = [line for line in lines if any(s.start < line.end and line.start < s.end for s in spans)]
    return ["\n".join(texts[0][span.start : span.end] for span in affected or spans)]


def _questions_about(context: Context, text: str, count: int) -> list[tuple[str, str]]:
    """Questions, with their answers, that the model can only answer with the text in view."""
    if not text.strip():
        return []
    engine = context.engine
    pairs = SelfTest.of(engine, Document(text), AdmissionConfig(questions=count)).pairs
    bare = engine.generate([Request(question, max_tokens=32) for question, _ in pairs])
    return [pair for pair, answer in zip(pairs, bare, strict=True) if not contains(answer.text, [pair[1]])]


def _check(context: Context, question: str, answer: str) -> LeakCheck:
    (now,) = ask_many(context, [question], (), Sampling(max_tokens=32))
    return LeakCheck(question, bool(contains(now.text, [answer])), now.route, now.trace.memory_id)
