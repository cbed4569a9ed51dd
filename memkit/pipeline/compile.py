"""Compile a memory's source into an artifact, test it and publish it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import replace

from memkit import registry
from memkit.artifact.format import Artifact
from memkit.bank import CompiledFrom, MemoryInfo
from memkit.compilers.base import Compiled, Progress, Step
from memkit.document import Document
from memkit.errors import CompileError, VerificationError
from memkit.pipeline.admission import judge, usual_test
from memkit.pipeline.context import Context

CURVE_POINTS = 32  # of the loss curve that an artifact stores, about
WINDOW_SHARE = 0.5  # of the model's window, for the compiled part of a running memory


def compile_memory(context: Context, memory_id: str, progress: Progress) -> tuple[MemoryInfo, Compiled]:
    """Compile a memory while holding its lease, so that no other process compiles it at the same time.

    ``progress`` is called after each step. Raises what `publish` raises, `NotFoundError`, and
    `BankBusyError` if another process holds the lease.
    """
    info = context.bank.get(context.owner, memory_id)
    context = context.compiled_by(context.choice().name)
    with context.bank.leases.take(context.owner, info.id) as lease:

        def step(done: Step) -> None:
            lease.renew()
            progress(done)

        return publish(context, info, step)


def publish(context: Context, info: MemoryInfo, progress: Progress) -> tuple[MemoryInfo, Compiled]:
    """Compile a memory and publish the artifact if it passes the admission tests.

    Raises `CompileError` or `VerificationError`; the bank then stores the reason and keeps the current
    version.
    """
    bank, owner, engine, compiling = context.bank, context.owner, context.embedded, context.compiling
    compiler = registry.compiler(compiling.compiler, compiling.options)
    test = usual_test(compiling.admission, engine.fingerprint, compiling.compiler)
    source, compiled_from = snapshot(context, info)
    unfinished = bank.checkpoint_path(owner, info.id)
    try:
        compiled = compiler.compile(
            source, engine.base, tenant=owner, progress=progress, unfinished=unfinished
        )
        artifact = Artifact.decode(compiled.data)
        verdict = judge(engine, source, artifact, test, progress)
        if verdict.refusal:
            raise VerificationError(f"the artifact was not published: {verdict.refusal}")
    except (CompileError, VerificationError) as error:
        unfinished.unlink(missing_ok=True)
        bank.fail(owner, info.id, str(error), attempt_id(context, source))
        context.observer.refused(owner, info, error)
        raise
    unfinished.unlink(missing_ok=True)
    verification = {**verdict.plain(), "curve": _thin(compiled.curve)}
    data = artifact.with_manifest(replace(artifact.manifest, verification=verification))
    if compiling.signer:
        data = compiling.signer.sign(Artifact.decode(data))
    cost = replace(compiled_from, seconds=compiled.seconds, flops=compiled.flops)
    published = bank.publish(owner, info.id, data, cost)
    context.observer.compiled(owner, published, compiled, verification)
    return published, compiled


def _thin(curve: Sequence[tuple[str, int, float]]) -> list[list[str | int | float]]:
    """At most `CURVE_POINTS` points of a loss curve, including the first and last of each phase."""
    ends = {i for i, (phase, *_) in enumerate(curve) if i in (0, len(curve) - 1) or curve[i - 1][0] != phase}
    ends |= {i - 1 for i in ends if i}
    stride = max(1, math.ceil(len(curve) / (CURVE_POINTS - min(len(ends), CURVE_POINTS - 1))))
    return [list(point) for i, point in enumerate(curve) if i in ends or i % stride == 0]


def attempt_id(context: Context, source: Document) -> str:
    """A digest of source, settings and model: a compilation with the same id would end the same way."""
    settings = [context.compiling.compiler, context.compiling.options]
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(f"{text}\n{context.embedded.fingerprint}\n{source.digest}".encode()).hexdigest()


def snapshot(context: Context, info: MemoryInfo) -> tuple[Document, CompiledFrom]:
    """The text to compile: a document, or the latest entries of a running memory that fit the window."""
    if not info.running:
        return context.bank.source(context.owner, info.id), CompiledFrom()
    engine = context.embedded
    document, entries = context.bank.logs.snapshot(context.owner, info.id)
    room, first = int(engine.window * WINDOW_SHARE), len(entries)
    while first and (room := room - engine.count_tokens(entries[first - 1].line)) >= 0:
        first -= 1
    first = min(first, len(entries) - 1)  # the compiler refuses a single entry that is too long
    through = max(entry.number for entry in entries)
    since = entries[first].said if first else None
    return Document(document.text[entries[first].start :], document.title), CompiledFrom(through, since)
