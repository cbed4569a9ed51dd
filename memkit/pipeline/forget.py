"""Forgetting, and asking afterwards whether it is forgotten."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memkit.bank import MemoryInfo, Receipt
from memkit.bank.conversation_logs import Embed
from memkit.bank.owners import Owner
from memkit.document import Document, Span, sentences
from memkit.engine.base import Request
from memkit.errors import ConfigError
from memkit.pipeline.admission import AdmissionConfig, SelfTest
from memkit.router.gate import Route
from memkit.router.retrieval import index, refresh
from memkit.text.messages import require_text
from memkit.text.normalize import is_blank, places
from memkit.text_metrics import contains

if TYPE_CHECKING:
    from memkit.memory import Memory


ID = 16  # hex digits


def forget(memory: Memory, memory_id: str, spans: Sequence[Span] | None, compile: bool) -> list[Receipt]:
    """See `Memory.forget`."""
    info = _exactly(memory, memory_id)
    if spans is not None and not _are_spans(spans):
        raise ConfigError("spans is a list of at least one Span; leave it out to forget the whole memory")
    _let_go(memory, [info])
    if spans is None:
        return memory.bank.forget(memory.owner, info.id)
    receipt = memory.bank.deletion.erase(memory.owner, info.id, spans, *_embedding(memory))
    return _again(memory, receipt, compile)


def forget_matching(memory: Memory, memory_id: str, text: str, compile: bool) -> list[Receipt]:
    """See `Memory.forget_matching`."""
    info = _exactly(memory, memory_id)
    if is_blank(require_text("text to forget", text)):
        raise ConfigError("the text to forget is empty")
    _let_go(memory, [info])
    receipt = memory.bank.deletion.scrub(memory.owner, info.id, text, *_embedding(memory))
    return _again(memory, receipt, compile)


def forget_all(memory: Memory) -> list[Receipt]:
    """See `Memory.forget_all`."""
    beneath = memory.bank.tenants_with_prefix(memory.whose.beneath)
    receipts = list[Receipt]()
    for each in (memory, *(memory.of(Owner.of(name)) for name in beneath)):
        _let_go(each, each.list())
        each.queue.forgotten(each.owner)
        receipts += memory.bank.forget(each.owner)
    return receipts


def _are_spans(spans: object) -> bool:
    many = isinstance(spans, Sequence) and not isinstance(spans, str | bytes)
    return many and bool(spans) and all(isinstance(span, Span) for span in spans)  # type: ignore[attr-defined]


def _embedding(memory: Memory) -> tuple[Embed, str]:
    """What makes the vectors of what remains, and its name."""
    embedder = memory.router.embedder
    refresh(memory.bank, memory.owner, embedder)
    return (lambda document: index(document, embedder)), embedder.name


def _exactly(memory: Memory, memory_id: str) -> MemoryInfo:
    """The memory of a whole id, so that nothing is forgotten by mistake."""
    if not isinstance(memory_id, str) or not memory_id:
        raise ConfigError("name the memory to forget by its id; `forget_all` forgets everything")
    info = memory.show(memory_id)
    if len(memory_id) != ID:
        raise ConfigError(f"{memory_id!r} is only the start of an id: to forget, give all of it")
    return info


def _let_go(memory: Memory, infos: Sequence[MemoryInfo]) -> None:
    """Detach every version, and drop what waits to be compiled."""
    engine = memory.ready
    for info in infos:
        memory.queue.forgotten(memory.owner, info.id)
        if engine is not None:
            for version in memory.bank.versions.history(memory.owner, info.id):
                engine.discard(version.artifact_id)


def _again(memory: Memory, receipt: Receipt, compile: bool) -> list[Receipt]:
    """Compile anew what remains of a memory that had an artifact."""
    if compile and receipt.left and receipt.artifacts_removed:
        memory.queue.compile(memory.owner, receipt.left)
    return [receipt]


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
    memory: Memory,
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
    _ = memory.engine  # a model that cannot be loaded is an error before anything is forgotten
    if matching is not None:
        receipts, asked = _matching(memory, memory_id, spans, matching, questions)
    else:
        asked = [
            pair for text in _doomed(memory, memory_id, spans) for pair in _told(memory, text, questions)
        ]
        receipts = memory.forget_all() if memory_id is None else memory.forget(memory_id, spans=spans or None)
    memory.wait()
    return ForgetReport(
        tuple(receipts), tuple(_check(memory, question, answer) for question, answer in asked)
    )


def _matching(
    memory: Memory, memory_id: str | None, spans: Sequence[Span], wanted: str, count: int
) -> tuple[list[Receipt], list[tuple[str, str]]]:
    """Forget a text in a memory; the receipts, and questions that what went has answered."""
    if memory_id is None or spans:
        raise ConfigError(
            "a text is forgotten in one memory and wherever it stands: name its id, and no spans"
        )
    info, logs = _exactly(memory, memory_id), memory.bank.logs
    text = memory.bank.source(memory.owner, info.id).text
    entries = logs.entries(memory.owner, info.id)
    receipts = memory.forget_matching(info.id, wanted)
    if receipts[-1].left is None:
        return receipts, _told(memory, text, count)
    if info.running:  # entries go whole, also for the sake of a speaker or a key
        kept = {entry.number for entry in logs.entries(memory.owner, info.id)}
        lines = [text[entry.start : entry.end] for entry in entries if entry.number not in kept]
        return receipts, _told(memory, "\n".join(lines), count)
    # Of a document the rest of the sentence stays: only what is answered by the text itself has to be gone.
    held = [(span.start, span.end) for span in sentences(text)]
    found = places(text, wanted)
    about = [text[a:b] for a, b in held if any(start < b and a < end for start, end in found)]
    pairs = _told(memory, "".join(about), count)
    return receipts, [pair for pair in pairs if places(pair[1], wanted) or places(wanted, pair[1])]


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


def _check(memory: Memory, question: str, answer: str) -> LeakCheck:
    said = memory.ask(question, max_tokens=32)
    return LeakCheck(question, bool(contains(said.text, [answer])), said.route, said.trace.memory_id)
