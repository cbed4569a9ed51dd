"""The catalog: an SQLite database of memories, chunks and artifact versions, each row owned by a tenant."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import Connection, Engine, QueuePool, create_engine, event

from memkit.bank import schema
from memkit.bank.error_mapping import mapped_errors, read_only
from memkit.errors import BankBusyError, BankReadOnlyError


class AnyCatalog(Protocol):
    """The interface of a catalog: `Catalog` in an SQLite file, or `memkit.bank.postgres.PostgresCatalog`."""

    path: Any  # for messages: the file, or the URL without its password

    def read(self) -> AbstractContextManager[Connection]:
        """A transaction that sees a consistent snapshot of the catalog."""

    def write(self) -> AbstractContextManager[Connection]:
        """A transaction that excludes all other writers."""

    def purge_deleted(self) -> None:
        """Purge deleted rows from the database's log, as far as the database allows."""

    def copy_to(self, path: Path) -> None:
        """Write a snapshot of the catalog to a new SQLite file."""

    def close(self) -> None:
        """Close all connections; the next use opens the catalog again."""


class Catalog:
    """One database file, opened at first use; read-only where the file or its folder cannot be written.

    Writers wait for each other up to ``timeout`` seconds.
    """

    def __init__(self, path: Path, timeout: float) -> None:
        self.path = path
        self._timeout = timeout
        self._engine: Engine | None = None
        self._writable = True
        self._lock = threading.Lock()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees a consistent snapshot of the catalog."""
        with mapped_errors(self.path), self._open().begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that holds the write lock from its start, so that writers queue.

        Raises `BankReadOnlyError` where the catalog cannot be written, `BankBusyError` after the timeout.
        """
        with mapped_errors(self.path):
            engine = self._open()
            if not self._writable:
                raise read_only(self.path)
            with _immediate(engine).begin() as connection:
                yield connection

    def purge_deleted(self) -> None:
        """Move the write-ahead log into the database and truncate it, so that no deleted text stays in it.

        Raises `BankBusyError` when another process's read keeps the log busy for the whole timeout.
        """
        deadline = time.monotonic() + self._timeout
        while self._checkpoint_blocked():
            # Another process reads or checkpoints; SQLite does not queue for this.
            if time.monotonic() < deadline:
                time.sleep(0.02)
                continue
            raise BankBusyError(
                f"deleted text stays in the log of {self.path} until another process ends its read; "
                "run `memkit doctor --repair` then"
            )

    def _checkpoint_blocked(self) -> bool:
        with mapped_errors(self.path):
            connection = self._open().raw_connection()
            try:
                cursor = connection.cursor()
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                blocked, _, _ = cursor.fetchone() or (1, 0, 0)
            finally:
                connection.close()
        return bool(blocked)

    def copy_to(self, path: Path) -> None:
        """Write a snapshot of the catalog to a new file, without the space of deleted rows."""
        with mapped_errors(self.path):
            connection = self._open().raw_connection()
            try:
                connection.cursor().execute("VACUUM INTO ?", (str(path),))
            finally:
                connection.close()

    def close(self) -> None:
        """Close all connections; the next use opens the catalog again."""
        with self._lock:
            engine, self._engine = self._engine, None
        if engine is not None:
            engine.dispose()

    def _open(self) -> Engine:
        with self._lock:
            if self._engine is None:
                try:
                    self._engine, self._writable = self._open_writable(), True
                except BankReadOnlyError:
                    with mapped_errors(self.path):
                        if not self.path.exists():
                            raise
                    self._engine, self._writable = self._open_readable(), False
            return self._engine

    def _open_writable(self) -> Engine:
        with mapped_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._connected("mode=rwc") as engine:
            deadline = time.monotonic() + self._timeout
            while not _is_current(self.path, engine):
                try:
                    _prepare(self.path, engine)
                except BankBusyError:  # another process prepares it; SQLite does not queue for WAL mode
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)
            return engine

    def _open_readable(self) -> Engine:
        """Open the catalog in a read-only folder, which SQLite can do while no process has it open."""
        with mapped_errors(self.path):
            log = self.path.with_name(self.path.name + "-wal")
            unfinished = log.exists() and log.stat().st_size > 0
        try:
            return self._open_unchanged("mode=ro")
        except BankReadOnlyError as error:
            if unfinished:
                raise BankReadOnlyError(
                    f"{self.path} was not closed: open it once where its folder can be written"
                ) from error
        return self._open_unchanged("mode=ro&immutable=1")

    def _open_unchanged(self, mode: str) -> Engine:
        with self._connected(mode) as engine:
            if not _is_current(self.path, engine):
                raise read_only(self.path)
            return engine

    @contextmanager
    def _connected(self, mode: str) -> Iterator[Engine]:
        uri = f"{self.path.absolute().as_uri()}?{mode}"

        def connect() -> sqlite3.Connection:
            connection = sqlite3.connect(
                uri, uri=True, timeout=self._timeout, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA secure_delete=ON")
            return connection

        engine = create_engine("sqlite://", creator=connect, poolclass=QueuePool, pool_timeout=self._timeout)
        event.listen(engine, "begin", _begin)
        try:
            with mapped_errors(self.path):
                yield engine
        except BaseException:
            engine.dispose()
            raise


def _begin(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("memkit_immediate")
    # Bypasses SQLAlchemy, whose overhead here exceeds the time of a small query.
    driver: sqlite3.Connection = connection.connection.driver_connection  # type: ignore[assignment]
    driver.execute("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _immediate(engine: Engine) -> Engine:
    return engine.execution_options(memkit_immediate=True)


def _is_current(path: Path, engine: Engine) -> bool:
    """Whether the schema is the newest; `BankError` when the file is not a bank's catalog."""
    with mapped_errors(path), engine.begin() as connection:
        return schema.state(connection, path) == "current"


def _prepare(path: Path, engine: Engine) -> None:
    """Create the tables, or migrate those of an earlier memkit, in one transaction."""
    with mapped_errors(path):
        connection = engine.raw_connection()
        try:
            connection.cursor().execute("PRAGMA journal_mode=WAL")
        finally:
            connection.close()
        with _immediate(engine).begin() as locked:
            schema.prepare(locked, path)
