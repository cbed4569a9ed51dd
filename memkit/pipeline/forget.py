"""Forget memories: their text, vectors, artifacts and attached handles."""

from __future__ import annotations

from collections.abc import Sequence

from memkit.bank import MemoryInfo, Receipt
from memkit.bank.conversation_logs import Embed
from memkit.bank.owners import Owner
from memkit.document import Span
from memkit.errors import ConfigError
from memkit.pipeline.context import Context
from memkit.router.indexing import index, refresh
from memkit.text.messages import require_text
from memkit.text.normalize import is_blank

ID_LENGTH = 16  # hex digits of a whole id


def forget(context: Context, memory_id: str, spans: Sequence[Span] | None, compile: bool) -> list[Receipt]:
    """See `memkit.Memory.forget`."""
    info = require_whole_id(context, memory_id)
    if spans is not None and not _are_spans(spans):
        raise ConfigError("spans is a list of at least one Span; leave it out to forget the whole memory")
    _release(context, [info])
    if spans is None:
        return context.bank.forget(context.owner, info.id)
    receipt = context.bank.deletion.erase(context.owner, info.id, spans, *_embed_function(context))
    return _recompile(context, receipt, compile)


def forget_matching(context: Context, memory_id: str, text: str, compile: bool) -> list[Receipt]:
    """See `memkit.Memory.forget_matching`."""
    info = require_whole_id(context, memory_id)
    if is_blank(require_text("text to forget", text)):
        raise ConfigError("the text to forget is empty")
    _release(context, [info])
    receipt = context.bank.deletion.scrub(context.owner, info.id, text, *_embed_function(context))
    return _recompile(context, receipt, compile)


def forget_all(context: Context) -> list[Receipt]:
    """See `memkit.Memory.forget_all`."""
    beneath = context.bank.beneath(context.whose.beneath)
    receipts = list[Receipt]()
    for each in (context, *(context.of(Owner.of(name)) for name in beneath)):
        _release(each, each.bank.list(each.owner))
        each.queue.discard(each.owner)
        receipts += context.bank.forget(each.owner)
    return receipts


def _are_spans(spans: object) -> bool:
    many = isinstance(spans, Sequence) and not isinstance(spans, str | bytes)
    return many and bool(spans) and all(isinstance(span, Span) for span in spans)  # type: ignore[attr-defined]


def _embed_function(context: Context) -> tuple[Embed, str]:
    """The function that embeds the remaining text, and the embedder's name."""
    embedder = context.router.embedder
    refresh(context.bank, context.owner, embedder)
    return (lambda document: index(document, embedder)), embedder.name


def require_whole_id(context: Context, memory_id: str) -> MemoryInfo:
    """The memory with this id, which must not be abbreviated, so that nothing is forgotten by mistake.

    Raises `ConfigError` for an abbreviated id, `NotFoundError` for an unknown one.
    """
    if not isinstance(memory_id, str) or not memory_id:
        raise ConfigError("name the memory to forget by its id; `forget_all` forgets everything")
    info = context.bank.get(context.owner, memory_id)
    if len(memory_id) != ID_LENGTH:
        raise ConfigError(f"{memory_id!r} is only the start of an id: to forget, give all of it")
    return info


def _release(context: Context, infos: Sequence[MemoryInfo]) -> None:
    """Detach every version of the memories and drop their waiting compilations."""
    engine = context.engines.loaded
    for info in infos:
        context.queue.discard(context.owner, info.id)
        if engine is not None:
            for version in context.bank.versions.history(context.owner, info.id):
                engine.discard(version.artifact_id)


def _recompile(context: Context, receipt: Receipt, compile: bool) -> list[Receipt]:
    """Queue the compilation of what remains of a memory that had an artifact."""
    if compile and receipt.left and receipt.artifacts_removed:
        context.queue.compile(context.owner, receipt.left)
    return [receipt]
