"""Forgetting: a memory, all of a tenant, or a part of a text, with every artifact that ever saw it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from sqlalchemy import Connection, and_, delete, func, insert, select, update

from memkit.bank import statements, vector_rows
from memkit.bank.catalog import AnyCatalog
from memkit.bank.conversation_logs import Embed, embed_chunks, shift
from memkit.bank.tables import artifacts, chunks, entries, items, memories, tombstones
from memkit.bank.types import Receipt, Vectors, check_tenant, entry_key, memory_hash, memory_id_of, tenant_key
from memkit.bank.vector_index import VectorIndexes
from memkit.document import Document, Span
from memkit.errors import ConfigError, NotFoundError
from memkit.text.normalize import is_blank, occurrences


class Deletion:
    """What a bank forgets; ``discard`` removes artifact files that no row names any more.

    The bytes are overwritten in the database and gone from its log when a call returns.
    """

    def __init__(
        self,
        path: Path,
        catalog: AnyCatalog,
        indexes: VectorIndexes,
        discard: Callable[[str, Iterable[str]], None],
    ) -> None:
        self._path, self._catalog, self._indexes, self._discard = path, catalog, indexes, discard

    def forget(self, tenant: str, memory_id: str | None = None) -> list[Receipt]:
        """Remove one memory of the tenant, or all: text, chunks, vectors, artifacts of all versions."""
        check_tenant(tenant)
        with self._catalog.write() as connection:
            if memory_id is None:
                ids = [info.id for info in statements.infos(connection, tenant)]
            else:
                ids = [statements.info(connection, tenant, memory_id).id]
            files = {artifact for _, _, artifact in statements.versions(connection, tenant, memory_id)}
            receipts = [statements.delete_memory(connection, tenant, each) for each in ids]
        self._clear(tenant, ids, files)
        return receipts

    def erase(
        self, tenant: str, memory_id: str, spans: Sequence[Span], embed: Embed, embedder: str = ""
    ) -> Receipt:
        """Remove parts of a memory's text, and every version of its artifact that ever saw one of them.

        Of a running memory whole entries go, those that a span touches. A document becomes another one,
        whose id the receipt tells as ``left``; so that no hash of the old text stays. What would be left
        without any words is forgotten altogether (``left`` is None). Raises `ConfigError` for a span outside.
        """
        check_tenant(tenant)
        if self._keeps_item(tenant, memory_id):  # an item has all of its text, or is none
            (receipt,) = self.forget(tenant, memory_id)
            return receipt
        made = self._embedded(tenant, memory_id, spans, embed)  # before anybody has to wait for it
        with self._catalog.write() as connection:
            vector_rows.require_embedder(connection, tenant, embedder)
            info = statements.info(connection, tenant, memory_id)
            _check(spans, info.characters)
            before = {artifact for _, _, artifact in statements.versions(connection, tenant, info.id)}
            if info.running:
                receipt = _erase_entries(connection, tenant, info.id, spans)
            else:
                receipt = _erase_text(connection, tenant, info.id, spans, made, embed)
        self._clear(tenant, [info.id], before)
        return receipt

    def scrub(self, tenant: str, memory_id: str, text: str, embed: Embed, embedder: str = "") -> Receipt:
        """Remove a text, and what looks like it, wherever a memory holds it: in what was said, in titles,
        speakers, keys and the artifacts that name them.

        What bears it as its own name, or keeps it as an item of a store, is forgotten altogether. Raises
        `NotFoundError` where it is nowhere.
        """
        check_tenant(tenant)
        with self._catalog.read() as connection:
            info = statements.info(connection, tenant, memory_id)
            source = statements.source(connection, tenant, info.id).text
            named = _named(connection, tenant, info.id, text)
        spans = [Span(start, end) for start, end in occurrences(source, text)]
        if named.whole:
            (receipt,) = self.forget(tenant, info.id)
            return receipt
        if not spans and not named.title and not named.entries:
            raise NotFoundError(f"memory {info.id} does not hold that text")
        if info.running:
            spans += named.entries
        if not spans:
            return self._retitle(tenant, info.id, text)
        receipt = self.erase(tenant, info.id, spans, embed, embedder=embedder)
        if receipt.left and named.title:
            also = self._retitle(tenant, receipt.left, text)
            removed = receipt.artifacts_removed + also.artifacts_removed
            receipt = replace(receipt, artifacts_removed=removed)
        return receipt

    def _keeps_item(self, tenant: str, memory_id: str) -> bool:
        of_item = and_(items.c.tenant == tenant, items.c.memory_id == memory_id)
        with self._catalog.read() as connection:
            return connection.execute(select(items.c.key).where(of_item).limit(1)).first() is not None

    def _retitle(self, tenant: str, memory_id: str, text: str) -> Receipt:
        """Take a text out of a title, with all artifacts, which name it."""
        this = and_(memories.c.tenant == tenant, memories.c.id == memory_id)
        mine = and_(artifacts.c.tenant == tenant, artifacts.c.memory_id == memory_id)
        with self._catalog.write() as connection:
            title = statements.info(connection, tenant, memory_id).title
            files = {artifact for _, _, artifact in statements.versions(connection, tenant, memory_id)}
            connection.execute(delete(artifacts).where(mine))
            values = {"version": 0, "status": "text", "pinned": False, "error": None, "attempt": None}
            connection.execute(update(memories).where(this).values(title=_without(title, text), **values))
        self._clear(tenant, [memory_id], files)
        return Receipt(memory_id, len(files), 0, memory_id)

    def _embedded(
        self, tenant: str, memory_id: str, spans: Sequence[Span], embed: Embed
    ) -> tuple[str, list[Span], Vectors] | None:
        """What will be left of a document, with its chunks; nothing of a running memory."""
        with self._catalog.read() as connection:
            info = statements.info(connection, tenant, memory_id)
            _check(spans, info.characters)
            text = "" if info.running else _left(statements.source(connection, tenant, info.id).text, spans)
        if is_blank(text):
            return None
        document = Document(text)
        return (text, *embed_chunks(document, [Span(0, len(text))], embed))

    def expired(self, tenant: str, before: datetime) -> list[tuple[str, list[Span] | None]]:
        """What is older than that: whole memories (None), and spans of running ones."""
        check_tenant(tenant)
        limit = statements.microseconds_of(before)
        found = list[tuple[str, list[Span] | None]]()
        with self._catalog.read() as connection:
            for info in statements.infos(connection, tenant):
                if not info.running:
                    if statements.microseconds_of(info.created) < limit:
                        found.append((info.id, None))
                    continue
                query = select(entries.c.start, entries.c.end).where(
                    entries.c.tenant == tenant, entries.c.memory_id == info.id, entries.c.said < limit
                )
                if spans := [Span(row.start, row.end) for row in connection.execute(query)]:
                    found.append((info.id, spans))
        return found

    def _clear(self, tenant: str, ids: Iterable[str], files: Iterable[str]) -> None:
        """What is outside the transaction: states of compilations, search indexes, files, the log."""
        for each in ids:
            for path in (self._path / "unfinished" / tenant_key(tenant)[:16]).glob(f"{each}*"):
                path.unlink(missing_ok=True)
        self._indexes.drop(tenant)
        self._discard(tenant, files)
        self._catalog.checkpoint()


def _check(spans: Sequence[Span], characters: int) -> None:
    if not spans:
        raise ConfigError("there is nothing to erase: give at least one span")
    for span in spans:
        if not 0 <= span.start < span.end <= characters:
            raise ConfigError(f"{span} lies outside the memory's {characters} characters")


def _erase_text(
    connection: Connection,
    tenant: str,
    memory_id: str,
    spans: Sequence[Span],
    made: tuple[str, list[Span], Vectors] | None,
    embed: Embed,
) -> Receipt:
    """Put another document in the place of one."""
    old = statements.source(connection, tenant, memory_id)
    text = _left(old.text, spans)
    receipt = statements.delete_memory(connection, tenant, memory_id)
    left: str | None = None
    if not is_blank(text):
        document = Document(text, old.title)
        left = statements.same(connection, tenant, document)
        if left is None:
            left = memory_id_of(tenant, document.identity)
            if made is None or made[0] != text:  # it was changed meanwhile
                made = (text, *embed_chunks(document, [Span(0, len(text))], embed))
            statements.insert_memory(connection, tenant, left, document)
            vector_rows.insert_chunks(connection, tenant, left, *made[1:])
    return Receipt(memory_id, receipt.artifacts_removed, receipt.chunks_removed, left)


def _left(text: str, spans: Sequence[Span]) -> str:
    """What is left of a text without some of its characters."""
    kept, at = list[str](), 0
    for span in sorted(spans, key=lambda s: s.start):
        kept.append(text[at : max(at, span.start)])
        at = max(at, span.end)
    return "".join((*kept, text[at:])).strip()


def _without(text: str, gone: str) -> str:
    return _left(text, [Span(start, end) for start, end in occurrences(text, gone)])


@dataclass(frozen=True)
class _Named:
    """Where beside its text a memory holds one: as its name or its item's key or value, in its title, in
    speakers and keys of entries."""

    whole: bool
    title: bool
    entries: list[Span]


def _named(connection: Connection, tenant: str, memory_id: str, text: str) -> _Named:
    info = statements.info(connection, tenant, memory_id)
    of_item = and_(items.c.tenant == tenant, items.c.memory_id == memory_id)
    kept = connection.execute(select(items.c.key, items.c.value).where(of_item)).all()
    of_entry = and_(entries.c.tenant == tenant, entries.c.memory_id == memory_id)
    rows = connection.execute(select(entries).where(of_entry)).all()
    return _Named(
        bool(info.name and occurrences(info.name, text))
        or any(occurrences(part, text) for row in kept for part in (row.key, _plain(row.value))),
        bool(occurrences(info.title, text)),
        [
            Span(r.start, r.end)
            for r in rows
            if any(occurrences(part, text) for part in (r.text, r.speaker, r.key or ""))
        ],
    )


def _plain(value: str) -> str:
    """A value's JSON with its characters as they are."""
    return json.dumps(json.loads(value), ensure_ascii=False)


