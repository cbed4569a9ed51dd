"""Leases: at most one process compiles a memory at a time."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import uuid
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection, delete, insert, select, update

from memkit.bank import statements
from memkit.bank.catalog import AnyCatalog
from memkit.bank.tables import leases
from memkit.bank.types import check_tenant
from memkit.errors import BankBusyError, BankError

LENGTH = timedelta(minutes=2)  # after the last renewal a lease expires, so a killed process blocks no longer


class Lease:
    """The exclusive right to compile one memory. A context manager: renews itself, and ends at its exit."""

    def __init__(self, catalog: AnyCatalog, tenant: str, memory_id: str, owner: str) -> None:
        self._catalog, self._owner, self._memory = catalog, owner, (tenant, memory_id)
        self._of = (leases.c.tenant == tenant, leases.c.memory_id == memory_id, leases.c.owner == owner)
        self._renewed = datetime.now(UTC)
        self._ended, self._lost = threading.Event(), False
        self._renewer = threading.Thread(target=self._keep_renewing, name="memkit-lease", daemon=True)

    def renew(self) -> None:
        """Renew the lease; does nothing before a quarter of it is over.

        Raises `BankBusyError` when another process took it, `NotFoundError` when the memory was forgotten.
        """
        now = datetime.now(UTC)
        if abs(now - self._renewed) < LENGTH / 4 and not self._lost:  # abs: a clock may go backwards
            return
        until = statements.microseconds_of(now + LENGTH)
        with self._catalog.write() as connection:
            renewed = connection.execute(update(leases).where(*self._of).values(until=until)).rowcount
            if not renewed:
                self._lost = True
                statements.info(connection, *self._memory)  # raises NotFoundError if it was forgotten
        if not renewed:
            raise BankBusyError(
                "another process took this compilation over: this one had stopped for too long"
            )
        self._renewed = now

    def _keep_renewing(self) -> None:
        """Renew in the background, for phases without progress reports, such as the admission tests."""
        while not self._lost and not self._ended.wait(LENGTH.total_seconds() / 4):
            with suppress(BankError):  # the catalog is busy and will be tried again, or the lease is lost
                self.renew()

    def __enter__(self) -> Lease:
        self._renewer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._renewer.join()
        with self._catalog.write() as connection:
            connection.execute(delete(leases).where(*self._of))


class Leases:
    """The leases of a bank."""

    def __init__(self, catalog: AnyCatalog) -> None:
        self._catalog = catalog

    def take(self, tenant: str, memory_id: str) -> Lease:
        """A lease on a memory. Raises `BankBusyError` while another process holds one."""
        check_tenant(tenant)
        owner = f"{_process_space()}:{os.getpid()}:{uuid.uuid4().hex[:16]}"
        now = datetime.now(UTC)
        with self._catalog.write() as connection:
            statements.info(connection, tenant, memory_id)
            if (current := _current(connection, tenant, memory_id)) is not None:
                other, until = current
                # A lease that ends too far ahead was taken before the clock was set back.
                if now < until <= now + 2 * LENGTH and not _has_ended(other):
                    raise BankBusyError(f"memory {memory_id} is being compiled by another process")
                of_it = (leases.c.tenant == tenant, leases.c.memory_id == memory_id)
                connection.execute(delete(leases).where(*of_it))
            row = {"tenant": tenant, "memory_id": memory_id, "owner": owner}
            end = statements.microseconds_of(now + LENGTH)
            connection.execute(insert(leases).values(**row, until=end))
        return Lease(self._catalog, tenant, memory_id, owner)

    def clear(self, tenant: str, memory_id: str) -> None:
        """End a memory's lease, whoever holds it; only for a holder that is known to have ended."""
        check_tenant(tenant)
        with self._catalog.write() as connection:
            connection.execute(
                delete(leases).where(leases.c.tenant == tenant, leases.c.memory_id == memory_id)
            )


def _current(connection: Connection, tenant: str, memory_id: str) -> tuple[str, datetime] | None:
    """The owner of a memory's lease, and its end."""
    query = select(leases.c.owner, leases.c.until)
    query = query.where(leases.c.tenant == tenant, leases.c.memory_id == memory_id)
    row = connection.execute(query).first()
    return None if row is None else (row.owner, statements.time_of(row.until))


def _process_space() -> str:
    """Identifies the scope of process ids: this machine since its boot, or this container."""
    marks = [socket.gethostname()]
    with suppress(OSError):
        marks.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        marks.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return hashlib.sha256("\n".join(marks).encode()).hexdigest()[:16]


def _has_ended(owner: str) -> bool:
    """Whether the process that took a lease has certainly ended; False where this machine cannot know."""
    place, _, rest = owner.partition(":")
    process = rest.partition(":")[0]
    if os.name == "nt" or place != _process_space() or not process.isdigit():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:  # it exists and belongs to another user
        return False
    return False
