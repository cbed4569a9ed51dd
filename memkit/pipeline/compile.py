"""The way from a memory's source to its published artifact."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from memkit import registry
from memkit.artifact.format import Artifact
from memkit.bank import CompiledFrom, MemoryInfo
from memkit.compilers.base import Compiled, Progress
from memkit.document import Document
from memkit.errors import CompileError, VerificationError
from memkit.pipeline.admission import judge

if TYPE_CHECKING:
    from memkit.memory import Memory

CURVE = 32  # points of a loss curve that an artifact keeps, about
LOG_SHARE = 0.5  # of the model's window that the compiled part of a running memory may fill


def compile_memory(memory: Memory, info: MemoryInfo, progress: Progress) -> tuple[MemoryInfo, Compiled]:
    """Compile a memory and publish the artifact, if the admission gate lets it pass.

    Raises `CompileError` or `VerificationError`; the bank notes why then, and keeps what it had.
    """
    bank, user, engine = memory.bank, memory.owner, memory.local
    compiler = registry.compiler(memory.compiler, memory.options)
    source, seen = snapshot(memory, info)
    unfinished = bank.checkpoint_path(user, info.id)
    try:
        made = compiler.compile(source, engine.base, tenant=user, progress=progress, unfinished=unfinished)
        artifact = Artifact.decode(made.data)
        verdict = judge(engine, source, artifact, memory.admission)
        if verdict.refusal:
            raise VerificationError(f"the artifact was not published: {verdict.refusal}")
    except (CompileError, VerificationError) as error:
        unfinished.unlink(missing_ok=True)
        bank.fail(user, info.id, str(error), attempt_id(memory, source))
        memory.observer.refused(user, info, error)
        raise
    unfinished.unlink(missing_ok=True)
    verification = {**verdict.plain(), "curve": _thinned(made.curve)}
    data = artifact.with_manifest(replace(artifact.manifest, verification=verification))
    if memory.signer:
        data = memory.signer.sign(Artifact.decode(data))
    published = bank.publish(user, info.id, data, replace(seen, seconds=made.seconds, flops=made.flops))
    memory.observer.compiled(user, published, made, verification)
    return published, made


def _thinned(curve: Sequence[tuple[str, int, float]]) -> list[list[str | int | float]]:
    """At most `CURVE` points of a loss curve, the first and the last of each phase among them."""
    ends = {i for i, (phase, *_) in enumerate(curve) if i in (0, len(curve) - 1) or curve[i - 1][0] != phase}
    ends |= {i - 1 for i in ends if i}
    stride = max(1, math.ceil(len(curve) / (CURVE - min(len(ends), CURVE - 1))))
    return [list(point) for i, point in enumerate(curve) if i in ends or i % stride == 0]


def attempt_id(memory: Memory, source: Document) -> str:
    """Names a compilation: of what, how, and for which model; the same one would end the same way."""
    how = json.dumps([memory.compiler, memory.options], sort_keys=True, default=str)
    return hashlib.sha256(f"{how}\n{memory.local.fingerprint}\n{source.digest}".encode()).hexdigest()


def snapshot(memory: Memory, info: MemoryInfo) -> tuple[Document, CompiledFrom]:
    """What is compiled: a document, or as much of the end of a running memory as the model takes in."""
    if not info.running:
        return memory.bank.source(memory.owner, info.id), CompiledFrom()
    engine = memory.local
    document, entries = memory.bank.logs.snapshot(memory.owner, info.id)
    room, first = int(engine.window * LOG_SHARE), len(entries)
    while first and (room := room - engine.count_tokens(entries[first - 1].line)) >= 0:
        first -= 1
    first = min(first, len(entries) - 1)  # one entry that is too long is the compiler's to refuse
    through = max(entry.number for entry in entries)
    since = entries[first].said if first else None
    return Document(document.text[entries[first].start :], document.title), CompiledFrom(through, since)
