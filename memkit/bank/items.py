"""Items: JSON values under keys, as stores of agents keep them. Each has a memory, so that it is found.

An item goes with its memory: forgetting that, or all of a tenant, removes the item too. No two items share
one, whatever they say: what one call forgets, no other can have just put.
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
_ESCAPES = (("\ufdd0", "\ufdd01"), ("\x00", "\ufdd00"))  # U+FDD0 is no character, nor will it be one
MINUTE = 60_000_000  # microseconds


@dataclass(frozen=True)
class Item:
    """A ``value`` (JSON) under a ``key``; ``ttl`` minutes after it was last used it ``expires``."""

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
        """Keep a value, in the place of the one that the key has; ``document`` is what makes it found.

        The memory of the old value is found no more; it is what is returned, and to be forgotten. None, and
        nothing is changed, while the one before that has not been forgotten yet: `stale` names it.
        """
        check_tenant(tenant)
        key = _spelled(key)
        if len(value) > MAX_VALUE:
            raise ConfigError(f"the value has {len(value):,} characters of JSON, the most is {MAX_VALUE:,}")
        if ttl is not None and not 0 < ttl <= MAX_TTL:
            raise ConfigError(f"ttl is a number of minutes above 0 and up to {MAX_TTL:,}, got {ttl}")
        spans, vectors = embed_chunks(document, [Span(0, len(document.text))], embed)
        digest = _digest(key)
        memory_id = memory_id_of(tenant, digest)
        at = statements.microseconds_of(now or datetime.now(UTC))
        what: dict[str, Any] = {"value": value, "memory_id": memory_id, "searched": searched, "updated": at}
        what |= {"ttl": ttl, "expires": None if ttl is None else at + round(ttl * MINUTE)}
        with self._catalog.write() as connection:
            replaced = list[str]()
            known = connection.execute(select(items).where(_is(tenant, key))).first()
            if known is not None and _waits(connection, tenant, known.stale):
                return None
            vector_rows.require_embedder(connection, tenant, embedder)
            statements.insert_memory(connection, tenant, memory_id, document, digest=digest)
            vector_rows.insert_chunks(connection, tenant, memory_id, spans, vectors)
            if known is None:
                _insert(connection, tenant, key, what, at)
            else:
                old = known.memory_id
                connection.execute(update(items).where(_is(tenant, key)).values(**what, stale=old))
                if not _shared(connection, tenant, old):
                    replaced = [old]
                    mine = and_(chunks.c.tenant == tenant, chunks.c.memory_id == old)
                    connection.execute(delete(chunks).where(mine))
                    statements.next_generation(connection, tenant, cut=True)
            require_within(connection, tenant)
        return replaced

    def get(self, tenant: str, key: str, now: datetime | None = None) -> Item | None:
        """The item of that key, unless it has expired."""
        check_tenant(tenant)
        query = select(items).where(_is(tenant, _spelled(key)), _alive(now))
        with self._catalog.read() as connection:
            row = connection.execute(query).mappings().first()
        return None if row is None else _to_item(row)

    def all(self, tenant: str, now: datetime | None = None) -> list[Item]:
        """All items of the tenant that have not expired, in the order of arrival."""
        check_tenant(tenant)
        return self._where(and_(items.c.tenant == tenant, _alive(now)))

    def of(self, tenant: str, memory_ids: Sequence[str], now: datetime | None = None) -> list[Item]:
        """The items of these memories that have not expired, in the order of arrival."""
        check_tenant(tenant)
        return self._where(and_(items.c.tenant == tenant, items.c.memory_id.in_(memory_ids), _alive(now)))

    def _where(self, condition: ColumnElement[bool]) -> list[Item]:
        query = select(items).where(condition).order_by(items.c.number)
        with self._catalog.read() as connection:
            return [_to_item(row) for row in connection.execute(query).mappings()]

    def used(self, tenant: str, keys: Sequence[str], now: datetime | None = None) -> None:
        """Let the items live as long again as they were given."""
        check_tenant(tenant)
        at = statements.microseconds_of(now or datetime.now(UTC))
        these = and_(items.c.tenant == tenant, items.c.key.in_(map(_spelled, keys)), items.c.ttl.is_not(None))
        with self._catalog.write() as connection:
            for row in connection.execute(select(items.c.key, items.c.ttl).where(these)).all():
                later = update(items).where(_is(tenant, row.key))
                connection.execute(later.values(expires=at + round(row.ttl * MINUTE)))

    def remove(self, tenant: str, key: str) -> list[str]:
        """The memories to forget so that an item is gone, with which it goes; none if there is no such item.

        An item of an earlier memkit may share its memory with others: it is removed at once.
        """
        check_tenant(tenant)
        key = _spelled(key)
        with self._catalog.write() as connection:
            row = connection.execute(select(items).where(_is(tenant, key))).first()
            if row is None:
                return []
            stale = [row.stale] if _waits(connection, tenant, row.stale) else []
            if not _shared(connection, tenant, row.memory_id, besides=key):
                return [*stale, row.memory_id]
            connection.execute(delete(items).where(_is(tenant, key)))
        self._catalog.checkpoint()
        return stale

    def stale(self, tenant: str) -> list[str]:
        """Memories of values that were replaced and that no item has: they are to be forgotten."""
        check_tenant(tenant)
        other = items.alias()
        needed = select(other.c.key).where(other.c.tenant == tenant, other.c.memory_id == items.c.stale)
        there = select(memories.c.id).where(memories.c.tenant == tenant, memories.c.id == items.c.stale)
        query = select(items.c.stale).distinct()
        replaced = and_(items.c.tenant == tenant, items.c.stale.is_not(None))  # few are: looked at first
        query = query.where(replaced, there.exists(), ~needed.exists())
        with self._catalog.read() as connection:
            return list(connection.execute(query).scalars())

    def expired(self, tenant: str, now: datetime | None = None) -> list[str]:
        """Memories of the items whose time is over: they are to be forgotten, and the items go with them."""
        check_tenant(tenant)
        over = select(items.c.key, items.c.memory_id).where(items.c.tenant == tenant, ~_alive(now))
        with self._catalog.read() as connection:
            if connection.execute(over.limit(1)).first() is None:
                return []
        with self._catalog.write() as connection:
            for row in connection.execute(over).all():
                if _shared(connection, tenant, row.memory_id, besides=row.key):  # by an earlier memkit
                    connection.execute(delete(items).where(_is(tenant, row.key)))
            return [row.memory_id for row in connection.execute(over)]

    def spaces(self, tenant: str, now: datetime | None = None) -> list[str]:
        """Names of a user's namespaces that have items which have not expired."""
        check_tenant(tenant)
        with self._catalog.read() as connection:
            beneath = statements.begins_with(items.c.tenant, Owner.of(tenant).namespaces)
            query = select(items.c.tenant).where(beneath, _alive(now)).distinct().order_by(items.c.tenant)
            return list(connection.execute(query).scalars())


