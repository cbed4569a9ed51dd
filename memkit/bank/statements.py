"""SQL statements on memories and versions. Each takes a connection in a transaction, then the tenant."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import (
    ColumnElement,
    Connection,
    RowMapping,
    and_,
    bindparam,
    delete,
    func,
    insert,
    select,
    update,
)

from memkit.artifact.format import Artifact
from memkit.bank.tables import artifacts, chunks, entries, memories, tenants, tombstones
from memkit.bank.types import CompiledFrom, MemoryInfo, Receipt, memory_hash, running_digest, tenant_key
from memkit.document import Document
from memkit.errors import NotFoundError

_ID = re.compile(r"[0-9a-f]{16}")
MAX_SHORT = 20_000  # characters up to which a text is read whole for an excerpt
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_current = and_(
    artifacts.c.tenant == memories.c.tenant,
    artifacts.c.memory_id == memories.c.id,
    artifacts.c.version == memories.c.version,
)
_own_entries = and_(entries.c.tenant == memories.c.tenant, entries.c.memory_id == memories.c.id)
_INFO = select(
    *(column for column in memories.c if column is not memories.c.text),
    artifacts.c.id.label("artifact_id"),
    artifacts.c.nbytes,
    artifacts.c.compiler,
    artifacts.c.fingerprint,
    select(func.count()).where(_own_entries).scalar_subquery().label("entries"),
    select(func.count())
    .where(_own_entries, entries.c.number > artifacts.c.through)
    .scalar_subquery()
    .label("behind"),
    select(func.max(entries.c.said)).where(_own_entries).scalar_subquery().label("latest"),
).join_from(memories, artifacts, _current, isouter=True)


# Built once: constructing these frequent queries takes longer than running them.
_mine = memories.c.tenant == bindparam("tenant")
_this = and_(_mine, memories.c.id == bindparam("memory_id"))
_ONE = _INFO.where(_this)
_MANY = _INFO.where(_mine, memories.c.id.in_(bindparam("memory_ids", expanding=True)))
_ARTIFACT = select(artifacts.c.id).join_from(memories, artifacts, _current, isouter=True).where(_this)
_TEXT = select(memories.c.text).where(_this)
_EXCERPT = select(func.substr(memories.c.text, bindparam("first"), bindparam("length"))).where(_this)
_SHORT = select(memories.c.id, memories.c.text).where(
    _mine,
    memories.c.id.in_(bindparam("memory_ids", expanding=True)),
    memories.c.characters <= bindparam("most"),
)
_EXISTS = select(memories.c.id).where(_mine).limit(1)


def _is_id(memory_id: object) -> bool:
    return isinstance(memory_id, str) and _ID.fullmatch(memory_id) is not None


def not_found(memory_id: str) -> NotFoundError:
    """The error for an id that no memory of the tenant has."""
    return NotFoundError(f"this user has no memory {memory_id!r:.80}; list the memories to see the ids")


def infos(connection: Connection, tenant: str, prefix: str = "") -> list[MemoryInfo]:
    """The tenant's memories whose id starts with a prefix, oldest first."""
    begins = func.substr(memories.c.id, 1, len(prefix)) == prefix
    query = _INFO.where(memories.c.tenant == tenant, begins).order_by(memories.c.created, memories.c.id)
    return [_to_info(row) for row in connection.execute(query).mappings()]


def find_infos(connection: Connection, tenant: str, memory_ids: Sequence[str]) -> list[MemoryInfo]:
    """The tenant's memories with these ids; unknown ids are skipped."""
    rows = connection.execute(_MANY, {"tenant": tenant, "memory_ids": list(memory_ids)}).mappings()
    return [_to_info(row) for row in rows]


def find(connection: Connection, tenant: str, memory_id: str) -> MemoryInfo | None:
    """The memory with exactly that id; None if there is none."""
    if not _is_id(memory_id):  # a text with lone surrogates could not even be sent to the database
        return None
    row = connection.execute(_ONE, {"tenant": tenant, "memory_id": memory_id}).mappings().first()
    return None if row is None else _to_info(row)


def info(connection: Connection, tenant: str, memory_id: str) -> MemoryInfo:
    """The memory with exactly that id. Raises `NotFoundError`."""
    memory = find(connection, tenant, memory_id)
    if memory is None:
        raise not_found(memory_id)
    return memory


def find_document(connection: Connection, tenant: str, document: Document) -> str | None:
    """The id of the tenant's document with the same `Document.identity`; None if there is none."""
    alike = and_(memories.c.tenant == tenant, memories.c.identity == document.identity)
    query = select(memories.c.id).where(alike, memories.c.name.is_(None))
    memory_id: str | None = connection.execute(query.order_by(memories.c.created).limit(1)).scalar()
    return memory_id


