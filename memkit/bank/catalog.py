"""The catalog: an SQLite database of memories, chunks and artifact versions, all by tenant."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    ForeignKeyConstraint,
    Integer,
    LargeBinary,
    MetaData,
    QueuePool,
    String,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    event,
)

from memkit.bank.failures import read_only, translated
from memkit.errors import BankBusyError, BankError, BankReadOnlyError

SCHEMA_VERSION = 2  # 2: the table of embedders
metadata = MetaData()

# `generation` outlives a tenant's memories: were it to start again, an index of another process
# could pass for current.
tenants = Table(
    "tenants",
    metadata,
    Column("key", String(64), primary_key=True),  # of records.tenant_key: no name is kept
    Column("generation", Integer, nullable=False),
)
# Which embedder made a tenant's vectors; a tenant without a row has none, or LEGACY_EMBEDDER's.
embedders = Table(
    "embedders",
    metadata,
    Column("key", String(64), primary_key=True),  # of records.tenant_key
    Column("name", Text, nullable=False),
)
memories = Table(
    "memories",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("id", String(16), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("title", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("characters", Integer, nullable=False),
    Column("status", String(8), nullable=False),
    Column("version", Integer, nullable=False),
    Column("error", Text),
    Column("created", BigInteger, nullable=False),  # microseconds since 1970, UTC
    UniqueConstraint("tenant", "digest"),
)


def _of_memory() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(
        ["tenant", "memory_id"], ["memories.tenant", "memories.id"], ondelete="CASCADE"
    )


chunks = Table(
    "chunks",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("memory_id", String(16), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("start", Integer, nullable=False),
    Column("end", Integer, nullable=False),
    Column("embedding", LargeBinary, nullable=False),  # little-endian float32 [dim]
    _of_memory(),
)
artifacts = Table(
    "artifacts",
    metadata,
    Column("tenant", Text, primary_key=True),
    Column("memory_id", String(16), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("id", String(64), nullable=False),
    Column("nbytes", BigInteger, nullable=False),
    Column("compiler", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
    _of_memory(),
)
tombstones = Table(
    "tombstones",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("tenant_key", String(64), nullable=False),
    Column("memory_hash", String(64), nullable=False),
    Column("forgotten", BigInteger, nullable=False),
)


class Catalog:
    """One database file, opened at first use; read-only where nothing else is possible."""

    def __init__(self, path: Path, timeout: float) -> None:
        self.path = path
        self._timeout = timeout
        self._engine: Engine | None = None
        self._writable = True
        self._lock = threading.Lock()

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the catalog."""
        with translated(self.path), self._open().begin() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that holds the write lock from its start, so that writers queue."""
        with translated(self.path):
            engine = self._open()
            if not self._writable:
                raise read_only(self.path)
            with _immediate(engine).begin() as connection:
                yield connection

    def checkpoint(self) -> None:
        """Move the write-ahead log into the database and empty it, so that nothing deleted stays."""
        with translated(self.path):
            connection = self._open().raw_connection()
            try:
                cursor = connection.cursor()
                cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                blocked, _, _ = cursor.fetchone() or (1, 0, 0)
            finally:
                connection.close()
        if blocked:
            raise BankBusyError(
                f"deleted text stays in the log of {self.path} until another process ends its read; "
                "run `memkit repair` then"
            )

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
                    with translated(self.path):
                        if not self.path.exists():
                            raise
                    self._engine, self._writable = self._open_readable(), False
            return self._engine

    def _open_writable(self) -> Engine:
        with translated(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._connected("mode=rwc") as engine:
            deadline = time.monotonic() + self._timeout
            while not _is_current(self.path, engine):
                try:
                    _create(self.path, engine)
                except BankBusyError:  # another process creates it: SQLite does not queue for WAL
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.02)
            return engine

    def _open_readable(self) -> Engine:
        """Where the folder is read-only, SQLite can read a catalog that no process has open."""
        with translated(self.path):
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
            with translated(self.path):
                yield engine
        except BaseException:
            engine.dispose()
            raise


def _begin(connection: Connection) -> None:
    immediate = connection.get_execution_options().get("memkit_immediate")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")


def _immediate(engine: Engine) -> Engine:
    return engine.execution_options(memkit_immediate=True)


def _is_current(path: Path, engine: Engine) -> bool:
    """Whether the tables are there; `BankError` when the file is something else."""
    with translated(path), engine.begin() as connection:
        version = connection.exec_driver_sql("PRAGMA user_version").scalar_one()
        strange = connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one()
    if version > SCHEMA_VERSION:
        raise BankError(f"{path} was made by a newer memkit (schema {version}); upgrade memkit")
    if version == 0 and strange:
        raise BankError(f"{path} is a database, but not a memkit bank: give another folder")
    return bool(version == SCHEMA_VERSION)


def _create(path: Path, engine: Engine) -> None:
    with translated(path):
        connection = engine.raw_connection()
        try:
            connection.cursor().execute("PRAGMA journal_mode=WAL")
        finally:
            connection.close()
        with _immediate(engine).begin() as created:
            metadata.create_all(created)
            created.exec_driver_sql(f"PRAGMA user_version={SCHEMA_VERSION}")
