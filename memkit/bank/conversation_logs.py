"""Running memories: logs that grow, of who said what and when.

A log is a memory whose text is its entries' lines, in the order of their dates. A line is dated as the
running logs are that models are taught to read; whatever stands in an entry, it can add no line that
looks like another entry.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Row, Select, and_, func, insert, select, update

from memkit.bank import statements, vector_rows
from memkit.bank.catalog import AnyCatalog
from memkit.bank.policies import require_within
from memkit.bank.tables import artifacts, chunks, entries, memories
from memkit.bank.types import (
    Entry,
    MemoryInfo,
    Message,
    Vectors,
    check_chunks,
    check_line,
    check_tenant,
    memory_id_of,
    running_digest,
)
from memkit.document import Document, Span
from memkit.errors import ConfigError
from memkit.text.normalize import normalize

Embed: TypeAlias = Callable[[Document], tuple[Sequence[Span], NDArray[Any]]]
MAX_NAME, MAX_SPEAKER, MAX_KEY = 128, 64, 256  # characters
MAX_LOG = 5_000_000  # characters of all lines
CLOCK_TOLERANCE = timedelta(days=1)  # that a date may be after the clock's, for clocks that differ
_INDENT = "\n    "


@dataclass(frozen=True)
class _NewEntries:
    """An entry to be, checked; ``at`` is None for one that is said now."""

    text: str
    speaker: str
    at: int | None
    part: int
    zone: int = 0  # minutes east of UTC


class ConversationLogs:
    """The running memories of a bank."""

    def __init__(self, catalog: AnyCatalog) -> None:
        self._catalog = catalog

    def append(
        self,
        tenant: str,
        name: str,
        said: Sequence[Message],
        embed: Embed,
        *,
        embedder: str = "",
        key: str | None = None,
        now: datetime | None = None,
    ) -> MemoryInfo:
        """Add entries to the tenant's running memory of that name, which is made if there is none.

        All are added, or none. What is said now comes after all there is, even if the clock (``now``) went
        backwards; an entry with a date comes where that puts it. With a ``key`` a repeated call changes
        nothing. Raises `ConfigError` for a key that other entries have, and for a date that is not yet.
        """
        check_tenant(tenant)
        check_line("a running memory's name", name, MAX_NAME)
        if key is not None:
            check_line("a key", key, MAX_KEY)
        clock = statements.microseconds_of(now or datetime.now(UTC))
        drafts = [_draft(each, part, clock) for part, each in enumerate(said)]
        if not drafts:
            raise ConfigError("there is nothing to remember: give at least one entry")
        lines = {line(clock if d.at is None else d.at, d.speaker, d.text, d.zone) for d in drafts}
        made = {each: embed_chunks(Document(each), [Span(0, len(each))], embed) for each in lines}
        memory_id = memory_id_of(tenant, running_digest(name))
        with self._catalog.write() as connection:
            if key is None or not _known(connection, tenant, memory_id, key, drafts):
                vector_rows.require_embedder(connection, tenant, embedder)
                for draft in drafts:
                    _insert(connection, (tenant, memory_id, name), draft, clock, key, made, embed)
                require_within(connection, tenant)
            return statements.info(connection, tenant, memory_id)

    def find(self, tenant: str, name: str) -> MemoryInfo | None:
        """The tenant's running memory of that name, if there is one."""
        check_tenant(tenant)
        check_line("a running memory's name", name, MAX_NAME)
        with self._catalog.read() as connection:
            return statements.find(connection, tenant, memory_id_of(tenant, running_digest(name)))

    def known(self, tenant: str, name: str, key: str) -> bool:
        """Whether a call with that key was carried out."""
        check_tenant(tenant)
        memory_id = memory_id_of(tenant, running_digest(name))
        query = select(entries.c.part).where(_of(tenant, memory_id), entries.c.key == key)
        with self._catalog.read() as connection:
            return connection.execute(query.limit(1)).first() is not None

    def entries(self, tenant: str, memory_id: str) -> list[Entry]:
        """A running memory's entries in the order of their dates; none of a document."""
        check_tenant(tenant)
        with self._catalog.read() as connection:
            statements.info(connection, tenant, memory_id)
            return [_to_entry(row) for row in connection.execute(_entries(tenant, memory_id))]

    def snapshot(self, tenant: str, memory_id: str) -> tuple[Document, list[Entry]]:
        """A running memory's text and its entries, both of one moment."""
        check_tenant(tenant)
        with self._catalog.read() as connection:
            document = statements.source(connection, tenant, memory_id)
            return document, [_to_entry(row) for row in connection.execute(_entries(tenant, memory_id))]


