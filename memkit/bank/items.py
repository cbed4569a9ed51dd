"""Items: JSON values under keys, for the stores of agent frameworks. Each has a memory, for search.

Forgetting the memory, or the whole tenant, removes the item too. Items never share a memory, even with equal
values: one call could forget what another has just put.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, delete, func, insert, or_, select, update

from memkit.bank import statements, vector_rows
from memkit.bank.catalog import AnyCatalog
from memkit.bank.conversation_logs import Embed, embed_chunks
from memkit.bank.owners import Owner, check_name
from memkit.bank.policies import require_within
from memkit.bank.tables import chunks, items, memories
from memkit.bank.types import check_tenant, memory_id_of
from memkit.document import Document, Span
from memkit.errors import ConfigError

MAX_ITEM_KEY = 1024  # bytes in UTF-8
MAX_VALUE = 1_000_000  # characters of JSON
MAX_TTL = 52_560_000  # minutes: a hundred years
_ESCAPES = (("\ufdd0", "\ufdd01"), ("\x00", "\ufdd00"))  # U+FDD0 is reserved as a non-character
MINUTE = 60_000_000  # microseconds


@dataclass(frozen=True)
class Item:
    """A JSON ``value`` under a ``key``.

    ``searched`` tells whether search finds it. It ``expires`` when it was not used for ``ttl`` minutes.
    """

    tenant: str
    key: str
    value: str
    memory_id: str
    searched: bool
    created: datetime
    updated: datetime
    ttl: float | None
    expires: datetime | None


class Items:
    """The items of a bank."""

    def __init__(self, catalog: AnyCatalog) -> None:
        self._catalog = catalog

    def put(
        self,
        tenant: str,
        key: str,
        value: str,
        document: Document,
        embed: Embed,
        *,
        embedder: str = "",
        searched: bool = True,
        ttl: float | None = None,
        now: datetime | None = None,
    ) -> list[str] | None:
        """Store a JSON value under a key, replacing the value that the key has.

        Search finds the item by ``document``, which ``embed`` chunks and embeds with the model named
        ``embedder``. Returns the ids of the memories that the caller must forget: that of the replaced
        value. Returns None and changes nothing while the memory of an earlier replaced value has not been
        forgotten yet; `stale` names it. Raises `ConfigError` for an invalid key, value or ``ttl``
        (minutes), and `QuotaError` beyond the tenant's limits.
        """
        check_tenant(tenant)
        key = _escaped(key)
        if len(value) > MAX_VALUE:
            raise ConfigError(f"the value has {len(value):,} characters of JSON, the most is {MAX_VALUE:,}")
        if ttl is not None and not 0 < ttl <= MAX_TTL:
            raise ConfigError(f"ttl is a number of minutes above 0 and up to {MAX_TTL:,}, got {ttl}")
        spans, vectors = embed_chunks(document, [Span(0, len(document.text))], embed)
        digest = _digest(key)
        memory_id = memory_id_of(tenant, digest)
        at = statements.microseconds_of(now or datetime.now(UTC))
        row: dict[str, Any] = {"value": value, "memory_id": memory_id, "searched": searched, "updated": at}
        row |= {"ttl": ttl, "expires": None if ttl is None else at + round(ttl * MINUTE)}
        with self._catalog.write() as connection:
            replaced = list[str]()
            previous = connection.execute(select(items).where(_is(tenant, key))).first()
            if previous is not None and _unforgotten(connection, tenant, previous.stale):
                return None
            vector_rows.require_embedder(connection, tenant, embedder)
            statements.insert_memory(connection, tenant, memory_id, document, digest=digest)
            vector_rows.insert_chunks(connection, tenant, memory_id, spans, vectors)
            if previous is None:
                _insert(connection, tenant, key, row, at)
            else:
                old = previous.memory_id
                connection.execute(update(items).where(_is(tenant, key)).values(**row, stale=old))
                if not _shared(connection, tenant, old):
                    replaced = [old]
                    own_chunks = and_(chunks.c.tenant == tenant, chunks.c.memory_id == old)
                    connection.execute(delete(chunks).where(own_chunks))
                    statements.next_generation(connection, tenant, cut=True)
            require_within(connection, tenant)
        return replaced

    def get(self, tenant: str, key: str, now: datetime | None = None) -> Item | None:
        """The item with that key; None if there is none or it has expired."""
        check_tenant(tenant)
        query = select(items).where(_is(tenant, _escaped(key)), _alive(now))
        with self._catalog.read() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else _to_item(row)

    def all(self, tenant: str, now: datetime | None = None) -> list[Item]:
        """All items of the tenant that have not expired, in insertion order."""
        check_tenant(tenant)
        return self._where(and_(items.c.tenant == tenant, _alive(now)))

    def of(self, tenant: str, memory_ids: Sequence[str], now: datetime | None = None) -> list[Item]:
        """The items of these memories that have not expired, in insertion order."""
        check_tenant(tenant)
        return self._where(and_(items.c.tenant == tenant, items.c.memory_id.in_(memory_ids), _alive(now)))

    def _where(self, condition: ColumnElement[bool]) -> list[Item]:
        query = select(items).where(condition).order_by(items.c.number)
        with self._catalog.read() as connection:
            return [_to_item(row) for row in connection.execute(query).mappings()]

    def used(self, tenant: str, keys: Sequence[str], now: datetime | None = None) -> None:
        """Restart the time to live of the items with these keys."""
        check_tenant(tenant)
        at = statements.microseconds_of(now or datetime.now(UTC))
        these = and_(items.c.tenant == tenant, items.c.key.in_(map(_escaped, keys)), items.c.ttl.is_not(None))
        with self._catalog.write() as connection:
            for row in connection.execute(select(items.c.key, items.c.ttl).where(these)).all():
                later = update(items).where(_is(tenant, row.key))
                connection.execute(later.values(expires=at + round(row.ttl * MINUTE)))

    def remove(self, tenant: str, key: str) -> list[str]:
        """Ids of the memories that the caller must forget to remove an item; none if it does not exist.

        An item that an earlier memkit stored may share its memory with others: it is removed here.
        """
        check_tenant(tenant)
        key = _escaped(key)
        with self._catalog.write() as connection:
            row = connection.execute(select(items).where(_is(tenant, key))).first()
            if row is None:
                return []
            stale = [row.stale] if _unforgotten(connection, tenant, row.stale) else []
            if not _shared(connection, tenant, row.memory_id, besides=key):
                return [*stale, row.memory_id]
            connection.execute(delete(items).where(_is(tenant, key)))
        self._catalog.purge_deleted()
        return stale

    def stale(self, tenant: str) -> list[str]:
        """Memories of replaced values that no item uses any more: the caller must forget them."""
        check_tenant(tenant)
        other = items.alias()
        needed = select(other.c.key).where(other.c.tenant == tenant, other.c.memory_id == items.c.stale)
        there = select(memories.c.id).where(memories.c.tenant == tenant, memories.c.id == items.c.stale)
        query = select(items.c.stale).distinct()
        replaced = and_(items.c.tenant == tenant, items.c.stale.is_not(None))  # few rows, so filtered first
        query = query.where(replaced, there.exists(), ~needed.exists())
        with self._catalog.read() as connection:
            return list(connection.execute(query).scalars())

    def expired(self, tenant: str, now: datetime | None = None) -> list[str]:
        """Memories of expired items: the caller must forget them, which removes the items."""
        check_tenant(tenant)
        over = select(items.c.key, items.c.memory_id).where(items.c.tenant == tenant, ~_alive(now))
        with self._catalog.read() as connection:
            if connection.execute(over.limit(1)).first() is None:
                return []
        with self._catalog.write() as connection:
            for row in connection.execute(over).all():
                if _shared(connection, tenant, row.memory_id, besides=row.key):  # stored by an earlier memkit
                    connection.execute(delete(items).where(_is(tenant, row.key)))
            return [row.memory_id for row in connection.execute(over)]

    def spaces(self, tenant: str, now: datetime | None = None) -> list[str]:
        """Names of a user's namespaces with items that have not expired."""
        check_tenant(tenant)
        with self._catalog.read() as connection:
            beneath = statements.begins_with(items.c.tenant, Owner.of(tenant).namespaces)
            query = select(items.c.tenant).where(beneath, _alive(now)).distinct().order_by(items.c.tenant)
            return list(connection.execute(query).scalars())


