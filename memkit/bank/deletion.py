"""Forget a memory, a whole tenant or a part of a text, with every artifact that was compiled from it."""

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
    """Deletes from a bank; ``discard`` removes artifact files that no row refers to any more.

    When a call returns, the bytes are overwritten in the database and gone from its log.
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
        """Remove one memory of the tenant, or all: text, chunks, vectors, artifacts of all versions.

        Raises `NotFoundError` for an unknown id.
        """
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
        """Remove spans of a memory's text, and every artifact version that was compiled from one of them.

        A running memory loses every entry that a span touches. A document becomes a new one without the
        spans, so that no hash of the old text remains; the receipt's ``left`` is its id. A memory without
        any words left is forgotten completely (``left`` is None). ``embed`` chunks and embeds what remains.
        Raises `ConfigError` for a span outside the text, `NotFoundError` for an unknown id.
        """
        check_tenant(tenant)
        if self._keeps_item(tenant, memory_id):  # an item cannot lose a part of its text
            (receipt,) = self.forget(tenant, memory_id)
            return receipt
        remainder = self._embedded(tenant, memory_id, spans, embed)  # before the write lock is taken
        with self._catalog.write() as connection:
            vector_rows.require_embedder(connection, tenant, embedder)
            info = statements.info(connection, tenant, memory_id)
            _check(spans, info.characters)
            files = {artifact for _, _, artifact in statements.versions(connection, tenant, info.id)}
            if info.running:
                receipt = _erase_entries(connection, tenant, info.id, spans)
            else:
                receipt = _erase_text(connection, tenant, info.id, spans, remainder, embed)
        self._clear(tenant, [info.id], files)
        return receipt

    def scrub(self, tenant: str, memory_id: str, text: str, embed: Embed, embedder: str = "") -> Receipt:
        """Remove every occurrence of ``text`` from a memory, compared as `memkit.text.normalize` does.

        Occurrences are searched in the memory's text, title, speakers and keys; artifacts compiled from them
        go too. A running memory whose name contains the text, and an item of a store that does, is forgotten
        completely. Raises `NotFoundError` when the memory does not contain the text.
        """
        check_tenant(tenant)
        with self._catalog.read() as connection:
            info = statements.info(connection, tenant, memory_id)
            source = statements.source(connection, tenant, info.id).text
            holders = _occurrences(connection, tenant, info.id, text)
        spans = [Span(start, end) for start, end in occurrences(source, text)]
        if holders.whole:
            (receipt,) = self.forget(tenant, info.id)
            return receipt
        if not spans and not holders.title and not holders.entries:
            raise NotFoundError(f"memory {info.id} does not hold that text")
        if info.running:
            spans += holders.entries
        if not spans:
            return self._retitle(tenant, info.id, text)
        receipt = self.erase(tenant, info.id, spans, embed, embedder=embedder)
        if receipt.left and holders.title:
            retitled = self._retitle(tenant, receipt.left, text)
            removed = receipt.artifacts_removed + retitled.artifacts_removed
            receipt = replace(receipt, artifacts_removed=removed)
        return receipt

    def _keeps_item(self, tenant: str, memory_id: str) -> bool:
        of_item = and_(items.c.tenant == tenant, items.c.memory_id == memory_id)
        with self._catalog.read() as connection:
            return connection.execute(select(items.c.key).where(of_item).limit(1)).first() is not None

    def _retitle(self, tenant: str, memory_id: str, text: str) -> Receipt:
        """Remove a text from a title, with all artifacts, whose manifests hold the title."""
        this = and_(memories.c.tenant == tenant, memories.c.id == memory_id)
        of_memory = and_(artifacts.c.tenant == tenant, artifacts.c.memory_id == memory_id)
        with self._catalog.write() as connection:
            title = statements.info(connection, tenant, memory_id).title
            files = {artifact for _, _, artifact in statements.versions(connection, tenant, memory_id)}
            connection.execute(delete(artifacts).where(of_memory))
            values = {"version": 0, "status": "text", "pinned": False, "error": None, "attempt": None}
            connection.execute(update(memories).where(this).values(title=_without(title, text), **values))
        self._clear(tenant, [memory_id], files)
        return Receipt(memory_id, len(files), 0, memory_id)

    def _embedded(
        self, tenant: str, memory_id: str, spans: Sequence[Span], embed: Embed
    ) -> tuple[str, list[Span], Vectors] | None:
        """The remainder of a document, with its chunks and vectors; None for a running memory."""
        with self._catalog.read() as connection:
            info = statements.info(connection, tenant, memory_id)
            _check(spans, info.characters)
            source = statements.source(connection, tenant, info.id).text
            text = "" if info.running else _remaining(source, spans)
        if is_blank(text):
            return None
        document = Document(text)
        return (text, *embed_chunks(document, [Span(0, len(text))], embed))

    def expired(self, tenant: str, before: datetime) -> list[tuple[str, list[Span] | None]]:
        """Ids of memories older than ``before``: None for a whole memory, else the expired spans of a log."""
        check_tenant(tenant)
        limit = statements.microseconds_of(before)
        expired = list[tuple[str, list[Span] | None]]()
        with self._catalog.read() as connection:
            for info in statements.infos(connection, tenant):
                if not info.running:
                    if statements.microseconds_of(info.created) < limit:
                        expired.append((info.id, None))
                    continue
                query = select(entries.c.start, entries.c.end).where(
                    entries.c.tenant == tenant, entries.c.memory_id == info.id, entries.c.said < limit
                )
                if spans := [Span(row.start, row.end) for row in connection.execute(query)]:
                    expired.append((info.id, spans))
        return expired

    def _clear(self, tenant: str, ids: Iterable[str], files: Iterable[str]) -> None:
        """Remove what is outside the transaction: compiler checkpoints, search index, files, database log."""
        for each in ids:
            for path in (self._path / "unfinished" / tenant_key(tenant)[:16]).glob(f"{each}*"):
                path.unlink(missing_ok=True)
        self._indexes.drop(tenant)
        self._discard(tenant, files)
        self._catalog.purge_deleted()


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
    embedded: tuple[str, list[Span], Vectors] | None,
    embed: Embed,
) -> Receipt:
    """Replace a document by what remains of it without the spans."""
    old = statements.source(connection, tenant, memory_id)
    text = _remaining(old.text, spans)
    receipt = statements.delete_memory(connection, tenant, memory_id)
    new_id: str | None = None
    if not is_blank(text):
        document = Document(text, old.title)
        new_id = statements.find_document(connection, tenant, document)
        if new_id is None:
            new_id = memory_id_of(tenant, document.identity)
            if embedded is None or embedded[0] != text:  # the document was changed in the meantime
                embedded = (text, *embed_chunks(document, [Span(0, len(text))], embed))
            statements.insert_memory(connection, tenant, new_id, document)
            vector_rows.insert_chunks(connection, tenant, new_id, *embedded[1:])
    return Receipt(memory_id, receipt.artifacts_removed, receipt.chunks_removed, new_id)


def _remaining(text: str, spans: Sequence[Span]) -> str:
    """A text without the characters of the spans."""
    pieces, at = list[str](), 0
    for span in sorted(spans, key=lambda s: s.start):
        pieces.append(text[at : max(at, span.start)])
        at = max(at, span.end)
    return "".join((*pieces, text[at:])).strip()


def _without(text: str, removed: str) -> str:
    return _remaining(text, [Span(start, end) for start, end in occurrences(text, removed)])


@dataclass(frozen=True)
class _Occurrences:
    """Where a memory holds a text, beside its own text."""

    whole: bool  # in its name, or in its item's key or value
    title: bool
    entries: list[Span]  # of entries whose text, speaker or key holds it


def _occurrences(connection: Connection, tenant: str, memory_id: str, text: str) -> _Occurrences:
    info = statements.info(connection, tenant, memory_id)
    of_item = and_(items.c.tenant == tenant, items.c.memory_id == memory_id)
    stored = connection.execute(select(items.c.key, items.c.value).where(of_item)).all()
    of_entry = and_(entries.c.tenant == tenant, entries.c.memory_id == memory_id)
    rows = connection.execute(select(entries).where(of_entry)).all()
    return _Occurrences(
        bool(info.name and occurrences(info.name, text))
        or any(occurrences(part, text) for row in stored for part in (row.key, _readable(row.value))),
        bool(occurrences(info.title, text)),
        [
            Span(r.start, r.end)
            for r in rows
            if any(occurrences(part, text) for part in (r.text, r.speaker, r.key or ""))
        ],
    )


def _readable(value: str) -> str:
    """JSON without escapes of non-ASCII characters."""
    return json.dumps(json.loads(value), ensure_ascii=False)


def _erase_entries(connection: Connection, tenant: str, memory_id: str, spans: Sequence[Span]) -> Receipt:
    """Remove entries from a log, and the artifact versions that were compiled from them."""
    of_memory = and_(entries.c.tenant == tenant, entries.c.memory_id == memory_id)
    rows = connection.execute(select(entries).where(of_memory).order_by(entries.c.start.desc())).all()
    erased = [r for r in rows if any(s.start < r.end and r.start < s.end for s in spans)]
    if len(erased) == len(rows):
        receipt = statements.delete_memory(connection, tenant, memory_id)
        return Receipt(memory_id, receipt.artifacts_removed, receipt.chunks_removed, None)
    versions = _drop_versions(connection, tenant, memory_id, [(r.number, r.said) for r in erased])
    removed = 0
    for row in erased:  # from the end, so that the offsets of earlier ones stay valid
        removed += _cut(connection, tenant, memory_id, row.number, row.start, row.end)
    common = {"tenant_key": tenant_key(tenant), "forgotten": statements.now()}
    hashes = [memory_hash(tenant, entry_key(memory_id, row.number)) for row in erased]
    connection.execute(insert(tombstones), [{**common, "memory_hash": each} for each in hashes])
    statements.next_generation(connection, tenant, cut=True)
    return Receipt(memory_id, versions, removed, memory_id)


def _drop_versions(
    connection: Connection, tenant: str, memory_id: str, removed: Sequence[tuple[int, int]]
) -> int:
    """Remove the versions compiled from one of the entries ``seen`` (number, time); returns their number.

    If the current version is among them, the newest remaining one takes its place.
    """
    of_memory = and_(artifacts.c.tenant == tenant, artifacts.c.memory_id == memory_id)
    dropped = [
        row.version
        for row in connection.execute(select(artifacts).where(of_memory))
        if row.through is None
        or any(number <= row.through and (row.since is None or said >= row.since) for number, said in removed)
    ]
    connection.execute(delete(artifacts).where(of_memory, artifacts.c.version.in_(dropped)))
    this = and_(memories.c.tenant == tenant, memories.c.id == memory_id)
    if connection.execute(select(memories.c.version).where(this)).scalar_one() in dropped:
        newest = connection.execute(select(func.max(artifacts.c.version)).where(of_memory)).scalar() or 0
        status = "compiled" if newest else "text"
        connection.execute(update(memories).where(this).values(version=newest, status=status, pinned=False))
    connection.execute(update(memories).where(this).values(error=None, attempt=None))
    return len(dropped)


def _cut(connection: Connection, tenant: str, memory_id: str, number: int, start: int, end: int) -> int:
    """Remove one line from a log's text; returns the number of chunks removed with it."""
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
