"""Running memories: append-only logs of who said what and when.

The text of a log is one line for each entry, ordered by date: ``2026-05-01 user: ...``. Further lines of an
entry's text are indented, so that no content can imitate another entry.
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
CLOCK_TOLERANCE = timedelta(days=1)  # a date may be this far ahead of this machine's clock
_INDENT = "\n    "


@dataclass(frozen=True)
class _Draft:
    """A validated message that is to become an entry."""

    text: str
    speaker: str
    at: int | None  # microseconds since 1970; None for now
    part: int  # its number among the messages of one call
    zone: int = 0  # minutes east of UTC


class ConversationLogs:
    """The running memories of a bank."""

    def __init__(self, catalog: AnyCatalog) -> None:
        self._catalog = catalog

    def append(
        self,
        tenant: str,
        name: str,
        messages: Sequence[Message],
        embed: Embed,
        *,
        embedder: str = "",
        key: str | None = None,
        now: datetime | None = None,
    ) -> MemoryInfo:
        """Append entries to the tenant's running memory ``name``, creating it if necessary.

        All entries are added, or none. A message without a date gets the time ``now`` (default: the clock's)
        and follows all other entries, even if the clock went backwards; a dated one is inserted at its date.
        ``embed`` chunks and embeds an entry and ``embedder`` names what it embeds with. A repeated call with
        the same ``key`` changes nothing.

        Raises `ConfigError` for an invalid name or message, a date in the future, a key that was used for
        other entries or another embedder than the tenant's, and `QuotaError` beyond the tenant's limits.
        """
        check_tenant(tenant)
        check_line("a running memory's name", name, MAX_NAME)
        if key is not None:
            check_line("a key", key, MAX_KEY)
        clock = statements.microseconds_of(now or datetime.now(UTC))
        drafts = [_draft(message, part, clock) for part, message in enumerate(messages)]
        if not drafts:
            raise ConfigError("there is nothing to remember: give at least one entry")
        lines = {line(clock if d.at is None else d.at, d.speaker, d.text, d.zone) for d in drafts}
        # Embedded before the write lock is taken; an entry's line changes only if the clock went backwards.
        embedded = {each: embed_chunks(Document(each), [Span(0, len(each))], embed) for each in lines}
        memory_id = memory_id_of(tenant, running_digest(name))
        with self._catalog.write() as connection:
            if key is None or not _is_repeated(connection, tenant, memory_id, key, drafts):
                vector_rows.require_embedder(connection, tenant, embedder)
                for draft in drafts:
                    _insert(connection, (tenant, memory_id, name), draft, clock, key, embedded, embed)
                require_within(connection, tenant)
            return statements.info(connection, tenant, memory_id)

    def find(self, tenant: str, name: str) -> MemoryInfo | None:
        """The tenant's running memory with that name; None if there is none."""
        check_tenant(tenant)
        check_line("a running memory's name", name, MAX_NAME)
        with self._catalog.read() as connection:
            return statements.find(connection, tenant, memory_id_of(tenant, running_digest(name)))

    def known(self, tenant: str, name: str, key: str) -> bool:
        """Whether `append` was completed with that key."""
        check_tenant(tenant)
        memory_id = memory_id_of(tenant, running_digest(name))
        query = select(entries.c.part).where(_of(tenant, memory_id), entries.c.key == key)
        with self._catalog.read() as connection:
            return connection.execute(query.limit(1)).first() is not None

    def entries(self, tenant: str, memory_id: str) -> list[Entry]:
        """A running memory's entries, ordered by date; none for a document."""
        check_tenant(tenant)
        with self._catalog.read() as connection:
            statements.info(connection, tenant, memory_id)
            return [_to_entry(row) for row in connection.execute(_entries(tenant, memory_id))]

    def snapshot(self, tenant: str, memory_id: str) -> tuple[Document, list[Entry]]:
        """A running memory's text and its entries, in one transaction."""
        check_tenant(tenant)
        with self._catalog.read() as connection:
            document = statements.source(connection, tenant, memory_id)
            return document, [_to_entry(row) for row in connection.execute(_entries(tenant, memory_id))]


def line(said: int, speaker: str, text: str, zone: int = 0) -> str:
    """An entry's line in the log. Further lines of its ``text`` are indented.

    ``said`` is in microseconds since 1970; the line shows the day in the speaker's ``zone``, in minutes east
    of UTC.
    """
    day = (statements.time_of(said) + timedelta(minutes=zone)).date()
    return f"{day.isoformat()} {speaker}: {_INDENT.join(text.splitlines())}"


def embed_chunks(document: Document, parts: Sequence[Span], embed: Embed) -> tuple[list[Span], Vectors]:
    """Chunk and embed each of the ``parts`` of a document: spans, and vectors float32 [chunks, dim]."""
    spans, vectors = list[Span](), list[Vectors]()
    for part in parts:
        piece = Document(document.text[part.start : part.end])
        chunks, rows = embed(piece)
        vectors.append(check_chunks(piece, chunks, rows))
        spans += [Span(part.start + chunk.start, part.start + chunk.end) for chunk in chunks]
    return spans, np.concatenate(vectors)


def chunk_spans(connection: Connection, tenant: str, memory_id: str, document: Document) -> list[Span]:
    """The parts of a memory that are chunked separately: a log's entries, or the whole document."""
    rows = connection.execute(_entries(tenant, memory_id)).all()
    return [Span(row.start, row.end) for row in rows] or [Span(0, len(document.text))]


def _draft(message: Message, part: int, clock: int) -> _Draft:
    text = Document(message.text.strip() if isinstance(message.text, str) else "").text
    check_line("a speaker", message.speaker, MAX_SPEAKER)
    if message.when is None:
        return _Draft(text, message.speaker, None, part)
    try:
        at = statements.microseconds_of(message.when)
        future = statements.time_of(at) > statements.time_of(clock) + CLOCK_TOLERANCE
    except OverflowError as error:  # outside the range of datetime in UTC
        raise ConfigError(f"{message.when} is outside the range of dates that can be stored") from error
    if future:
        raise ConfigError(f"{message.when} is in the future: give the date when it was said")
    return _Draft(text, message.speaker, at, part, _zone(message.when))


def _zone(when: datetime) -> int:
    """The zone of a time in minutes east of UTC; 0 where the local date would leave datetime's range."""
    zone = round((when.utcoffset() or timedelta()).total_seconds() / 60)
    try:
        _ = when.astimezone(UTC) + timedelta(minutes=zone)
    except OverflowError:
        return 0
    return zone


def _is_repeated(
    connection: Connection, tenant: str, memory_id: str, key: str, drafts: Sequence[_Draft]
) -> bool:
    """Whether a call with that key was completed. Raises `ConfigError` if it was with other entries."""
    query = select(entries.c.text, entries.c.speaker).where(_of(tenant, memory_id), entries.c.key == key)
    stored = [tuple(row) for row in connection.execute(query.order_by(entries.c.part))]
    normalized = [(normalize(text), speaker) for text, speaker in stored]
    if stored and normalized != [(normalize(draft.text), draft.speaker) for draft in drafts]:
        raise ConfigError(f"the key {key!r} was given with other entries: use a new one")
    return bool(stored)


def _insert(
    connection: Connection,
    memory: tuple[str, str, str],
    draft: _Draft,
    clock: int,
    key: str | None,
    embedded: dict[str, tuple[list[Span], Vectors]],
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
    spans, vectors = embedded.get(text) or embed_chunks(Document(text), [Span(0, len(text))], embed)
    moved = [Span(start + span.start, start + span.end) for span in spans]
    vector_rows.insert_chunks(connection, tenant, memory_id, moved, vectors)
    connection.execute(
        insert(entries).values(
            tenant=tenant,
            memory_id=memory_id,
            number=_next_number(connection, tenant, memory_id),
            said=at,
            speaker=draft.speaker,
            text=draft.text,
            start=start,
            end=start + len(text),
            zone=draft.zone,
            key=key,
            part=draft.part,
        )
    )


def _next_number(connection: Connection, tenant: str, memory_id: str) -> int:
    """A number that no entry has, and none that an artifact was compiled from and that was erased since."""
    through = select(func.max(artifacts.c.through))
    through = through.where(artifacts.c.tenant == tenant, artifacts.c.memory_id == memory_id)
    last = select(func.max(entries.c.number)).where(_of(tenant, memory_id))
    return 1 + max(connection.execute(each).scalar() or 0 for each in (last, through))


def _time(connection: Connection, tenant: str, memory_id: str, at: int | None, clock: int) -> int:
    """The time of a new entry, unique in its log; one without a date comes last."""
    if at is None:
        last = connection.execute(select(func.max(entries.c.said)).where(_of(tenant, memory_id))).scalar()
        return clock if last is None else max(clock, last + 1)
    later = select(entries.c.said).where(_of(tenant, memory_id), entries.c.said >= at)
    for said in connection.execute(later.order_by(entries.c.said)).scalars():
        if said != at:
            break
        at += 1
    return at


def _make_room(
    connection: Connection, tenant: str, memory_id: str, at: int, text: str, characters: int
) -> int:
    """Insert a line into a log's text, shifting what follows; returns the line's start."""
    following = select(func.min(entries.c.start)).where(_of(tenant, memory_id), entries.c.said > at)
    start = connection.execute(following).scalar()
    one = and_(memories.c.tenant == tenant, memories.c.id == memory_id)
    if start is None:
        start, new_text = characters + 1, memories.c.text + ("\n" + text)
    else:
        before, after = func.substr(memories.c.text, 1, start), func.substr(memories.c.text, start + 1)
        new_text = before.concat(text + "\n").concat(after)
        shift(connection, tenant, memory_id, start, len(text) + 1)
        statements.next_generation(connection, tenant, cut=True)
    longer = update(memories).where(one).values(text=new_text, characters=characters + len(text) + 1)
    connection.execute(longer)
    return int(start)


def shift(connection: Connection, tenant: str, memory_id: str, start: int, by: int) -> None:
    """Move the entries and chunks that begin at ``start`` or later; the caller increments the generation."""
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
    said, full_line = statements.time_of(row.said), line(row.said, row.speaker, row.text, row.zone)
    return Entry(row.number, row.speaker, said, row.text, row.start, row.end, compiled, full_line)