def _escaped(key: str) -> str:
    """A key as it is stored, without NUL, which PostgreSQL rejects. Raises `ConfigError` for an invalid
    key."""
    check_name("key", key)
    for character, escape in _ESCAPES:
        key = key.replace(character, escape)
    if len(key.encode()) > MAX_ITEM_KEY:
        raise ConfigError(f"a key has at most {MAX_ITEM_KEY:,} bytes in UTF-8, got {len(key.encode()):,}")
    return key


def _unescaped(key: str) -> str:
    for character, escape in reversed(_ESCAPES):
        key = key.replace(escape, character)
    return key


def _digest(key: str) -> str:
    """The digest of an item's memory, in place of its text's: a new one for each put."""
    return hashlib.sha256(f"item\0{key}\0{uuid.uuid4().hex}".encode()).hexdigest()


def _insert(connection: Connection, tenant: str, key: str, row: dict[str, Any], at: int) -> None:
    last = connection.execute(select(func.max(items.c.number)).where(items.c.tenant == tenant)).scalar()
    number = (last or 0) + 1
    connection.execute(insert(items).values(tenant=tenant, key=key, number=number, created=at, **row))


def _shared(connection: Connection, tenant: str, memory_id: str, besides: str | None = None) -> bool:
    """Whether any item uses a memory, except the one with the key ``besides``."""
    query = select(items.c.key).where(items.c.tenant == tenant, items.c.memory_id == memory_id)
    query = query if besides is None else query.where(items.c.key != besides)
    return connection.execute(query.limit(1)).first() is not None


def _unforgotten(connection: Connection, tenant: str, stale: str | None) -> bool:
    """Whether the memory of a replaced value still exists and no item uses it."""
    exists = stale is not None and statements.find(connection, tenant, stale) is not None
    return exists and not _shared(connection, tenant, stale or "")


def _is(tenant: str, key: str) -> ColumnElement[bool]:
    return and_(items.c.tenant == tenant, items.c.key == key)


def _alive(now: datetime | None) -> ColumnElement[bool]:
    at = statements.microseconds_of(now or datetime.now(UTC))
    return or_(items.c.expires.is_(None), items.c.expires > at)


def _to_item(row: RowMapping) -> Item:
    names = ("tenant", "value", "memory_id", "searched", "ttl")
    times: dict[str, Any] = {name: statements.time_of(row[name]) for name in ("created", "updated")}
    times["expires"] = None if row["expires"] is None else statements.time_of(row["expires"])
    return Item(**{name: row[name] for name in names}, key=_unescaped(row["key"]), **times)
