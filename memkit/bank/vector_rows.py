"""SQL statements on chunks and their vectors. Each takes a connection in a transaction, then the tenant."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from sqlalchemy import Connection, bindparam, delete, func, insert, select

from memkit.bank import statements
from memkit.bank.tables import chunks, embedders, tenants
from memkit.bank.types import Vectors, tenant_key
from memkit.bank.vector_index import Chunk
from memkit.document import Span
from memkit.errors import BankError, ConfigError

_EMBEDDER = select(embedders.c.name).where(embedders.c.key == bindparam("key"))
_GENERATION = select(tenants.c.generation).where(tenants.c.key == bindparam("key"))


def embedder(connection: Connection, tenant: str) -> str | None:
    """The name of the tenant's embedder, "" if it has none; None for a tenant without vectors."""
    if not statements.exists(connection, tenant):
        return None
    return connection.execute(_EMBEDDER, {"key": tenant_key(tenant)}).scalar() or ""


def require_embedder(connection: Connection, tenant: str, name: str) -> None:
    """Record the embedder of a tenant without vectors; `ConfigError` if the tenant has another one."""
    stored = embedder(connection, tenant)
    if stored is None:
        set_embedder(connection, tenant, name)
    elif stored != name:
        raise ConfigError(
            f"this tenant's vectors were made by the embedder {stored!r}, not {name!r}: "
            "use that one, or `reembed` the tenant"
        )


def set_embedder(connection: Connection, tenant: str, name: str) -> None:
    """Record the embedder of the tenant's vectors."""
    key = tenant_key(tenant)
    connection.execute(delete(embedders).where(embedders.c.key == key))
    connection.execute(insert(embedders).values(key=key, name=name))


def delete_chunks(connection: Connection, tenant: str) -> None:
    """Delete all chunks of the tenant's memories."""
    connection.execute(delete(chunks).where(chunks.c.tenant == tenant))
    statements.next_generation(connection, tenant, cut=True)


def insert_chunks(
    connection: Connection, tenant: str, memory_id: str, spans: Sequence[Span], vectors: Vectors
) -> None:
    """Add chunks of a memory with their vectors, float32 [chunks, dim].

    Raises `ConfigError` when the tenant's other vectors have another ``dim``.
    """
    size = connection.execute(
        select(func.length(chunks.c.embedding)).where(chunks.c.tenant == tenant).limit(1)
    )
    dim = (size.scalar() or vectors.shape[1] * 4) // 4
    if dim != vectors.shape[1]:
        raise ConfigError(
            f"the embeddings have {vectors.shape[1]} dimensions, this tenant's others have {dim}: use "
            "one embedding model for all memories of a tenant"
        )
    last = select(func.max(chunks.c.number)).where(chunks.c.tenant == tenant, chunks.c.memory_id == memory_id)
    last_number = connection.execute(last).scalar()
    key = {"tenant": tenant, "memory_id": memory_id, "since": statements.next_generation(connection, tenant)}
    rows = [
        {**key, "number": number, "start": span.start, "end": span.end, "embedding": vector.tobytes()}
        for number, (span, vector) in enumerate(
            zip(spans, vectors, strict=True), (-1 if last_number is None else last_number) + 1
        )
    ]
    connection.execute(insert(chunks), rows)


def generation(connection: Connection, tenant: str) -> int:
    """A number that changes whenever the tenant's chunks do."""
    return connection.execute(_GENERATION, {"key": tenant_key(tenant)}).scalar() or 0


def load_chunks(connection: Connection, tenant: str, since: int = -1) -> tuple[list[Chunk], Vectors]:
    """The tenant's chunks added after the generation ``since``, and their vectors, float32 [chunks, dim].

    Raises `BankError` when stored vectors are damaged.
    """
    query = select(chunks).where(chunks.c.tenant == tenant, chunks.c.since > since)
    rows = connection.execute(query.order_by(chunks.c.memory_id, chunks.c.number)).all()
    joined = b"".join(row.embedding for row in rows)
    if len({len(row.embedding) for row in rows}) > 1 or len(joined) % 4:
        raise BankError("some of this tenant's vectors are damaged; run `memkit doctor --repair`")
    vectors = np.frombuffer(joined, dtype="<f4").reshape(len(rows), -1 if rows else 0).astype(np.float32)
    return [Chunk(row.memory_id, row.number, row.start, row.end) for row in rows], vectors


def added_chunks(connection: Connection, tenant: str, since: int) -> tuple[list[Chunk], Vectors] | None:
    """Like `load_chunks`; None if chunks were also removed or moved after that generation."""
    cut = connection.execute(select(tenants.c.cut).where(tenants.c.key == tenant_key(tenant))).scalar()
    return None if cut is None or cut > since else load_chunks(connection, tenant, since)
