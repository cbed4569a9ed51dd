"""The catalog's tables, all by tenant. A change here needs a migration beside it (`memkit.bank.schema`)."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKeyConstraint,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

# `generation` outlives a tenant's memories: were it to start again, an index of another process
# could pass for current.
tenants = Table(
    "tenants",
    metadata,
    Column("key", String(64), primary_key=True),  # of records.tenant_key: no name is kept
    Column("generation", Integer, nullable=False),
)
# Which embedder made a tenant's vectors; a tenant without a row has none, or one without a name.
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
