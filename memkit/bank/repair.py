"""Repair a bank: withdraw damaged artifacts, remove stray files, have indexes and bad vectors rebuilt."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from sqlalchemy import Connection, delete, func, insert, select, update

from memkit.artifact.format import Artifact
from memkit.bank.artifact_store import ArtifactStore, name_of, written_before
from memkit.bank.catalog import AnyCatalog
from memkit.bank.tables import artifacts, chunks, embedders, memories, tenants
from memkit.bank.types import tenant_key
from memkit.errors import ArtifactError, BankError

GRACE = 3600.0  # seconds in which a file that no row refers to may still be committed by a writer
DAMAGED = "damaged"  # not the name of any embedder, so that the vectors are rebuilt at the next question
STAGING = ".backup-"  # prefix of folders in which a backup is prepared
UNFINISHED = 7 * 86400.0  # seconds after which a compiler's checkpoint is abandoned
WAIT = 5.0  # seconds to wait for running writers

_NAMED = select(artifacts.c.tenant, artifacts.c.id).distinct()


def repair(path: Path, catalog: AnyCatalog, store: ArtifactStore, grace: float | None) -> list[str]:
    """Repair the bank; returns what was done, without content. See `Bank.repair`."""
    with store.alone(WAIT) as alone, catalog.write() as connection:
        _require_sound(connection, catalog.path)
        withdrawn = list(_withdraw(connection, store))
        before = time.time() - (grace if grace is not None else 0.0 if alone else GRACE)
        files = store.strays({name_of(*row) for row in connection.execute(_NAMED)}, before)
        for name in files:
            store.discard(name)
        strays = _strays(connection, path, before)
        for stray in strays:
            shutil.rmtree(stray) if stray.is_dir() else stray.unlink(missing_ok=True)
        unsound = _unsound(connection)
        for tenant in unsound:
            connection.execute(delete(embedders).where(embedders.c.key == tenant_key(tenant)))
            connection.execute(insert(embedders).values(key=tenant_key(tenant), name=DAMAGED))
        following = tenants.c.generation + 1
        renewed = connection.execute(update(tenants).values(generation=following, cut=following))
    removed = [*(f"artifacts/{name}" for name in files), *(stray.relative_to(path) for stray in strays)]
    done = [f"removed {each}, which no memory needs" for each in removed]
    if unsound:
        done.append(f"had the vectors of {len(unsound)} tenants made anew, at their next question")
    return [*withdrawn, *done, f"had the search indexes of {renewed.rowcount} tenants rebuilt"]


def _require_sound(connection: Connection, path: Path | str) -> None:
    if connection.dialect.name != "sqlite":  # a database server checks its own files
        return
    result = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
    if result != "ok":
        raise BankError(f"{path} is damaged ({result}), and texts are kept nowhere else: restore a backup")


def _withdraw(connection: Connection, store: ArtifactStore) -> Iterator[str]:
    """Remove versions whose file is missing or damaged; the newest sound version becomes the current one."""
    key = (artifacts.c.tenant, artifacts.c.memory_id, artifacts.c.version)
    for row in connection.execute(select(*key, artifacts.c.id)).all():
        copies = (store.local, store.fresh)  # this machine's copy may be damaged and the store's intact
        if any(_sound(copy(row.tenant, row.id), row.id) for copy in copies):
            continue
        this = [artifacts.c.tenant == row.tenant, artifacts.c.memory_id == row.memory_id]
        connection.execute(delete(artifacts).where(*this, artifacts.c.version == row.version))
        newest = connection.execute(select(func.max(artifacts.c.version)).where(*this)).scalar()
        connection.execute(
            update(memories)
            .where(
                memories.c.tenant == row.tenant,
                memories.c.id == row.memory_id,
                memories.c.version == row.version,
            )
            .values(
                version=newest or 0,
                status="compiled" if newest else "text",
                error=f"the artifact of version {row.version} was damaged; compile the memory again",
            )
        )
        yield f"withdrew version {row.version} of memory {row.memory_id}, whose artifact was damaged"


def _sound(file: Path, artifact_id: str) -> bool:
    try:
        with Artifact.open(file) as artifact:
            return artifact.id == artifact_id
    except ArtifactError:
        return False


def _strays(connection: Connection, path: Path, before: float) -> list[Path]:
    referenced = {
        path / "unfinished" / tenant_key(tenant)[:16] / memory_id
        for tenant, memory_id in connection.execute(select(memories.c.tenant, memories.c.id))
    }
    given_up = time.time() - UNFINISHED
    files = path.glob("unfinished/*/*")
    unfinished = [each for each in files if each not in referenced or written_before(each, given_up)]
    leftovers = [*unfinished, *path.glob(STAGING + "*")]
    return sorted(each for each in leftovers if written_before(each, before))


def _unsound(connection: Connection) -> list[str]:
    """Tenants with a memory without chunks, a chunk outside its text, or vectors of different lengths."""
    joined = (memories.c.tenant == chunks.c.tenant) & (memories.c.id == chunks.c.memory_id)
    outside = (chunks.c.start < 0) | (chunks.c.end > memories.c.characters) | (chunks.c.end <= chunks.c.start)
    size = func.length(chunks.c.embedding)
    queries = (
        select(memories.c.tenant).outerjoin(chunks, joined).where(chunks.c.number.is_(None)),
        select(memories.c.tenant).join(chunks, joined).where(outside),
        select(chunks.c.tenant).group_by(chunks.c.tenant).having(func.min(size) != func.max(size)),
        select(chunks.c.tenant).where(size % 4 != 0),
    )
    return sorted({tenant for query in queries for (tenant,) in connection.execute(query)})