def _erase_entries(connection: Connection, tenant: str, memory_id: str, spans: Sequence[Span]) -> Receipt:
    """Take entries out of a log, and drop the versions that saw them."""
    mine = and_(entries.c.tenant == tenant, entries.c.memory_id == memory_id)
    rows = connection.execute(select(entries).where(mine).order_by(entries.c.start.desc())).all()
    gone = [r for r in rows if any(s.start < r.end and r.start < s.end for s in spans)]
    if len(gone) == len(rows):
        receipt = statements.delete_memory(connection, tenant, memory_id)
        return Receipt(memory_id, receipt.artifacts_removed, receipt.chunks_removed, None)
    versions = _drop_versions(connection, tenant, memory_id, [(r.number, r.said) for r in gone])
    removed = 0
    for row in gone:  # from the end, so that the places of those before stay true
        removed += _cut(connection, tenant, memory_id, row.number, row.start, row.end)
    hashes = [memory_hash(tenant, entry_key(memory_id, row.number)) for row in gone]
    place = {"tenant_key": tenant_key(tenant), "forgotten": statements.now()}
    connection.execute(insert(tombstones), [{**place, "memory_hash": each} for each in hashes])
    statements.next_generation(connection, tenant, cut=True)
    return Receipt(memory_id, versions, removed, memory_id)


