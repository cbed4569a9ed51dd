"""The catalog's tables, all by tenant. A change here needs a migration beside it (`memkit.bank.schema`)."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
)

metadata = MetaData()
# Names are compared and ordered byte by byte. SQLite does so anyway; a PostgreSQL database may have been made
# with a collation for which different names are equal.
_Name = Text().with_variant(Text(collation="C"), "postgresql")

# `generation` outlives a tenant's memories: were it to start again, an index of another process
# could pass for current.
tenants = Table(
    "tenants",
    metadata,
    Column("key", String(64), primary_key=True),  # of records.tenant_key: no name is kept
    Column("generation", Integer, nullable=False),  # counts the changes of the tenant's chunks
    Column("cut", Integer, nullable=False, server_default="0"),  # the last change that did not only add
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
    Column("tenant", _Name, primary_key=True),
    Column("id", String(16), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("title", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("characters", Integer, nullable=False),
    Column("status", String(8), nullable=False),
    Column("version", Integer, nullable=False),
    Column("error", Text),
    Column("created", BigInteger, nullable=False),  # microseconds since 1970, UTC
    # Of a running memory, whose digest is made of the name, and the text of its entries in the order of time.
    Column("name", Text),
    Column("pinned", Boolean, nullable=False, server_default=false()),  # its version stays the current one
    Column("asked", Integer, nullable=False, server_default="0"),  # questions that it answered
    Column("last_asked", BigInteger),
    Column("attempt", String(64)),  # of a compilation that failed: what it was made from, with and for
    # Of the text as it looks (`Document.identity`); of what has a name or a key, its digest.
    Column("identity", String(64), nullable=False, server_default=""),
    UniqueConstraint("tenant", "digest"),
    Index("memories_identity", "tenant", "identity"),
)


def _of_memory() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(
        ["tenant", "memory_id"], ["memories.tenant", "memories.id"], ondelete="CASCADE"
    )


chunks = Table(
    "chunks",
    metadata,
    Column("tenant", _Name, primary_key=True),
    Column("memory_id", String(16), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("start", Integer, nullable=False),
    Column("end", Integer, nullable=False),
    Column("embedding", LargeBinary, nullable=False),  # little-endian float32 [dim]
    Column("since", Integer, nullable=False, server_default="0"),  # the tenant's generation that it came with
    _of_memory(),
    Index("chunks_since", "tenant", "since"),
)
artifacts = Table(
    "artifacts",
    metadata,
    Column("tenant", _Name, primary_key=True),
    Column("memory_id", String(16), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("id", String(64), nullable=False),
    Column("nbytes", BigInteger, nullable=False),
    Column("compiler", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
    # What it was compiled for and from; none of it is known of versions of memkit before migrations.
    Column("fingerprint", Text),
    Column("digest", String(64)),  # of the text
    # Of a running memory: the newest entry's number, and the time of the oldest one that was compiled.
    Column("through", Integer),
    Column("since", BigInteger),
    Column("seconds", Float),
    Column("flops", Float),
    _of_memory(),
)
# What was said to a running memory, as it was said; `start` and `end` are its line's place in the text.
entries = Table(
    "entries",
    metadata,
    Column("tenant", _Name, primary_key=True),
    Column("memory_id", String(16), primary_key=True),
    Column("number", Integer, primary_key=True),  # in the order of arrival
    Column("said", BigInteger, nullable=False),  # microseconds since 1970, UTC; orders the text
    Column("speaker", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("start", Integer, nullable=False),
    Column("end", Integer, nullable=False),
    Column("key", _Name),  # what makes a repeated call harmless; `part` counts the entries of one call
    Column("part", Integer, nullable=False),
    Column("zone", Integer, nullable=False, server_default="0"),  # the speaker's, in minutes east of UTC
    UniqueConstraint("tenant", "memory_id", "said"),
    UniqueConstraint("tenant", "memory_id", "key", "part"),
    _of_memory(),
)
leases = Table(
    "leases",
    metadata,
    Column("tenant", _Name, primary_key=True),
    Column("memory_id", String(16), primary_key=True),
    Column("owner", String(64), nullable=False),
    Column("until", BigInteger, nullable=False),
    _of_memory(),
)
# What stores keep under keys. The memory makes it found; several items may have the same text.
items = Table(
    "items",
    metadata,
    Column("tenant", _Name, primary_key=True),
    Column("key", _Name, primary_key=True),
    Column("number", Integer, nullable=False),  # in the order of arrival
    Column("value", Text, nullable=False),  # JSON
    Column("memory_id", String(16), nullable=False),
    Column("stale", String(16)),  # the memory that it had before, until that is forgotten
    Column("searched", Boolean, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("updated", BigInteger, nullable=False),
    Column("ttl", Float),  # minutes
    Column("expires", BigInteger),
    _of_memory(),
)
# Compilations that nobody has begun or ended yet.
waiting = Table(
    "waiting",
    metadata,
    Column("tenant", _Name, primary_key=True),
    Column("memory_id", String(16), primary_key=True),
    Column("added", BigInteger, nullable=False),
    Column("always", Boolean, nullable=False, server_default=false()),  # whatever the advice is
    _of_memory(),
)
policies = Table(
    "policies",
    metadata,
    Column("key", String(64), primary_key=True),  # of records.tenant_key
    Column("keep_days", Integer),
    Column("max_memories", BigInteger),
    Column("max_characters", BigInteger),
    Column("max_bytes", BigInteger),
)
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(16), primary_key=True),  # part of the key, and no secret
    Column("tenant", _Name, nullable=False),
    Column("hash", String(64), nullable=False),  # SHA-256 of the key
    Column("label", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("revoked", BigInteger),
    Column("scope", String(8), nullable=False, server_default="tenant"),  # what `tenant` names: or a "user"
)
tombstones = Table(
    "tombstones",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("tenant_key", String(64), nullable=False),
    Column("memory_hash", String(64), nullable=False),
    Column("forgotten", BigInteger, nullable=False),
)
