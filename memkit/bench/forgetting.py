"""Check that forgotten facts are gone: ``memkit bench forget``.

Facts of generated documents are remembered, compiled, asked, forgotten and asked again: whole documents, and
entries of running memories. Afterwards they are searched with every gate, in every remaining version, in
exports, in a later backup, and in all bytes of the bank's files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memkit import text_metrics
from memkit.artifact.signing import Signer, generate
from memkit.bank.bundle import export
from memkit.document import Span, sentences
from memkit.engine.base import Request
from memkit.errors import CompileError, VerificationError
from memkit.evals import records
from memkit.evals.records import Question, Record
from memkit.evals.timing import stamp
from memkit.memory import Memory
from memkit.router.gate import GateConfig

LOG = "notes"
GATES = ("auto", "rule")
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ForgetConfig:
    """``documents`` of eight facts; every other one is a running memory, of which half the facts are
    forgotten."""

    documents: int = 34
    model: str = "nano"
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.documents < 2:
            raise ValueError(f"documents must be at least 2, got {self.documents}")


@dataclass
class _Case:
    """One user's memory, with questions about facts that will be forgotten and that will be kept."""

    user: str
    memory_id: str
    forgotten: list[Question]
    kept: list[Question]
    spans: list[Span]  # to forget; none: the whole memory
    left: str  # the text that should remain
    before: int = 0  # questions that were answered before forgetting


def bench(config: ForgetConfig, progress: Progress = lambda label, done, total: None) -> dict[str, Any]:
    """Measure; returns ``{"bench": "forget", "rows": [...]}``."""
    documents = list(records.generated(config.documents, config.seed))
    with tempfile.TemporaryDirectory(prefix="memkit-forget-") as folder:
        root = Path(folder)
        with Memory(root / "bank", config.model, compiler="lcc", options=config.options) as memory:
            cases = list[_Case]()
            for number, record in enumerate(documents):
                progress("remember, compile and ask", number, len(documents))
                cases.append(_remembered(memory, record, number))
            for number, case in enumerate(cases):
                progress("forget, compile and ask", number, len(cases))
                user = memory.for_user(case.user)
                user.forget(case.memory_id, spans=case.spans or None, compile=False)
                for info in user.list_memories():
                    _compile(user, info.id)
            rows = list(_rows(memory, cases, root))
        fingerprint = memory.engine.fingerprint
    return {
        "bench": "forget",
        "model": config.model,
        "fingerprint": fingerprint,
        "seed": config.seed,
        **stamp(),
        "rows": rows,
    }


def _remembered(memory: Memory, record: Record, number: int) -> _Case:
    """Remember, compile, and count the questions that are answered before forgetting."""
    user = f"user {number}"
    own = memory.for_user(user)
    if number % 2 == 0:
        info = own.remember(record.context, compile=False)
        _compile(own, info.id)
        case = _Case(user, info.id, list(record.questions), [], [], "")
    else:
        lines = [record.context[s.start : s.end].strip() for s in sentences(record.context)]
        for line in lines:
            info = own.remember(line, memory=LOG)
        _compile(own, info.id)
        questions = list(record.questions[::2])
        entries = memory.bank.logs.entries(user, info.id)
        removed = [e for e in entries if any(text_metrics.contains(e.text, q.answers) for q in questions)]
        remaining = " ".join(e.text for e in entries if e not in removed)
        unaffected = [
            q for q in record.questions if q not in questions and text_metrics.contains(remaining, q.answers)
        ]
        case = _Case(user, info.id, questions, unaffected, [Span(e.start, e.end) for e in removed], remaining)
    case.before = sum(_is_right(own.ask(q.text).text, q) for q in case.forgotten)
    return case


def _compile(memory: Memory, memory_id: str) -> None:
    with suppress(CompileError, VerificationError):  # it is then answered from its text
        memory.compile(memory_id)


def _is_right(text: str, question: Question) -> bool:
    return bool(text_metrics.contains(text, question.answers))


def _rows(memory: Memory, cases: list[_Case], root: Path) -> Iterator[dict[str, Any]]:
    """The number of forgotten facts that are still found, by place."""
    facts = sum(len(case.forgotten) for case in cases)
    yield {"row": "before", "facts": facts, "answered": sum(case.before for case in cases)}
    for gate in GATES:
        answered = unaffected = 0
        for case in cases:
            settings: dict[str, Any] = {"user": case.user, "engine": memory.engine, "compiler": "lcc"}
            asking = Memory(memory.bank, gate=GateConfig(gate), **settings)
            answered += sum(_is_right(asking.ask(q.text).text, q) for q in case.forgotten)
            unaffected += sum(_is_right(asking.ask(q.text).text, q) for q in case.kept)
        others = sum(len(case.kept) for case in cases)
        yield {
            "row": f"gate {gate}",
            "facts": facts,
            "answered": answered,
            "kept_facts": others,
            "kept_answered": unaffected,
        }
    yield {"row": "versions", "facts": facts, "answered": sum(_in_versions(memory, case) for case in cases)}
    yield from _in_bytes(memory, cases, root)


def _in_versions(memory: Memory, case: _Case) -> int:
    """The number of forgotten questions that any remaining version answers."""
    user, answered = memory.for_user(case.user), set[str]()
    for info in user.list_memories():
        for version in memory.bank.versions.history(case.user, info.id):
            with memory.bank.artifact(case.user, info.id, version.version) as artifact:
                handle = memory.engine.attach(artifact)
            requests = [Request(q.text, handle=handle, max_tokens=32) for q in case.forgotten]
            completions = memory.engine.generate(requests)
            answered |= {
                q.text for q, s in zip(case.forgotten, completions, strict=True) if _is_right(s.text, q)
            }
            memory.engine.detach(handle)
    return len(answered)


def _in_bytes(memory: Memory, cases: list[_Case], root: Path) -> Iterator[dict[str, Any]]:
    """The number of forgotten answers found in files that were written before and after forgetting."""
    generate(root / "key")
    signer = Signer.from_file(root / "key")
    exports = list[bytes]()
    remaining = "\n".join(case.left for case in cases)
    for case in cases:
        for info in memory.for_user(case.user).list_memories():
            if info.version:
                exports.append(export(memory.bank, case.user, info.id, signer))
    memory.bank.backup(root / "backup")
    files = [p for p in (root / "bank").rglob("*") if p.is_file()]
    # Words that are short, or in another memory, would be found everywhere.
    forgotten = {
        a for case in cases for q in case.forgotten for a in q.answers if len(a) > 5 and a not in remaining
    }
    places = {
        "bank files": b"\0".join(p.read_bytes() for p in files),
        "exports": b"\0".join(exports),
        "backup": (root / "backup").read_bytes(),
    }
    for place, data in places.items():
        yield {"row": place, "facts": len(forgotten), "answered": sum(a.encode() in data for a in forgotten)}
