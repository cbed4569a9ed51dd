"""The memory API: remember, inspect, roll back, forget."""

from __future__ import annotations

import re
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query

from memkit.bank import MemoryInfo, Receipt
from memkit.bank.diff import difference
from memkit.document import Document, Span
from memkit.errors import NotFoundError
from memkit.serialization import plain
from memkit.server.api_errors import ApiError, queue_full
from memkit.server.dependencies import InContext, RequestContext
from memkit.server.request_body import JsonRoute
from memkit.server.schemas import (
    DifferenceOut,
    EntryOut,
    ErrorOut,
    ForgetBody,
    ForgottenOut,
    HistoryOut,
    JobOut,
    MemoriesOut,
    MemoryOut,
    PinBody,
    ReceiptOut,
    RememberBody,
    RememberedOut,
    RollbackBody,
    SourceOut,
    VersionOut,
)
from memkit.text.messages import MessageLike

ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorOut, "description": text}
    for code, text in {
        400: "The request is not valid.",
        401: "No valid API key.",
        403: "The tenant's quota is exceeded.",
        404: "This user has nothing of that name.",
        409: "Not possible in the current state.",
        413: "The body is too large.",
        429: "Too many requests with this key.",
        503: "Not available now; try again.",
        504: "It took too long.",
    }.items()
}
Id = Annotated[str, Path(description="A memory's id.", examples=["0123456789abcdef"])]
Number = Annotated[int, Query(ge=1, description="A version in the history.")]
_ID = re.compile(r"[0-9a-f]{16}")
routes = APIRouter(tags=["memories"], responses=ERRORS, route_class=JsonRoute)


@routes.get("/memories")
def list_memories(context: InContext) -> MemoriesOut:
    """List the user's memories, oldest first."""
    infos = context.services.bank.list(context.owner)
    return MemoriesOut(user=context.caller.user, memories=[memory_out(info) for info in infos])


@routes.post("/memories", status_code=201)
def remember(body: RememberBody, context: InContext) -> RememberedOut:
    """Store a document, or add to a running memory. Questions can use its text at once."""
    with context.memory() as memory:
        if body.text is not None and body.memory is None:
            info = memory.remember(Document(body.text, body.title), compile=False)
        else:
            info = memory.remember(_entries(body), memory=body.memory, when=body.when, key=body.key)
    config = context.services.config
    due = body.compile and config.compiles and not info.version and not info.running
    job = compile_later(context, info.id) if due else None
    return RememberedOut(memory=memory_out(info), job=job)


@routes.delete("/memories")
def forget_all(
    context: InContext,
    all: Annotated[bool, Query(description="Must be true, as a confirmation.")] = False,
) -> ForgottenOut:
    """Forget everything that the user has, including the namespaces of stores."""
    if not all:
        raise ApiError(
            400,
            "this would forget all of the user's memories: confirm with ?all=true",
            "not_confirmed",
            "all",
        )
    with context.memory() as memory:
        return _forgotten(context, memory.forget_all())


@routes.get("/memories/{memory_id}")
def show(memory_id: Id, context: InContext) -> MemoryOut:
    """Show one memory."""
    return memory_out(get_memory(context, memory_id))


@routes.delete("/memories/{memory_id}")
def forget(memory_id: Id, context: InContext) -> ForgottenOut:
    """Forget a memory: its text, vectors, and artifacts of all versions."""
    info = get_memory(context, memory_id)
    with context.memory() as memory:
        return _forgotten(context, memory.forget(info.id, compile=False))


@routes.post("/memories/{memory_id}/forget")
def forget_part(memory_id: Id, body: ForgetBody, context: InContext) -> ForgottenOut:
    """Forget part of a memory, with every version compiled from it. The rest may get another id."""
    info = get_memory(context, memory_id)
    with context.memory() as memory:
        if body.matching is not None:
            return _forgotten(context, memory.forget_matching(info.id, body.matching, compile=False))
        spans = [Span(each.start, each.end) for each in body.spans]
        return _forgotten(context, memory.forget(info.id, spans=spans, compile=False))


@routes.get("/memories/{memory_id}/source")
def source(memory_id: Id, context: InContext) -> SourceOut:
    """Show a memory's source text, and the entries of a running memory."""
    info, bank = get_memory(context, memory_id), context.services.bank
    document, entries = bank.logs.snapshot(context.owner, info.id)
    return SourceOut(
        id=info.id,
        title=document.title,
        digest=document.digest,
        text=document.text,
        entries=[EntryOut.model_validate(each) for each in entries],
    )


