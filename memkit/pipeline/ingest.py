"""Store documents, or entries of a running memory, with their vectors."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from memkit.bank import Bank, MemoryInfo, Message
from memkit.compilers.base import Progress, silent
from memkit.document import Document
from memkit.errors import ConfigError
from memkit.pipeline.compile import compile_memory, snapshot
from memkit.pipeline.context import Context
from memkit.pipeline.due import up_to_date
from memkit.recompile.advice import AdvisorConfig, reason_against, tabular
from memkit.router.embedders import Embedder
from memkit.router.indexing import index, index_entry, refresh
from memkit.text.messages import MessageLike, When, parse_messages, require_text

MAX_CHARACTERS = 5_000_000  # of one document
DEFAULT_MEMORY = "profile"  # the running memory of messages, if none is named


def remember(
    context: Context,
    document: str | Document | Sequence[MessageLike],
    *,
    memory: str | None,
    when: When | None,
    key: str | None,
    title: str,
    wait: bool,
    compile: bool,
    always: bool,
    progress: Progress = silent,
) -> MemoryInfo:
    """See `memkit.Memory.remember`; ``always`` compiles even if the advice is not to."""
    if memory is not None or not isinstance(document, str | Document):
        if title:
            raise ConfigError("a running memory has a name, not a title: leave `title` out")
        info = append_entries(context, DEFAULT_MEMORY if memory is None else memory, document, when, key)
    elif when is not None or key is not None:
        raise ConfigError("`when` and `key` belong to entries of a running memory: name one with `memory`")
    else:
        info = add_document(context, document, title)
        if not compile or up_to_date(context, info):
            return info
    if wait:
        declined = not always and objection(context, info.id)
        return info if declined else compile_memory(context, info.id, progress)[0]
    if not info.running:
        context.queue.compile(context.owner, info.id, always=always)
    return info


def objection(context: Context, memory_id: str) -> str:
    """Why a memory is not worth compiling, or "". Only the model's tokenizer is needed."""
    config = context.compiling.advisor or AdvisorConfig()
    info = context.bank.get(context.owner, memory_id)
    if not config.enabled:
        return ""
    source, _ = snapshot(context, info)
    tokens = context.embedded.count_tokens(source.text)
    return reason_against(info, tokens, tabular(source.text), config, datetime.now(UTC))


def add_document(context: Context, document: str | Document, title: str = "") -> MemoryInfo:
    """Store a document; ``title`` is that of a ``document`` given as text.

    Raises `DocumentError` for a text that cannot be stored, `ConfigError` for one that is too long.
    """
    if not isinstance(document, Document):
        document = Document(document, require_text("title", title))
    if len(document.text) > MAX_CHARACTERS:
        raise ConfigError(
            f"the document has {len(document.text):,} characters, the most is {MAX_CHARACTERS:,}; split it"
        )
    return store_documents(context.bank, context.owner, context.router.embedder, [document])[0]


def store_documents(
    bank: Bank, owner: str, embedder: Embedder, documents: Sequence[Document]
) -> list[MemoryInfo]:
    """Store documents and their vectors in one transaction. Raises `DocumentError`."""
    refresh(bank, owner, embedder)
    indexed = [(document, *index(document, embedder)) for document in documents]
    return bank.remember_many(owner, indexed, embedder=embedder.name)


def append_entries(
    context: Context,
    name: str,
    messages: str | Document | Sequence[MessageLike],
    when: When | None,
    key: str | None,
) -> MemoryInfo:
    """Append entries to the running memory ``name``.

    ``when`` is the date of messages that have none. Entries with a ``key`` that was used before are not
    added again. Raises `ConfigError` or `DocumentError`.
    """
    if isinstance(messages, str | Document):
        messages = [Message(messages if isinstance(messages, str) else messages.text)]
    embedder = context.router.embedder
    refresh(context.bank, context.owner, embedder)
    return context.bank.logs.append(
        context.owner,
        name,
        parse_messages(messages, when),
        lambda document: index_entry(document, embedder),
        embedder=embedder.name,
        key=key,
        now=context.clock(),
    )