def line(said: int, speaker: str, text: str, zone: int = 0) -> str:
    """An entry's line, dated by the day that it was for the speaker, ``zone`` minutes east of UTC.

    Further lines of its text are indented, so that none of them looks like an entry.
    """
    day = (statements.time_of(said) + timedelta(minutes=zone)).date()
    return f"{day.isoformat()} {speaker}: {_INDENT.join(text.splitlines())}"


def embed_chunks(document: Document, pieces: Sequence[Span], embed: Embed) -> tuple[list[Span], Vectors]:
    """Chunks, with vectors float32 [chunks, dim], none of which reaches over the border of two pieces."""
    spans, vectors = list[Span](), list[Vectors]()
    for piece in pieces:
        part = Document(document.text[piece.start : piece.end])
        found, rows = embed(part)
        vectors.append(check_chunks(part, found, rows))
        spans += [Span(piece.start + span.start, piece.start + span.end) for span in found]
    return spans, np.concatenate(vectors)


def chunk_spans(connection: Connection, tenant: str, memory_id: str, document: Document) -> list[Span]:
    """What is chunked apart: a running memory's entries, or the whole document."""
    rows = connection.execute(_entries(tenant, memory_id)).all()
    return [Span(row.start, row.end) for row in rows] or [Span(0, len(document.text))]


def _draft(said: Message, part: int, clock: int) -> _NewEntries:
    text = Document(said.text.strip() if isinstance(said.text, str) else "").text
    check_line("a speaker", said.speaker, MAX_SPEAKER)
    if said.when is None:
        return _NewEntries(text, said.speaker, None, part)
    try:
        at = statements.microseconds_of(said.when)
        late = statements.time_of(at) > statements.time_of(clock) + CLOCK_TOLERANCE
    except OverflowError as error:  # beyond the years that a date can have, in UTC
        raise ConfigError(f"{said.when} is no date that can be kept") from error
    if late:
        raise ConfigError(f"{said.when} has not come yet: a memory's date says when something was said")
    return _NewEntries(text, said.speaker, at, part, _zone(said.when))


def _zone(when: datetime) -> int:
    """Minutes east of UTC, of a time that keeps its day there."""
    zone = round((when.utcoffset() or timedelta()).total_seconds() / 60)
    try:
        _ = when.astimezone(UTC) + timedelta(minutes=zone)
    except OverflowError:
        return 0
    return zone


def _known(
    connection: Connection, tenant: str, memory_id: str, key: str, drafts: Sequence[_NewEntries]
) -> bool:
    """Whether a call with that key was carried out."""
    query = select(entries.c.text, entries.c.speaker).where(_of(tenant, memory_id), entries.c.key == key)
    found = [tuple(row) for row in connection.execute(query.order_by(entries.c.part))]
    same = [(normalize(text), speaker) for text, speaker in found]
    if found and same != [(normalize(draft.text), draft.speaker) for draft in drafts]:
        raise ConfigError(f"the key {key!r} was given with other entries: use a new one")
    return bool(found)


def _insert(
    connection: Connection,
    memory: tuple[str, str, str],
    draft: _NewEntries,
    clock: int,
    key: str | None,
    made: dict[str, tuple[list[Span], Vectors]],
    embed: Embed,
) -> None:
    tenant, memory_id, name = memory
    info = statements.find(connection, tenant, memory_id)
    at = _time(connection, tenant, memory_id, draft.at, clock)
    text = line(at, draft.speaker, draft.text, draft.zone)
    if info is not None and info.characters + len(text) >= MAX_LOG:
        raise ConfigError(
            f"the running memory {name!r} would have more than {MAX_LOG:,} characters: forget some of it, or "
            "begin another one"
        )
    if info is None:
        statements.insert_memory(connection, tenant, memory_id, Document(text, name), name)
        start = 0
    else:
        start = _make_room(connection, tenant, memory_id, at, text, info.characters)
    spans, vectors = made.get(text) or embed_chunks(Document(text), [Span(0, len(text))], embed)
    moved = [Span(start + span.start, start + span.end) for span in spans]
    vector_rows.insert_chunks(connection, tenant, memory_id, moved, vectors)
    place = {
        "tenant": tenant,
        "memory_id": memory_id,
        "number": _next(connection, tenant, memory_id),
        "said": at,
    }
    what = {"speaker": draft.speaker, "text": draft.text, "start": start, "end": start + len(text)}
    what["zone"] = draft.zone
    connection.execute(insert(entries).values(**place, **what, key=key, part=draft.part))


