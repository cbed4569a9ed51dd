"""The bank's data types, identifiers and input checks."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from memkit.bank.owners import MAX_OWNER, check_name
from memkit.document import Document, Span
from memkit.errors import ConfigError, DocumentError
from memkit.text.normalize import is_blank

Vectors: TypeAlias = NDArray[np.float32]
_BREAKING = {"Cc", "Cs", "Zl", "Zp"}  # control characters, lone surrogates, ends of lines and paragraphs


@dataclass(frozen=True)
class MemoryInfo:
    """One memory's row in the catalog.

    ``version`` is the current artifact's, 0 before the first one. When a later compilation fails, the memory
    keeps its artifact and the status "compiled"; ``error`` says why it failed, and ``attempt`` is a digest of
    what was tried. ``fingerprint`` is that of the base model that the artifact was compiled for, if known.
    While a memory is ``pinned``, a new version does not become the current one. Only a running memory has a
    ``name`` and ``entries``, of which the artifact was not compiled from the last ``behind``. ``asked``
    counts the questions it answered, the latest at ``last_asked``. ``changed`` is when the document was
    remembered, or the latest entry's date.
    """

    id: str
    tenant: str
    title: str
    digest: str
    characters: int
    status: Literal["text", "compiled", "failed"]
    artifact_id: str | None
    artifact_bytes: int | None
    compiler: str | None
    version: int
    error: str | None
    created: datetime
    name: str | None = None
    entries: int = 0
    behind: int = 0
    fingerprint: str | None = None
    pinned: bool = False
    asked: int = 0
    last_asked: datetime | None = None
    attempt: str | None = None
    changed: datetime | None = None

    @property
    def running(self) -> bool:
        """Whether this is a running memory, not a document."""
        return self.name is not None


@dataclass(frozen=True)
class Entry:
    """One entry of a running memory.

    ``number`` is its place in insertion order. Its ``line`` is the characters ``[start, end)`` of the
    memory's text. ``compiled`` tells whether the current artifact was compiled from it.
    """

    number: int
    speaker: str
    said: datetime
    text: str
    start: int
    end: int
    compiled: bool
    line: str


@dataclass(frozen=True)
class Message:
    """A message to append to a running memory.

    ``when`` is None for now; a time without a zone is UTC. The entry's line shows the day in the zone of
    ``when``, which should be the speaker's own.
    """

    text: str
    speaker: str = "user"
    when: datetime | None = None


@dataclass(frozen=True)
class CompiledFrom:
    """The part of a running memory that an artifact was compiled from, and what compiling cost."""

    through: int | None = None  # number of the last entry, in insertion order
    since: datetime | None = None  # entries that were said earlier were left out
    seconds: float | None = None
    flops: float | None = None


@dataclass(frozen=True)
class Hit:
    """A chunk found by search: characters ``[start, end)`` of the memory's document."""

    memory_id: str
    chunk: int
    start: int
    end: int
    score: float


@dataclass(frozen=True)
class Receipt:
    """What a forget removed, without content; ``left`` is the id of the memory that remains of it, if any."""

    memory_id: str
    artifacts_removed: int
    chunks_removed: int
    left: str | None = None


def check_tenant(tenant: str) -> str:
    """Return the tenant's name if it is valid. Raises `ConfigError`."""
    check_name("tenant", tenant)
    if not 1 <= len(tenant.encode()) <= MAX_OWNER:
        raise ConfigError(f"a tenant is a text of 1 to {MAX_OWNER:,} bytes, got {tenant!r:.80}")
    return tenant


def tenant_key(tenant: str) -> str:
    """SHA-256 of a tenant's name, 64 hex digits: stands for it in paths and in rows that outlive it."""
    return hashlib.sha256(tenant.encode()).hexdigest()


def memory_id_of(tenant: str, digest: str) -> str:
    """The id of a document with that digest for that tenant: 16 hex digits."""
    return hashlib.sha256(f"{tenant}\0{digest}".encode()).hexdigest()[:16]


def running_digest(name: str) -> str:
    """The digest of a running memory, made from its name; no document has the same."""
    return hashlib.sha256(f"running\0{name}".encode()).hexdigest()


def check_line(what: str, text: str, most: int) -> str:
    """Return ``text`` if it is one line of at most ``most`` characters; ``what`` names it in the
    `ConfigError`."""
    if not isinstance(text, str) or not 1 <= len(text) <= most or not one_line(text) or is_blank(text):
        raise ConfigError(
            f"{what} is a text of 1 to {most} characters on one line, without control characters, "
            f"got {text!r:.80}"
        )
    return text


def one_line(text: str) -> bool:
    """Whether a text is a single line without control characters or lone surrogates.

    Joiners and no-break spaces are allowed: Persian, French and most emoji need them.
    """
    return text.isprintable() or not any(unicodedata.category(each) in _BREAKING for each in text)


def memory_hash(tenant: str, memory_id: str) -> str:
    """The hash of a memory that a tombstone stores."""
    return hashlib.sha256(f"{tenant}\0{memory_id}".encode()).hexdigest()


def entry_key(memory_id: str, number: int) -> str:
    """The id of one entry of a running memory in the hash of its tombstone."""
    return f"{memory_id}:{number}"


def check_title(document: Document) -> None:
    """Raise `DocumentError` when the title cannot be stored."""
    if "\x00" in document.title:  # PostgreSQL keeps none
        raise DocumentError("the title holds a NUL character")
    try:
        document.title.encode()
    except UnicodeEncodeError as error:
        raise DocumentError(f"the title holds a lone surrogate at character {error.start}") from error


def check_chunks(document: Document, chunks: Sequence[Span], embeddings: NDArray[Any]) -> Vectors:
    """The embeddings as float32 [chunks, dim], or `ConfigError` when they do not fit the chunks."""
    if not chunks:
        raise ConfigError("a memory needs at least one chunk, or no search can find it")
    for span in chunks:
        if not 0 <= span.start < span.end <= len(document.text):
            raise ConfigError(f"{span} lies outside the document's {len(document.text)} characters")
    if embeddings.ndim != 2 or len(embeddings) != len(chunks) or not embeddings.shape[1]:
        raise ConfigError(f"embeddings must be [{len(chunks)}, dim], got {list(embeddings.shape)}")
    if not np.all(np.isfinite(embeddings)):
        raise ConfigError("embeddings must be finite numbers")
    return np.ascontiguousarray(embeddings, dtype="<f4")


def check_query(vector: NDArray[Any], k: int) -> Vectors:
    """The query as float32 [1, dim], or `ConfigError`."""
    if k < 1:
        raise ConfigError(f"k must be at least 1, got {k}")
    if vector.ndim != 1 or not vector.size or not np.all(np.isfinite(vector)):
        raise ConfigError(f"a query is a finite vector [dim], got {list(vector.shape)}")
    return np.ascontiguousarray(vector[None, :], dtype=np.float32)
