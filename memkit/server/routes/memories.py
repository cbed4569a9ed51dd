"""The memory API: remember, look, go back, forget."""

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
        403: "More than this tenant may have.",
        404: "There is no such thing for this user.",
        409: "It cannot be done with what is there.",
        413: "The body is too large.",
        429: "Too many requests of this key.",
        503: "Not now; try again.",
        504: "It took too long.",
    }.items()
}
Id = Annotated[str, Path(description="A memory's id.", examples=["0123456789abcdef"])]
Number = Annotated[int, Query(ge=1, description="One that the history shows.")]
_ID = re.compile(r"[0-9a-f]{16}")
routes = APIRouter(tags=["memories"], responses=ERRORS, route_class=JsonRoute)


@routes.get("/memories")
def list_memories(context: InContext) -> MemoriesOut:
    """List the user's memories, oldest first."""
    infos = context.services.bank.list(context.owner)
    return MemoriesOut(user=context.caller.user, memories=[memory_out(info) for info in infos])


@routes.post("/memories", status_code=201)
def remember(body: RememberBody, context: InContext) -> RememberedOut:
    """Remember a document, or add to a running memory. It can be asked about at once, from its text."""
    with context.memory() as memory:
        if body.text is not None and body.memory is None:
            info = memory.remember(Document(body.text, body.title), compile=False)
        else:
            info = memory.remember(_said(body), memory=body.memory, when=body.when, key=body.key)
    config = context.services.config
    due = body.compile and config.compiles and not info.version and not info.running
    job = compile_later(context, info.id) if due else None
    return RememberedOut(memory=memory_out(info), job=job)


@routes.delete("/memories")
def forget_all(
    context: InContext,
    all: Annotated[bool, Query(description="Must be true: it says that you mean it.")] = False,
) -> ForgottenOut:
    """Forget everything that the user has, in the namespaces of stores beneath them, too."""
    if not all:
        raise ApiError(
            400, "this forgets all of the user's memories: say so with ?all=true", "not_confirmed", "all"
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
    """Forget a part of a memory, with every version that saw it. What remains may have another id."""
    info = get_memory(context, memory_id)
    with context.memory() as memory:
        if body.matching is not None:
            return _forgotten(context, memory.forget_matching(info.id, body.matching, compile=False))
        spans = [Span(each.start, each.end) for each in body.spans]
        return _forgotten(context, memory.forget(info.id, spans=spans, compile=False))


@routes.get("/memories/{memory_id}/source")
def source(memory_id: Id, context: InContext) -> SourceOut:
    """Show a memory's source text, and of a running memory who said what when."""
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
    """Show what a memory's artifact says about itself: what it was made of, how, and what it showed."""
    info = get_memory(context, memory_id)
    with context.services.bank.artifact(context.owner, info.id, version) as found:
        manifest = found.manifest
        tensors = [
            {"name": t.name, "dtype": t.dtype, "axes": dict(zip(t.axes, t.shape, strict=True))}
            for t in manifest.tensors
        ]
        facts = {name: value for name, value in vars(manifest).items() if name not in ("tenant", "tensors")}
        return {"id": found.id, "nbytes": found.nbytes, **plain(_vars(facts)), "tensors": tensors}


@routes.get("/memories/{memory_id}/history")
def history(memory_id: Id, context: InContext) -> HistoryOut:
    """Show the versions of a memory's artifact that are kept, oldest first."""
    info = get_memory(context, memory_id)
    versions = context.services.bank.versions.history(context.owner, info.id)
    return HistoryOut(
        id=info.id, pinned=info.pinned, versions=[VersionOut.model_validate(each) for each in versions]
    )


@routes.get("/memories/{memory_id}/diff")
def diff(memory_id: Id, older: Number, newer: Number, context: InContext) -> DifferenceOut:
    """Compare two versions: what each was compiled from, and what it showed when it was admitted."""
    found = difference(context.services.bank, context.owner, get_memory(context, memory_id).id, older, newer)
    return DifferenceOut(
        older=older,
        newer=newer,
        added=[each.line for each in found.added],
        removed=[each.line for each in found.removed],
        figures=plain(found.fidelity),
    )


@routes.post("/memories/{memory_id}/rollback")
def rollback(memory_id: Id, body: RollbackBody, context: InContext) -> MemoryOut:
    """Let an earlier (or later) version answer. Its source does not change."""
    info = get_memory(context, memory_id)
    return memory_out(context.services.bank.versions.rollback(context.owner, info.id, body.version))


@routes.post("/memories/{memory_id}/pin")
def pin(memory_id: Id, body: PinBody, context: InContext) -> MemoryOut:
    """Let the current version answer until it is unpinned, whatever is compiled meanwhile."""
    info = get_memory(context, memory_id)
    return memory_out(context.services.bank.versions.pin(context.owner, info.id, body.pinned))


@routes.post("/memories/{memory_id}/compile", status_code=202)
def compile_memory(memory_id: Id, context: InContext) -> JobOut:
    """Compile a memory when its turn comes; ``/recompile/{id}`` tells how far it is."""
    info = get_memory(context, memory_id)
    job = compile_later(context, info.id, always=True)
    found = context.services.jobs.get(context.caller.group, job) if job else None
    if found is None:
        raise queue_full()
    return JobOut.model_validate(found)


def get_memory(context: RequestContext, memory_id: str) -> MemoryInfo:
    """The caller's memory of exactly that id; what is another's is as unknown as what is nobody's."""
    if not _ID.fullmatch(memory_id):
        raise NotFoundError(f"this user has no memory {memory_id!r:.80}; list the memories to see the ids")
    return context.services.bank.get(context.owner, memory_id)


def memory_out(info: MemoryInfo) -> MemoryOut:
    """A memory as the API gives it."""
    return MemoryOut.model_validate(info)


def compile_later(context: RequestContext, memory_id: str, *, always: bool = False) -> str | None:
    """The id of the job; None where the queue is full. Compiled is what is worth it, or ``always``.

    Raises `ApiError` where no model is here.
    """
    if context.services.config.upstream is not None:
        raise ApiError(
            409, "answers come from an upstream here: there is no model to compile for", "no_model"
        )
    job = context.services.jobs.compile(context.owner, memory_id, always=always)
    return job.id if job else None


def _said(body: RememberBody) -> str | list[MessageLike]:
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