def _next(connection: Connection, tenant: str, memory_id: str) -> int:
    """A number that no entry has, nor had when an artifact saw it: the entry may have been erased."""
    seen = select(func.max(artifacts.c.through))
    seen = seen.where(artifacts.c.tenant == tenant, artifacts.c.memory_id == memory_id)
    last = select(func.max(entries.c.number)).where(_of(tenant, memory_id))
    return 1 + max(connection.execute(each).scalar() or 0 for each in (last, seen))


def _time(connection: Connection, tenant: str, memory_id: str, at: int | None, clock: int) -> int:
    """When an entry was said, no two at the same time; what has no date comes last."""
    if at is None:
        last = connection.execute(select(func.max(entries.c.said)).where(_of(tenant, memory_id))).scalar()
        return clock if last is None else max(clock, last + 1)
    later = select(entries.c.said).where(_of(tenant, memory_id), entries.c.said >= at)
    for taken in connection.execute(later.order_by(entries.c.said)).scalars():
        if taken != at:
            break
        at += 1
    return at


def _make_room(
    connection: Connection, tenant: str, memory_id: str, at: int, text: str, characters: int
) -> int:
    """Put a line into a memory's text and move what comes after it; where the line starts."""
    following = select(func.min(entries.c.start)).where(_of(tenant, memory_id), entries.c.said > at)
    start = connection.execute(following).scalar()
    one = and_(memories.c.tenant == tenant, memories.c.id == memory_id)
    if start is None:
        start, whole = characters + 1, memories.c.text + ("\n" + text)
    else:
        before, after = func.substr(memories.c.text, 1, start), func.substr(memories.c.text, start + 1)
        whole = before.concat(text + "\n").concat(after)
        shift(connection, tenant, memory_id, start, len(text) + 1)
        statements.next_generation(connection, tenant, cut=True)
    longer = update(memories).where(one).values(text=whole, characters=characters + len(text) + 1)
    connection.execute(longer)
    return int(start)


def shift(connection: Connection, tenant: str, memory_id: str, start: int, by: int) -> None:
    """Move the entries and chunks that begin at ``start`` or later; the caller tells of the change."""
    for table in (entries, chunks):
        this = and_(table.c.tenant == tenant, table.c.memory_id == memory_id, table.c.start >= start)
        connection.execute(
            update(table).where(this).values({"start": table.c.start + by, "end": table.c.end + by})
        )


def _entries(tenant: str, memory_id: str) -> Select[Any]:
    current = and_(
        artifacts.c.tenant == memories.c.tenant,
        artifacts.c.memory_id == memories.c.id,
        artifacts.c.version == memories.c.version,
    )
    same = and_(memories.c.tenant == entries.c.tenant, memories.c.id == entries.c.memory_id)
    return (
        select(entries, artifacts.c.through, artifacts.c.since)
        .join(memories, same)
        .join(artifacts, current, isouter=True)
        .where(_of(tenant, memory_id))
        .order_by(entries.c.said)
    )


def _of(tenant: str, memory_id: str) -> Any:
    return and_(entries.c.tenant == tenant, entries.c.memory_id == memory_id)


def _to_entry(row: Row[Any]) -> Entry:
    early = row.since is not None and row.said < row.since
    compiled = row.through is not None and row.number <= row.through and not early
    said, whole = statements.time_of(row.said), line(row.said, row.speaker, row.text, row.zone)
    return Entry(row.number, row.speaker, said, row.text, row.start, row.end, compiled, whole)
