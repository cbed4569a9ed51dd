"""What is remembered on its way into the bank: a document, or entries of a running memory."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from memkit.bank import MemoryInfo, Message
from memkit.document import Document
from memkit.errors import ConfigError
from memkit.router.retrieval import index_entry, refresh
from memkit.text.messages import MessageLike, When, messages_of, require_text

if TYPE_CHECKING:
    from memkit.memory import Memory

MAX_CHARACTERS = 5_000_000  # of one document


def add_document(memory: Memory, given: str | Document, title: str) -> MemoryInfo:
    """Keep a document. Raises `DocumentError` for what is none, `ConfigError` for one that is too long."""
    made = given if isinstance(given, Document) else Document(given, require_text("title", title))
    if len(made.text) > MAX_CHARACTERS:
        raise ConfigError(
            f"the document has {len(made.text):,} characters, the most is {MAX_CHARACTERS:,}; split it"
        )
    return memory.router.remember(made)


def append_entries(
    memory: Memory,
    name: str,
    said: str | Document | Sequence[MessageLike],
    when: When | None,
    key: str | None,
    now: datetime,
) -> MemoryInfo:
    """Add entries to the running memory of that name. Raises `ConfigError` or `DocumentError`."""
    if isinstance(said, str | Document):
        said = [Message(said if isinstance(said, str) else said.text)]
    embedder = memory.router.embedder
    refresh(memory.bank, memory.owner, embedder)
    return memory.bank.logs.append(
        memory.owner,
        name,
        messages_of(said, when),
        lambda document: index_entry(document, embedder),
        embedder=embedder.name,
        key=key,
        now=now,
    )