@routes.get("/memories/{memory_id}/artifact")
def artifact(
    memory_id: Id, context: InContext, version: Annotated[int | None, Query(ge=1)] = None
) -> dict[str, Any]:
    """Show the manifest of a memory's artifact: its sources, its settings and its test results."""
    info = get_memory(context, memory_id)
    with context.services.bank.artifact(context.owner, info.id, version) as artifact_file:
        manifest = artifact_file.manifest
        tensors = [
            {"name": t.name, "dtype": t.dtype, "axes": dict(zip(t.axes, t.shape, strict=True))}
            for t in manifest.tensors
        ]
        facts = {name: value for name, value in vars(manifest).items() if name not in ("tenant", "tensors")}
        return {
            "id": artifact_file.id,
            "nbytes": artifact_file.nbytes,
            **plain(_vars(facts)),
            "tensors": tensors,
        }


@routes.get("/memories/{memory_id}/history")
def history(memory_id: Id, context: InContext) -> HistoryOut:
    """Show the stored versions of a memory's artifact, oldest first."""
    info = get_memory(context, memory_id)
    versions = context.services.bank.versions.history(context.owner, info.id)
    return HistoryOut(
        id=info.id, pinned=info.pinned, versions=[VersionOut.model_validate(each) for each in versions]
    )


@routes.get("/memories/{memory_id}/diff")
def diff(memory_id: Id, older: Number, newer: Number, context: InContext) -> DifferenceOut:
    """Compare two versions: the sources each was compiled from, and its admission figures."""
    compared = difference(
        context.services.bank, context.owner, get_memory(context, memory_id).id, older, newer
    )
    return DifferenceOut(
        older=older,
        newer=newer,
        added=[each.line for each in compared.added],
        removed=[each.line for each in compared.removed],
        figures=plain(compared.fidelity),
    )


@routes.post("/memories/{memory_id}/rollback")
def rollback(memory_id: Id, body: RollbackBody, context: InContext) -> MemoryOut:
    """Answer from an earlier (or later) version. The source does not change."""
    info = get_memory(context, memory_id)
    return memory_out(context.services.bank.versions.rollback(context.owner, info.id, body.version))


@routes.post("/memories/{memory_id}/pin")
def pin(memory_id: Id, body: PinBody, context: InContext) -> MemoryOut:
    """Keep answering from the current version until it is unpinned, whatever is compiled meanwhile."""
    info = get_memory(context, memory_id)
    return memory_out(context.services.bank.versions.pin(context.owner, info.id, body.pinned))


@routes.post("/memories/{memory_id}/compile", status_code=202)
def compile_memory(memory_id: Id, context: InContext) -> JobOut:
    """Queue a memory for compilation; ``/recompile/{id}`` shows the progress."""
    info = get_memory(context, memory_id)
    job = compile_later(context, info.id, always=True)
    queued = context.services.jobs.get(context.caller.group, job) if job else None
    if queued is None:
        raise queue_full()
    return JobOut.model_validate(queued)


def get_memory(context: RequestContext, memory_id: str) -> MemoryInfo:
    """The caller's memory of that id. Others' memories are as unknown as absent ones: `NotFoundError`."""
    if not _ID.fullmatch(memory_id):
        raise NotFoundError(f"this user has no memory {memory_id!r:.80}; list the memories to see the ids")
    return context.services.bank.get(context.owner, memory_id)


def memory_out(info: MemoryInfo) -> MemoryOut:
    """A memory as the API gives it."""
    return MemoryOut.model_validate(info)


def compile_later(context: RequestContext, memory_id: str, *, always: bool = False) -> str | None:
    """Queue a memory, to be compiled if that is worthwhile or ``always``; returns the id of the job.

    None means that the queue is full. Raises `ApiError` where an upstream answers.
    """
    if context.services.config.upstream is not None:
        raise ApiError(
            409, "answers come from an upstream here: there is no model to compile for", "no_model"
        )
    job = context.services.jobs.compile(context.owner, memory_id, always=always)
    return job.id if job else None


def _entries(body: RememberBody) -> str | list[MessageLike]:
    if body.text is not None:
        return body.text
    return [each.model_dump() for each in body.messages or ()]


def _forgotten(context: RequestContext, receipts: list[Receipt]) -> ForgottenOut:
    for receipt in receipts:
        context.services.jobs.forgotten(context.owner, receipt.memory_id)
        if receipt.left and receipt.artifacts_removed and context.services.config.compiles:
            compile_later(context, receipt.left)
    return ForgottenOut(receipts=[ReceiptOut.model_validate(each) for each in receipts])


def _vars(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _vars(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_vars(item) for item in value]
    return vars(value) if hasattr(value, "__dataclass_fields__") else value
