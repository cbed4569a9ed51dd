"""The catalog in PostgreSQL, for a bank that several machines share."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection, Engine, create_engine, insert, select
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from memkit.bank import schema
from memkit.bank.error_mapping import mapped_errors
from memkit.bank.tables import metadata
from memkit.errors import ConfigError, MissingExtraError, install_line

LOCK = 0x6D656D6B6974  # "memkit" in ASCII: the advisory lock that all writers take
ROWS = 1000  # rows copied at once
_CONTENT_TABLES = ("memories", "chunks", "entries", "artifacts")


class PostgresCatalog:
    """One database at an SQLAlchemy URL such as ``postgresql+psycopg://user@host/name``.

    A writer holds an advisory lock for its transaction, so that writers queue as they do in SQLite, for up to
    ``timeout`` seconds. Raises `ConfigError` for another kind of URL.
    """

    def __init__(self, url: str, timeout: float) -> None:
        try:
            self._url = make_url(url)
        except ArgumentError as error:
            raise ConfigError(f"{url.partition('@')[2] or 'it'} is no database URL: {error}") from error
        if self._url.get_backend_name() != "postgresql":
            raise ConfigError(
                f"a shared catalog is postgresql+psycopg://..., got {self._url.get_backend_name()}://..."
            )
        self.path = self._url.render_as_string(hide_password=True)
        self._timeout = timeout
        self._engine: Engine | None = None
        self._lock = threading.Lock()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees a consistent snapshot of the catalog."""
        with mapped_errors(self.path), self._open().connect() as plain:
            connection = plain.execution_options(isolation_level="REPEATABLE READ")
            with connection.begin():
                yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that holds the writers' lock from its start. Raises `BankBusyError` after the
        timeout."""
        with mapped_errors(self.path), self._open().begin() as connection:
            self._lock_writers(connection)
            yield connection

    def _lock_writers(self, connection: Connection) -> None:
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {int(self._timeout * 1000)}")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")

    def purge_deleted(self) -> None:
        """Vacuum the tables with content, so that PostgreSQL reuses the space of deleted rows.

        It overwrites that space in its own time, and its write-ahead log keeps the rows as long as
        configured.
        """
        with mapped_errors(self.path), self._open().connect() as plain:
            connection = plain.execution_options(isolation_level="AUTOCOMMIT")
            for table in _CONTENT_TABLES:
                connection.exec_driver_sql(f"VACUUM {table}")

    def copy_to(self, path: Path) -> None:
        """Write a snapshot of the catalog to a new SQLite file, the format of a local bank."""
        target = create_engine(f"sqlite:///{path}")
        try:
            with self.read() as source, target.begin() as copy:
                schema.prepare(copy, path)
                for table in metadata.sorted_tables:
                    for rows in source.execute(select(table)).mappings().partitions(ROWS):
                        copy.execute(insert(table), [dict(row) for row in rows])
        finally:
            target.dispose()

    def close(self) -> None:
        """Close all connections; the next use opens the catalog again."""
        with self._lock:
            engine, self._engine = self._engine, None
        if engine is not None:
            engine.dispose()

    def _open(self) -> Engine:
        with self._lock:
            if self._engine is None:
                self._engine = self._connected()
            return self._engine

    def _connected(self) -> Engine:
        try:
            engine = create_engine(
                self._url,
                pool_pre_ping=True,  # the server may have been restarted
                pool_timeout=self._timeout,
                connect_args={"connect_timeout": max(int(self._timeout), 1)},
            )
        except ImportError as error:
            raise MissingExtraError("psycopg", install_line("postgres")) from error
        try:
            with mapped_errors(self.path):
                with engine.connect() as connection:
                    current = schema.state(connection, self.path) == "current"
                if not current:
                    with engine.begin() as connection:
                        self._lock_writers(connection)
                        schema.prepare(connection, self.path)
        except BaseException:
            engine.dispose()
            raise
        return engine
