"""Pending compilations, stored in the catalog so that the next process to open the bank resumes them."""

from __future__ import annotations

from sqlalchemy import and_, delete, insert, select, update

from memkit.bank import statements
from memkit.bank.catalog import AnyCatalog
from memkit.bank.tables import waiting
from memkit.bank.types import check_tenant


class PendingCompilations:
    """The compilations of a bank that have not finished. Forgetting a memory removes its own."""

    def __init__(self, catalog: AnyCatalog) -> None:
        self._catalog = catalog

    def add(self, tenant: str, memory_id: str, *, always: bool = False) -> None:
        """Record that a memory is to be compiled; does nothing if it was forgotten.

        ``always`` compiles it even if the advice is that compiling does not pay.
        """
        check_tenant(tenant)
        this = and_(waiting.c.tenant == tenant, waiting.c.memory_id == memory_id)
        with self._catalog.write() as connection:
            recorded = connection.execute(select(waiting.c.always).where(this)).first()
            if recorded is None and statements.find(connection, tenant, memory_id) is not None:
                row = {"tenant": tenant, "memory_id": memory_id, "added": statements.now(), "always": always}
                connection.execute(insert(waiting).values(**row))
            elif always:
                connection.execute(update(waiting).where(this).values(always=True))

    def done(self, tenant: str, memory_id: str) -> None:
        """Remove a memory's pending compilation, if there is one."""
        check_tenant(tenant)
        this = and_(waiting.c.tenant == tenant, waiting.c.memory_id == memory_id)
        with self._catalog.read() as connection:
            if connection.execute(select(waiting.c.added).where(this)).first() is None:
                return
        with self._catalog.write() as connection:
            connection.execute(delete(waiting).where(this))

    def all(self) -> list[tuple[str, str, bool]]:
        """(owner, memory id, ``always``) of all pending compilations of the bank, oldest first."""
        query = select(waiting.c.tenant, waiting.c.memory_id, waiting.c.always)
        with self._catalog.read() as connection:
            return [(row[0], row[1], row[2]) for row in connection.execute(query.order_by(waiting.c.added))]
