"""Is what was forgotten still answered? ``memkit bench forget``.

Facts of generated documents are remembered and compiled, asked, forgotten and asked again: whole documents,
and entries of running memories. Afterwards they are looked for by every gate, in every version that is
left, in exports, in a backup made later, and in every byte of the bank's files.
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
from memkit.router.gate import GateConfig, GateName

LOG = "notes"
GATES: tuple[GateName, ...] = ("auto", "rule")
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ForgetConfig:
    """``documents`` of eight facts; every other one is a running memory of which half the facts go."""

    documents: int = 34
    model: str = "nano"
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.documents < 2:
            raise ValueError(f"documents must be at least 2, got {self.documents}")


@dataclass
class _Case:
    """One user's memory, with the questions that are to be forgotten and those that stay."""

    user: str
    memory_id: str
    doomed: list[Question]
    kept: list[Question]
    spans: list[Span]  # none: all of it
    left: str  # what should remain
    before: int = 0


def bench(config: ForgetConfig, progress: Progress = lambda label, done, total: None) -> dict[str, Any]:
    """Measure; returns ``{"bench": "forget", "rows": [...]}``."""
    found = list(records.generated(config.documents, config.seed))
    with tempfile.TemporaryDirectory(prefix="memkit-forget-") as folder:
        root = Path(folder)
        with Memory(root / "bank", config.model, options=config.options) as memory:
            cases = list[_Case]()
            for number, record in enumerate(found):
                progress("remember, compile and ask", number, len(found))
                cases.append(_remembered(memory, record, number))
            for number, case in enumerate(cases):
                progress("forget, compile and ask", number, len(cases))
                mine = memory.for_user(case.user)
                mine.forget(case.memory_id, spans=case.spans or None, compile=False)
                for info in mine.list_memories():
                    _compile(mine, info.id)
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
    """Remember, compile, and count what is answered before."""
    user = f"user {number}"
    mine = memory.for_user(user)
    if number % 2 == 0:
        info = mine.remember(record.context, compile=False)
        _compile(mine, info.id)
        case = _Case(user, info.id, list(record.questions), [], [], "")
    else:
        lines = [record.context[s.start : s.end].strip() for s in sentences(record.context)]
        for line in lines:
            info = mine.remember(line, memory=LOG)
        _compile(mine, info.id)
        doomed = list(record.questions[::2])
        entries = memory.bank.logs.entries(user, info.id)
        gone = [e for e in entries if any(text_metrics.contains(e.text, q.answers) for q in doomed)]
        left = " ".join(e.text for e in entries if e not in gone)
        kept = [q for q in record.questions if q not in doomed and text_metrics.contains(left, q.answers)]
        case = _Case(user, info.id, doomed, kept, [Span(e.start, e.end) for e in gone], left)
    case.before = sum(_says(mine.ask(q.text).text, q) for q in case.doomed)
    return case


def _compile(memory: Memory, memory_id: str) -> None:
    with suppress(CompileError, VerificationError):  # it stays on its text then
        memory.compile(memory_id)


def _says(text: str, asked: Question) -> bool:
    return bool(text_metrics.contains(text, asked.answers))


def _rows(memory: Memory, cases: list[_Case], root: Path) -> Iterator[dict[str, Any]]:
    """How many of the facts come back, by where they are looked for."""
    facts = sum(len(case.doomed) for case in cases)
    yield {"row": "before", "facts": facts, "answered": sum(case.before for case in cases)}
    for gate in GATES:
        answered = kept = 0
        for case in cases:
            settings: dict[str, Any] = {"user": case.user, "engine": memory.engine, "options": memory.options}
            asking = Memory(memory.bank, gate=GateConfig(gate), **settings)
            answered += sum(_says(asking.ask(q.text).text, q) for q in case.doomed)
            kept += sum(_says(asking.ask(q.text).text, q) for q in case.kept)
        others = sum(len(case.kept) for case in cases)
        yield {
            "row": f"gate {gate}",
            "facts": facts,
            "answered": answered,
            "kept_facts": others,
            "kept_answered": kept,
        }
    yield {"row": "versions", "facts": facts, "answered": sum(_in_versions(memory, case) for case in cases)}
    yield from _in_bytes(memory, cases, root)


def _in_versions(memory: Memory, case: _Case) -> int:
    """Questions that some version of what is left answers."""
    mine, answered = memory.for_user(case.user), set[str]()
    for info in mine.list_memories():
        for version in memory.bank.versions.history(case.user, info.id):
            with memory.bank.artifact(case.user, info.id, version.version) as artifact:
                handle = memory.engine.attach(artifact)
            requests = [Request(q.text, handle=handle, max_tokens=32) for q in case.doomed]
            said = memory.engine.generate(requests)
            answered |= {q.text for q, s in zip(case.doomed, said, strict=True) if _says(s.text, q)}
            memory.engine.detach(handle)
    return len(answered)


def _in_bytes(memory: Memory, cases: list[_Case], root: Path) -> Iterator[dict[str, Any]]:
    """Answers that nobody may know any more, in files made before and after."""
    generate(root / "key")
    signer = Signer.from_file(root / "key")
    exports = list[bytes]()
    known = "\n".join(case.left for case in cases)
    for case in cases:
        for info in memory.for_user(case.user).list_memories():
            if info.version:
                exports.append(export(memory.bank, case.user, info.id, signer))
    memory.bank.backup(root / "backup")
    files = [p for p in (root / "bank").rglob("*") if p.is_file()]
    # Words that another memory still holds, or that are short, are found everywhere.
    gone = {a for case in cases for q in case.doomed for a in q.answers if len(a) > 5 and a not in known}
    places = {
        "bank files": b"\0".join(p.read_bytes() for p in files),
        "exports": b"\0".join(exports),
        "backup": (root / "backup").read_bytes(),
    }
    for place, data in places.items():
        yield {"row": place, "facts": len(gone), "answered": sum(a.encode() in data for a in gone)}
