"""What the bank takes and gives, and the checks at its door."""

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
    """One memory as the catalog knows it; ``version`` 0 means that no artifact was published yet.

    ``error`` says why the latest compilation failed. A memory that has an artifact keeps it, and
    the status "compiled", when a later compilation fails. A running memory has a ``name``; of its
    ``entries``, the artifact has not seen the last ``behind`` that arrived. ``fingerprint`` is that of the
    model which the artifact was compiled for, where it is known. What is compiled while a memory is
    ``pinned`` does not become its current version. It was ``asked`` that many questions, the latest at
    ``last_asked``. ``attempt`` names the latest compilation, if that failed; ``changed`` is when the
    document was remembered, or the latest entry's date.
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
        """Whether this is a log that grows, and not a document."""
        return self.name is not None


@dataclass(frozen=True)
class Entry:
    """One entry of a running memory, ``number`` by arrival: characters ``[start, end)`` of its text.

    ``compiled``: the memory's artifact has seen it. ``line`` is what stands there.
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
    """What is to become an entry; without ``when`` it was said now. A time without a zone is UTC.

    An entry is dated by the day in the zone that ``when`` names: the speaker's own.
    """

    text: str
    speaker: str = "user"
    when: datetime | None = None


@dataclass(frozen=True)
class CompiledFrom:
    """What an artifact was compiled from, where that is not all there is, and what compiling took.

    Of a running memory: entries that arrived up to number ``through`` and were said at ``since`` or later.
    """

    through: int | None = None
    since: datetime | None = None
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
    """What a forget removed, without its content; ``left`` is the id of what stays of the memory."""

    memory_id: str
    artifacts_removed: int
    chunks_removed: int
    left: str | None = None


def check_tenant(tenant: str) -> str:
    """The tenant, or `ConfigError` when it cannot name one."""
    check_name("tenant", tenant)
    if not 1 <= len(tenant.encode()) <= MAX_OWNER:
        raise ConfigError(f"a tenant is a text of 1 to {MAX_OWNER:,} bytes, got {tenant!r:.80}")
    return tenant


def tenant_key(tenant: str) -> str:
    """A name for the tenant that tells nothing and is safe in paths: 64 hex digits."""
    return hashlib.sha256(tenant.encode()).hexdigest()


def memory_id_of(tenant: str, digest: str) -> str:
    """The id of that document for that tenant: 16 hex digits."""
    return hashlib.sha256(f"{tenant}\0{digest}".encode()).hexdigest()[:16]


def running_digest(name: str) -> str:
    """What stands for a running memory in place of its text's digest; no document has the same."""
    return hashlib.sha256(f"running\0{name}".encode()).hexdigest()


def check_line(what: str, text: str, most: int) -> str:
    """A short text on one line, as a name is; `ConfigError` for anything else."""
    if not isinstance(text, str) or not 1 <= len(text) <= most or not one_line(text) or is_blank(text):
        raise ConfigError(
            f"{what} is a text of 1 to {most} characters on one line, without control characters, "
            f"got {text!r:.80}"
        )
    return text


def one_line(text: str) -> bool:
    """Whether a text is whole, on one line and without control characters. Joiners and no-break spaces are
    of the text, as in Persian, in French and in most emoji."""
    return text.isprintable() or not any(unicodedata.category(each) in _BREAKING for each in text)


def memory_hash(tenant: str, memory_id: str) -> str:
    """What a tombstone keeps of a memory."""
    return hashlib.sha256(f"{tenant}\0{memory_id}".encode()).hexdigest()


def entry_key(memory_id: str, number: int) -> str:
    """What stands for one entry of a running memory where a tombstone is made of it."""
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