def artifact_id(connection: Connection, tenant: str, memory_id: str) -> str | None:
    """The id of the memory's current artifact, None before the first one. Raises `NotFoundError`."""
    row = None
    if _is_id(memory_id):
        row = connection.execute(_ARTIFACT, {"tenant": tenant, "memory_id": memory_id}).first()
    if row is None:
        raise not_found(memory_id)
    found: str | None = row.id
    return found


def exists(connection: Connection, tenant: str) -> bool:
    """Whether the tenant has memories."""
    return connection.execute(_EXISTS, {"tenant": tenant}).first() is not None


def source(connection: Connection, tenant: str, memory_id: str) -> Document:
    """A memory's source text. Raises `NotFoundError`."""
    title = info(connection, tenant, memory_id).title
    text = connection.execute(_TEXT, {"tenant": tenant, "memory_id": memory_id}).scalar_one()
    return Document(text, title)


def excerpts(connection: Connection, tenant: str, spans: Sequence[tuple[str, int, int]]) -> list[str]:
    """Characters ``[start, end)`` of memories' texts, clipped to the text; "" for an unknown memory.

    ``spans`` are (memory id, start, end).
    """
    ids = list(dict.fromkeys(memory_id for memory_id, _, _ in spans))
    rows = connection.execute(_SHORT, {"tenant": tenant, "memory_ids": ids, "most": MAX_SHORT})
    short = {row.id: row.text for row in rows}
    texts = list[str]()
    for memory_id, start, end in spans:
        first = max(start, 0)
        if memory_id in short:
            texts.append(short[memory_id][first : max(end, first)])
            continue
        values = {"tenant": tenant, "memory_id": memory_id, "first": first + 1, "length": max(end - first, 0)}
        texts.append(connection.execute(_EXCERPT, values).scalar() or "")
    return texts


def insert_memory(
    connection: Connection,
    tenant: str,
    memory_id: str,
    document: Document,
    name: str | None = None,
    digest: str | None = None,
) -> None:
    """Add a memory without chunks. A running memory has a ``name``, an item's memory its own ``digest``."""
    own_digest = digest or (None if name is None else running_digest(name))
    connection.execute(
        insert(memories).values(
            tenant=tenant,
            id=memory_id,
            name=name,
            title=document.title,
            text=document.text,
            digest=own_digest or document.digest,
            identity=own_digest or document.identity,
            characters=len(document.text),
            status="text",
            version=0,
            created=now(),
        )
    )


def insert_version(
    connection: Connection, tenant: str, memory_id: str, artifact: Artifact, compiled_from: CompiledFrom
) -> None:
    """Add a version with the next number; it becomes the current one unless the memory is pinned."""
    last = select(func.max(artifacts.c.version)).where(
        artifacts.c.tenant == tenant, artifacts.c.memory_id == memory_id
    )
    version = (connection.execute(last).scalar() or 0) + 1
    manifest = artifact.manifest
    connection.execute(
        insert(artifacts).values(
            tenant=tenant,
            memory_id=memory_id,
            version=version,
            id=artifact.id,
            nbytes=artifact.nbytes,
            compiler=manifest.compiler,
            created=now(),
            fingerprint=manifest.fingerprint,
            digest=manifest.sources[0].document_digest[:64] if manifest.sources else None,
            through=compiled_from.through,
            since=None if compiled_from.since is None else microseconds_of(compiled_from.since),
            seconds=compiled_from.seconds,
            flops=compiled_from.flops,
        )
    )
    unpinned = and_(_is(tenant, memory_id), memories.c.pinned.is_(False))
    connection.execute(update(memories).where(unpinned).values(version=version))


def set_status(
    connection: Connection,
    tenant: str,
    memory_id: str,
    status: str,
    error: str | None,
    attempt: str | None = None,
) -> None:
    """Record the outcome of the latest compilation; ``attempt`` identifies one that failed."""
    values = {"status": status, "error": error, "attempt": attempt}
    connection.execute(update(memories).where(_is(tenant, memory_id)).values(**values))


def add_asked(connection: Connection, tenant: str, memory_id: str, count: int, at: int) -> None:
    """Add ``count`` questions that a memory answered, the latest ``at`` microseconds; skips a forgotten
    one."""
    values = {"asked": memories.c.asked + count, "last_asked": at}
    connection.execute(update(memories).where(_is(tenant, memory_id)).values(**values))


def tenants_of(connection: Connection) -> list[str]:
    """Names of all tenants that have memories."""
    return list(
        connection.execute(select(memories.c.tenant).distinct().order_by(memories.c.tenant)).scalars()
    )


