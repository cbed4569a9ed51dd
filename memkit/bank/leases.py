"""Leases: who is compiling a memory, so that no two do at once."""

from __future__ import annotations

import os
import socket
import uuid
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, delete, insert, select, update

from memkit.bank import queries
from memkit.bank.catalog import AnyCatalog
from memkit.bank.records import check_tenant
from memkit.bank.tables import leases
from memkit.errors import BankBusyError

LENGTH = timedelta(minutes=2)  # that a lease outlives its last renewal: a killed process blocks no longer


class Lease:
    """One memory, held by one compilation; a context that ends the lease."""

    def __init__(self, catalog: AnyCatalog, tenant: str, memory_id: str, owner: str) -> None:
        self._catalog, self._owner = catalog, owner
        self._of = (leases.c.tenant == tenant, leases.c.memory_id == memory_id, leases.c.owner == owner)
        self._renewed = datetime.now(UTC)

    def renew(self) -> None:
        """Hold on, once a quarter of the lease is over. Raises `BankBusyError` when another took it."""
        now = datetime.now(UTC)
        if abs(now - self._renewed) < LENGTH / 4:  # a clock may go backwards, too
            return
        until = queries.microseconds_of(now + LENGTH)
        with self._catalog.write() as connection:
            held = connection.execute(update(leases).where(*self._of).values(until=until)).rowcount
        if not held:
            raise BankBusyError(
                "another process took this compilation over: this one had stopped for too long"
            )
        self._renewed = now

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, *_: object) -> None:
        with self._catalog.write() as connection:
            connection.execute(delete(leases).where(*self._of))


class Leases:
    """The leases of a bank."""

    def __init__(self, catalog: AnyCatalog) -> None:
        self._catalog = catalog

    def take(self, tenant: str, memory_id: str) -> Lease:
        """Hold a memory for a compilation. Raises `BankBusyError` while another one does."""
        check_tenant(tenant)
        owner = f"{socket.gethostname()[:24]}:{os.getpid()}:{uuid.uuid4().hex[:16]}"
        now = datetime.now(UTC)
        with self._catalog.write() as connection:
            queries.info(connection, tenant, memory_id)
            if (until := _until(connection, tenant, memory_id)) is not None:
                # A lease that ends too far ahead was taken before the clock was set back.
                if now < until <= now + 2 * LENGTH:
                    raise BankBusyError(f"memory {memory_id} is being compiled by another process")
                of_it = (leases.c.tenant == tenant, leases.c.memory_id == memory_id)
                connection.execute(delete(leases).where(*of_it))
            row = {"tenant": tenant, "memory_id": memory_id, "owner": owner}
            end = queries.microseconds_of(now + LENGTH)
            connection.execute(insert(leases).values(**row, until=end))
        return Lease(self._catalog, tenant, memory_id, owner)

    def clear(self, tenant: str, memory_id: str) -> None:
        """End a memory's lease, whoever holds it: for one whose holder is known to be gone."""
        check_tenant(tenant)
        with self._catalog.write() as connection:
            connection.execute(
                delete(leases).where(leases.c.tenant == tenant, leases.c.memory_id == memory_id)
            )


def _until(connection: Connection, tenant: str, memory_id: str) -> datetime | None:
    query = select(leases.c.until).where(leases.c.tenant == tenant, leases.c.memory_id == memory_id)
    until = connection.execute(query).scalar()
    return None if until is None else queries.time_of(until)
