"""Items: JSON values under keys, as stores of agents keep them. Each has a memory, so that it is found.

An item goes with its memory: forgetting that, or all of a tenant, removes the item too. Items with the same
text share one memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import ColumnElement, Connection, RowMapping, and_, delete, func, insert, or_, select, update

from memkit.bank import queries
from memkit.bank.catalog import AnyCatalog
from memkit.bank.logs import Embed, embedded
from memkit.bank.policies import require_within
from memkit.bank.records import check_line, check_tenant, memory_id_of
from memkit.bank.tables import items, memories
from memkit.document import Document, Span
from memkit.errors import ConfigError

MAX_ITEM_KEY = 512  # characters
MAX_VALUE = 1_000_000  # characters of JSON
MAX_TTL = 52_560_000  # minutes: a hundred years
MINUTE = 60_000_000  # microseconds
SEPARATOR = "/"  # between a tenant and the spaces beneath it


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
    ) -> None:
        """Keep a value, in the place of the one that the key has; ``document`` is what makes it found.

        The memory of the old value stays until the caller forgets what `stale` names.
        """
        check_tenant(tenant)
        check_line("a key", key, MAX_ITEM_KEY)
        if len(value) > MAX_VALUE:
            raise ConfigError(f"the value has {len(value):,} characters of JSON, the most is {MAX_VALUE:,}")
        if ttl is not None and not 0 < ttl <= MAX_TTL:
            raise ConfigError(f"ttl is a number of minutes above 0 and up to {MAX_TTL:,}, got {ttl}")
        spans, vectors = embedded(document, [Span(0, len(document.text))], embed)
        memory_id = memory_id_of(tenant, document.digest)
        at = queries.microseconds_of(now or datetime.now(UTC))
        with self._catalog.write() as connection:
            queries.require_embedder(connection, tenant, embedder)
            if queries.find(connection, tenant, memory_id) is None:
                queries.insert_memory(connection, tenant, memory_id, document)
                queries.insert_chunks(connection, tenant, memory_id, spans, vectors)
            expires = None if ttl is None else at + round(ttl * MINUTE)
            what: dict[str, Any] = {
                "value": value,
                "memory_id": memory_id,
                "searched": searched,
                "updated": at,
            }
            what |= {"ttl": ttl, "expires": expires}
            _upsert(connection, tenant, key, what, at)
            require_within(connection, tenant)

    def get(self, tenant: str, key: str, now: datetime | None = None) -> Item | None:
        """The item of that key, unless it has expired."""
        check_tenant(tenant)
        query = select(items).where(_is(tenant, key), _alive(now))
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
        at = queries.microseconds_of(now or datetime.now(UTC))
        these = and_(items.c.tenant == tenant, items.c.key.in_(keys), items.c.ttl.is_not(None))
        with self._catalog.write() as connection:
            for row in connection.execute(select(items.c.key, items.c.ttl).where(these)).all():
                later = update(items).where(_is(tenant, row.key))
                connection.execute(later.values(expires=at + round(row.ttl * MINUTE)))

    def remove(self, tenant: str, key: str) -> str | None:
        """Remove an item that shares its memory with others; else the id of the memory to forget for that."""
        check_tenant(tenant)
        with self._catalog.write() as connection:
            row = connection.execute(select(items.c.memory_id).where(_is(tenant, key))).first()
            if row is None:
                return None
            others = select(func.count()).where(
                items.c.tenant == tenant, items.c.memory_id == row.memory_id, items.c.key != key
            )
            if not connection.execute(others).scalar():
                return str(row.memory_id)
            connection.execute(delete(items).where(_is(tenant, key)))
        self._catalog.checkpoint()
        return None

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
        """Keys whose time is over."""
        check_tenant(tenant)
        query = select(items.c.key).where(items.c.tenant == tenant, ~_alive(now))
        with self._catalog.read() as connection:
            return list(connection.execute(query).scalars())

    def spaces(self, tenant: str, now: datetime | None = None) -> list[str]:
        """Names of the tenants beneath one, ``tenant/...``, that have items which have not expired."""
        check_tenant(tenant)
        beneath = items.c.tenant.startswith(tenant + SEPARATOR, autoescape=True)
        query = select(items.c.tenant).where(beneath, _alive(now)).distinct().order_by(items.c.tenant)
        with self._catalog.read() as connection:
            return list(connection.execute(query).scalars())


def _upsert(connection: Connection, tenant: str, key: str, what: dict[str, Any], at: int) -> None:
    known = connection.execute(select(items.c.memory_id).where(_is(tenant, key))).first()
    if known is not None:
        stale = {} if known.memory_id == what["memory_id"] else {"stale": known.memory_id}
        connection.execute(update(items).where(_is(tenant, key)).values(**what, **stale))
        return
    last = connection.execute(select(func.max(items.c.number)).where(items.c.tenant == tenant)).scalar()
    number = (last or 0) + 1
    connection.execute(insert(items).values(tenant=tenant, key=key, number=number, created=at, **what))


def _is(tenant: str, key: str) -> ColumnElement[bool]:
    return and_(items.c.tenant == tenant, items.c.key == key)


def _alive(now: datetime | None) -> ColumnElement[bool]:
    at = queries.microseconds_of(now or datetime.now(UTC))
    return or_(items.c.expires.is_(None), items.c.expires > at)


def _to_item(row: RowMapping) -> Item:
    names = ("tenant", "key", "value", "memory_id", "searched", "ttl")
    times: dict[str, Any] = {name: queries.time_of(row[name]) for name in ("created", "updated")}
    times["expires"] = None if row["expires"] is None else queries.time_of(row["expires"])
    return Item(**{name: row[name] for name in names}, **times)