def _drop_versions(
    connection: Connection, tenant: str, memory_id: str, seen: Sequence[tuple[int, int]]
) -> int:
    """Drop the versions that saw one of these entries (number, time); how many those were.

    The newest of the others answers then, unless an older one was chosen that is still there.
    """
    mine = and_(artifacts.c.tenant == tenant, artifacts.c.memory_id == memory_id)
    dropped = [
        row.version
        for row in connection.execute(select(artifacts).where(mine))
        if row.through is None
        or any(number <= row.through and (row.since is None or said >= row.since) for number, said in seen)
    ]
    connection.execute(delete(artifacts).where(mine, artifacts.c.version.in_(dropped)))
    this = and_(memories.c.tenant == tenant, memories.c.id == memory_id)
    if connection.execute(select(memories.c.version).where(this)).scalar_one() in dropped:
        newest = connection.execute(select(func.max(artifacts.c.version)).where(mine)).scalar() or 0
        status = "compiled" if newest else "text"
        connection.execute(update(memories).where(this).values(version=newest, status=status, pinned=False))
    connection.execute(update(memories).where(this).values(error=None, attempt=None))
    return len(dropped)


def _cut(connection: Connection, tenant: str, memory_id: str, number: int, start: int, end: int) -> int:
    """Take one line out of a log's text; how many chunks went with it."""
    this = and_(memories.c.tenant == tenant, memories.c.id == memory_id)
    characters = connection.execute(select(memories.c.characters).where(this)).scalar_one()
    first, last = (start - 1, end) if end == characters else (start, end + 1)  # with one line break
    text = func.substr(memories.c.text, 1, first).concat(func.substr(memories.c.text, last + 1))
    connection.execute(update(memories).where(this).values(text=text, characters=characters - (last - first)))
    of_chunk = and_(chunks.c.tenant == tenant, chunks.c.memory_id == memory_id)
    inside = and_(chunks.c.start >= start, chunks.c.end <= end)
    removed = connection.execute(delete(chunks).where(of_chunk, inside)).rowcount
    of_entry = and_(entries.c.tenant == tenant, entries.c.memory_id == memory_id)
    connection.execute(delete(entries).where(of_entry, entries.c.number == number))
    shift(connection, tenant, memory_id, last, first - last)
    return removed
