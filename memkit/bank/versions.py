"""Versions of a memory's artifact: history, rollback, pinning and pruning."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, and_, delete, select, update

from memkit.bank import statements
from memkit.bank.catalog import AnyCatalog
from memkit.bank.tables import artifacts, memories
from memkit.bank.types import MemoryInfo, check_tenant
from memkit.errors import ConfigError, NotFoundError


@dataclass(frozen=True)
class Version:
    """One version of a memory's artifact; questions are answered with the ``current`` one.

    ``fingerprint`` is the base model's and ``digest`` that of the source text. For a running memory,
    ``through`` is the number of the last compiled entry; entries said before ``since`` were left out.
    ``seconds`` and ``flops`` are the cost of compiling, if known.
    """

    version: int
    current: bool
    artifact_id: str
    nbytes: int
    compiler: str
    created: datetime
    fingerprint: str | None
    digest: str | None
    through: int | None
    since: datetime | None
    seconds: float | None
    flops: float | None


class Versions:
    """The versions of a bank's memories; ``discard`` removes files that no row refers to any more."""

    def __init__(self, catalog: AnyCatalog, discard: Callable[[str, Iterable[str]], None]) -> None:
        self._catalog, self._discard = catalog, discard

    def history(self, tenant: str, memory_id: str) -> list[Version]:
        """All stored versions of a memory, oldest first."""
        check_tenant(tenant)
        with self._catalog.read() as connection:
            return _history(connection, tenant, memory_id)

    def of(self, tenant: str) -> list[Version]:
        """All stored versions of all memories of a tenant, oldest first."""
        check_tenant(tenant)
        with self._catalog.read() as connection:
            one = and_(memories.c.tenant == artifacts.c.tenant, memories.c.id == artifacts.c.memory_id)
            query = select(artifacts, memories.c.version.label("current")).join(memories, one)
            rows = connection.execute(query.where(artifacts.c.tenant == tenant).order_by(artifacts.c.created))
            return [_version(row, row.current) for row in rows]

    def rollback(self, tenant: str, memory_id: str, version: int) -> MemoryInfo:
        """Make another stored version the current one. The next compilation still publishes a new one.

        Raises `NotFoundError` for an unknown memory or version.
        """
        check_tenant(tenant)
        with self._catalog.write() as connection:
            numbers = [each.version for each in _history(connection, tenant, memory_id)]
            if version not in numbers:
                there = ", ".join(map(str, numbers)) or "none"
                raise NotFoundError(f"memory {memory_id} has no version {version}; there are: {there}")
            _set(connection, tenant, memory_id, version=version, status="compiled", error=None)
            return statements.info(connection, tenant, memory_id)

    def pin(self, tenant: str, memory_id: str, pinned: bool = True) -> MemoryInfo:
        """Keep the current version current, whatever is compiled, until it is unpinned.

        Raises `ConfigError` for a memory without an artifact.
        """
        check_tenant(tenant)
        with self._catalog.write() as connection:
            if not statements.info(connection, tenant, memory_id).version and pinned:
                raise ConfigError(f"memory {memory_id} has no artifact to pin: compile it first")
            _set(connection, tenant, memory_id, pinned=pinned)
            return statements.info(connection, tenant, memory_id)

    def prune(self, tenant: str, memory_id: str, keep: int) -> int:
        """Remove all but the newest ``keep`` versions and the current one; returns the number removed."""
        check_tenant(tenant)
        if keep < 1:
            raise ConfigError(f"at least one version must be kept, got {keep}")
        with self._catalog.write() as connection:
            history = _history(connection, tenant, memory_id)
            old = [each for each in history[:-keep] if not each.current]
            of_memory = (artifacts.c.tenant == tenant) & (artifacts.c.memory_id == memory_id)
            numbers = [each.version for each in old]
            connection.execute(delete(artifacts).where(of_memory, artifacts.c.version.in_(numbers)))
        self._discard(tenant, [each.artifact_id for each in old])
        return len(old)


def _history(connection: Connection, tenant: str, memory_id: str) -> list[Version]:
    current = statements.info(connection, tenant, memory_id).version
    query = select(artifacts).where(artifacts.c.tenant == tenant, artifacts.c.memory_id == memory_id)
    rows = connection.execute(query.order_by(artifacts.c.version))
    return [_version(row, current) for row in rows]


def _version(row: Row[Any], current: int) -> Version:
    return Version(
        version=row.version,
        current=row.version == current,
        artifact_id=row.id,
        nbytes=row.nbytes,
        compiler=row.compiler,
        created=statements.time_of(row.created),
        fingerprint=row.fingerprint,
        digest=row.digest,
        through=row.through,
        since=None if row.since is None else statements.time_of(row.since),
        seconds=row.seconds,
        flops=row.flops,
    )


def _set(connection: Connection, tenant: str, memory_id: str, **values: object) -> None:
    one = (memories.c.tenant == tenant) & (memories.c.id == memory_id)
    connection.execute(update(memories).where(one).values(**values))