def _spelled(key: str) -> str:
    """A key, in any script, as it is kept: PostgreSQL takes no NUL. `ConfigError` for one that cannot be."""
    check_name("key", key)
    for character, escape in _ESCAPES:
        key = key.replace(character, escape)
    if len(key.encode()) > MAX_ITEM_KEY:
        raise ConfigError(f"a key has at most {MAX_ITEM_KEY:,} bytes in UTF-8, got {len(key.encode()):,}")
    return key


def _plain(key: str) -> str:
    for character, escape in reversed(_ESCAPES):
        key = key.replace(escape, character)
    return key


def _digest(key: str) -> str:
    """What stands for an item's memory in place of its text's digest: another one at each put."""
    return hashlib.sha256(f"item\0{key}\0{uuid.uuid4().hex}".encode()).hexdigest()


def _insert(connection: Connection, tenant: str, key: str, what: dict[str, Any], at: int) -> None:
    last = connection.execute(select(func.max(items.c.number)).where(items.c.tenant == tenant)).scalar()
    number = (last or 0) + 1
    connection.execute(insert(items).values(tenant=tenant, key=key, number=number, created=at, **what))


def _shared(connection: Connection, tenant: str, memory_id: str, besides: str | None = None) -> bool:
    """Whether a memory is that of any item, ``besides`` the one of that key."""
    query = select(items.c.key).where(items.c.tenant == tenant, items.c.memory_id == memory_id)
    query = query if besides is None else query.where(items.c.key != besides)
    return connection.execute(query.limit(1)).first() is not None


def _waits(connection: Connection, tenant: str, stale: str | None) -> bool:
    """Whether a replaced value's memory is still there, and no item's."""
    there = stale is not None and statements.find(connection, tenant, stale) is not None
    return there and not _shared(connection, tenant, stale or "")


def _is(tenant: str, key: str) -> ColumnElement[bool]:
    return and_(items.c.tenant == tenant, items.c.key == key)


def _alive(now: datetime | None) -> ColumnElement[bool]:
    at = statements.microseconds_of(now or datetime.now(UTC))
    return or_(items.c.expires.is_(None), items.c.expires > at)


def _to_item(row: RowMapping) -> Item:
    names = ("tenant", "value", "memory_id", "searched", "ttl")
    times: dict[str, Any] = {name: statements.time_of(row[name]) for name in ("created", "updated")}
    times["expires"] = None if row["expires"] is None else statements.time_of(row["expires"])
    return Item(**{name: row[name] for name in names}, key=_plain(row["key"]), **times)
