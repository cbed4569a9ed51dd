"""The catalog's tables. A change here needs a migration (`memkit.bank.schema`)."""

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
# Names are compared and ordered byte by byte. SQLite does so by default; a PostgreSQL database may have a
# collation that treats different names as equal.
_Name = Text().with_variant(Text(collation="C"), "postgresql")

# A row outlives the tenant's memories: if `generation` started over, another process could mistake its index
# for the current one.
tenants = Table(
    "tenants",
    metadata,
    Column("key", String(64), primary_key=True),  # `memkit.bank.types.tenant_key`, not the name
    Column("generation", Integer, nullable=False),  # number of changes to the tenant's chunks
    Column("cut", Integer, nullable=False, server_default="0"),  # the last change beyond adding
)
# The embedder of a tenant's vectors. A tenant without a row has no vectors, or an embedder without a name.
embedders = Table(
    "embedders",
    metadata,
    Column("key", String(64), primary_key=True),  # `memkit.bank.types.tenant_key`
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
    # Set for a running memory: its digest is that of the name, its text the entries' lines ordered by date.
    Column("name", Text),
    Column("pinned", Boolean, nullable=False, server_default=false()),  # new versions do not become current
    Column("asked", Integer, nullable=False, server_default="0"),  # questions that it answered
    Column("last_asked", BigInteger),
    Column("attempt", String(64)),  # of a failed compilation: a digest of its source, options and model
    # `Document.identity`; for running memories and items the same as the digest.
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
    Column("since", Integer, nullable=False, server_default="0"),  # the tenant's generation when it was added
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
    # The model it was compiled for and the text it was compiled from; null in rows from before migrations.
    Column("fingerprint", Text),
    Column("digest", String(64)),  # of the source text
    # For a running memory: the newest compiled entry's number, and the oldest one's time.
    Column("through", Integer),
    Column("since", BigInteger),
    Column("seconds", Float),
    Column("flops", Float),
    _of_memory(),
)
# The messages of a running memory; `start` and `end` are the character span of the entry's line in the text.
entries = Table(
    "entries",
    metadata,
    Column("tenant", _Name, primary_key=True),
    Column("memory_id", String(16), primary_key=True),
    Column("number", Integer, primary_key=True),  # in insertion order
    Column("said", BigInteger, nullable=False),  # microseconds since 1970, UTC; orders the text
    Column("speaker", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("start", Integer, nullable=False),
    Column("end", Integer, nullable=False),
    Column("key", _Name),  # idempotency key of a call; `part` numbers its entries
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
# Values that stores keep under keys. An item is searched through its memory.
items = Table(
    "items",
    metadata,
    Column("tenant", _Name, primary_key=True),
    Column("key", _Name, primary_key=True),
    Column("number", Integer, nullable=False),  # in insertion order
    Column("value", Text, nullable=False),  # JSON
    Column("memory_id", String(16), nullable=False),
    Column("stale", String(16)),  # memory of the replaced value, until it is forgotten
    Column("searched", Boolean, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("updated", BigInteger, nullable=False),
    Column("ttl", Float),  # minutes
    Column("expires", BigInteger),
    _of_memory(),
)
# Compilations that have not finished.
waiting = Table(
    "waiting",
    metadata,
    Column("tenant", _Name, primary_key=True),
    Column("memory_id", String(16), primary_key=True),
    Column("added", BigInteger, nullable=False),
    Column("always", Boolean, nullable=False, server_default=false()),  # even against the advice
    _of_memory(),
)
policies = Table(
    "policies",
    metadata,
    Column("key", String(64), primary_key=True),  # `memkit.bank.types.tenant_key`
    Column("keep_days", Integer),
    Column("max_memories", BigInteger),
    Column("max_characters", BigInteger),
    Column("max_bytes", BigInteger),
)
api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(16), primary_key=True),  # the public part of the key
    Column("tenant", _Name, nullable=False),
    Column("hash", String(64), nullable=False),  # SHA-256 of the key
    Column("label", Text, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("revoked", BigInteger),
    Column("scope", String(8), nullable=False, server_default="tenant"),  # or "user": what `tenant` names
)
tombstones = Table(
    "tombstones",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("tenant_key", String(64), nullable=False),
    Column("memory_hash", String(64), nullable=False),
    Column("forgotten", BigInteger, nullable=False),
)