def tenants_with_prefix(connection: Connection, prefix: str) -> list[str]:
    """Names of all tenants that have memories and whose name begins with a prefix, byte by byte."""
    query = select(memories.c.tenant).where(begins_with(memories.c.tenant, prefix)).distinct()
    return list(connection.execute(query.order_by(memories.c.tenant)).scalars())


def begins_with(name: ColumnElement[str], prefix: str) -> ColumnElement[bool]:
    """A condition: the name begins with a prefix, byte by byte. `LIKE` would ignore case."""
    after = prefix[:-1] + chr(ord(prefix[-1]) + 1)  # the first name past all those with the prefix
    return and_(name >= prefix, name < after)


def versions(connection: Connection, tenant: str, memory_id: str | None = None) -> list[tuple[str, int, str]]:
    """(memory id, version, artifact id) of all the tenant's artifacts, or of one memory's."""
    query = select(artifacts.c.memory_id, artifacts.c.version, artifacts.c.id)
    query = query.where(artifacts.c.tenant == tenant).order_by(*query.selected_columns)
    if memory_id is not None:
        query = query.where(artifacts.c.memory_id == memory_id)
    return [(row[0], row[1], row[2]) for row in connection.execute(query)]


def has_artifact(connection: Connection, tenant: str, artifact_id: str) -> bool:
    """Whether a version of any memory of the tenant has that artifact id."""
    query = select(artifacts.c.id).where(artifacts.c.tenant == tenant, artifacts.c.id == artifact_id)
    return connection.execute(query.limit(1)).first() is not None


def delete_memory(connection: Connection, tenant: str, memory_id: str) -> Receipt:
    """Delete a memory with its chunks and versions, leaving a tombstone without content."""
    removed = connection.execute(
        delete(chunks).where(chunks.c.tenant == tenant, chunks.c.memory_id == memory_id)
    )
    versions = connection.execute(
        delete(artifacts).where(artifacts.c.tenant == tenant, artifacts.c.memory_id == memory_id)
    )
    connection.execute(delete(memories).where(_is(tenant, memory_id)))
    connection.execute(
        insert(tombstones).values(
            tenant_key=tenant_key(tenant), memory_hash=memory_hash(tenant, memory_id), forgotten=now()
        )
    )
    next_generation(connection, tenant, cut=True)
    return Receipt(memory_id, versions.rowcount, removed.rowcount)


def next_generation(connection: Connection, tenant: str, cut: bool = False) -> int:
    """Increment the generation of the tenant's chunks, and return it; ``cut`` if chunks are removed or
    moved."""
    key, following = tenant_key(tenant), tenants.c.generation + 1
    values = {"generation": following} | ({"cut": following} if cut else {})
    changed = update(tenants).where(tenants.c.key == key).values(values).returning(tenants.c.generation)
    generation: int | None = connection.execute(changed).scalar()
    if generation is None:
        connection.execute(insert(tenants).values(key=key, generation=1, cut=int(cut)))
    return generation or 1


def _is(tenant: str, memory_id: str) -> ColumnElement[bool]:
    return and_(memories.c.tenant == tenant, memories.c.id == memory_id)


def now() -> int:
    """The time in the catalog's unit: microseconds since 1970."""
    return time.time_ns() // 1000


def time_of(microseconds: int) -> datetime:
    """The datetime, in UTC, of microseconds since 1970."""
    return _EPOCH + timedelta(microseconds=microseconds)


def microseconds_of(when: datetime) -> int:
    """Microseconds since 1970 of a datetime; without a zone it is taken as UTC."""
    aware = when if when.tzinfo else when.replace(tzinfo=UTC)
    return (aware - _EPOCH) // timedelta(microseconds=1)


def _to_info(row: RowMapping) -> MemoryInfo:
    return MemoryInfo(
        id=row["id"],
        tenant=row["tenant"],
        title=row["title"],
        digest=row["digest"],
        characters=row["characters"],
        status=row["status"],
        artifact_id=row["artifact_id"],
        artifact_bytes=row["nbytes"],
        compiler=row["compiler"],
        version=row["version"],
        error=row["error"],
        created=time_of(row["created"]),
        name=row["name"],
        entries=row["entries"],
        behind=row["behind"] if row["version"] else row["entries"],
        fingerprint=row["fingerprint"],
        pinned=row["pinned"],
        asked=row["asked"],
        last_asked=None if row["last_asked"] is None else time_of(row["last_asked"]),
        attempt=row["attempt"],
        changed=time_of(max(row["created"], row["latest"] or 0)),
    )
