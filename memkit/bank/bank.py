"""The memory bank: one folder with a catalog and artifact files.

A write goes artifact file, then catalog, then index: a process killed at any point leaves the old
state or the new one, and at worst a file that no row names, which `Bank.repair` removes.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from numpy.typing import NDArray

from memkit.artifact.format import Artifact
from memkit.bank import statements, vector_rows
from memkit.bank.api_keys import ApiKeys
from memkit.bank.artifact_reader import ArtifactReader
from memkit.bank.backends import catalog_of, store_of
from memkit.bank.conversation_logs import ConversationLogs, Embed
from memkit.bank.deletion import Deletion
from memkit.bank.error_mapping import mapped_errors
from memkit.bank.items import Items
from memkit.bank.leases import Leases
from memkit.bank.pending_compilations import PendingCompilations
from memkit.bank.policies import Policies, require_within
from memkit.bank.reembedding import reembed
from memkit.bank.types import (
    CompiledFrom,
    Hit,
    MemoryInfo,
    Receipt,
    check_chunks,
    check_query,
    check_tenant,
    check_title,
    memory_id_of,
    tenant_key,
)
from memkit.bank.vector_index import VectorIndexes
from memkit.bank.versions import Versions
from memkit.config import expanded
from memkit.document import Document, Span
from memkit.errors import ArtifactError, BankError, NotFoundError, QuotaError

_FROM_ALL = CompiledFrom()
_PREFIX = re.compile(r"[0-9a-f]{1,16}")


class Bank:
    """Memories of many tenants, each seen only by calls that name its tenant.

    The folder and its database are made, or opened, at the first call. A bank may be used by
    several threads and processes at once: writers wait for each other up to ``timeout`` seconds.
    Where the folder is read-only, reading works and writing raises `BankReadOnlyError`.

    Machines share a bank whose ``database`` is in PostgreSQL (``postgresql+psycopg://...``) and whose
    ``artifacts`` are at a URL that fsspec knows (``s3://...``); the folder then holds what is this machine's.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        timeout: float = 10.0,
        database: str | None = None,
        artifacts: str | None = None,
    ) -> None:
        self.path = expanded(path)
        self._catalog = catalog_of(self.path, database, timeout)
        self._blobs = store_of(self.path, artifacts)
        self._indexes = VectorIndexes()
        self._opened = ArtifactReader(self._blobs)
        self.logs = ConversationLogs(self._catalog)
        self.versions = Versions(self._catalog, self._discard)
        self.leases = Leases(self._catalog)
        self.policies = Policies(self._catalog)
        self.keys = ApiKeys(self._catalog)
        self.items = Items(self._catalog)
        self.pending = PendingCompilations(self._catalog)
        self.deletion = Deletion(self.path, self._catalog, self._indexes, self._discard)

    def remember(
        self,
        tenant: str,
        document: Document,
        chunks: Sequence[Span],
        embeddings: NDArray[Any],
        *,
        embedder: str = "",
    ) -> MemoryInfo:
        """Keep a document and its chunks, with embeddings float32 [chunks, dim].

        Search ranks by inner product, so the embedder decides what a score means; all vectors of a
        tenant come from one, named ``embedder``. Chunks may overlap. A document that looks like one that
        this tenant has (`memkit.text.normalize.normalize`) is that one, which is left as it is. Raises
        `ConfigError` for another embedder than the tenant's.
        """
        return self.remember_many(tenant, [(document, chunks, embeddings)], embedder=embedder)[0]

    def remember_many(
        self,
        tenant: str,
        documents: Sequence[tuple[Document, Sequence[Span], NDArray[Any]]],
        *,
        embedder: str = "",
    ) -> builtins.list[MemoryInfo]:
        """As `remember`, all of them in one transaction: the bank holds all afterwards, or none."""
        check_tenant(tenant)
        checked = []
        for document, chunks, embeddings in documents:
            check_title(document)
            checked.append((document, chunks, check_chunks(document, chunks, embeddings)))
        infos = []
        with self._catalog.write() as connection:
            vector_rows.require_embedder(connection, tenant, embedder)
            for document, chunks, vectors in checked:
                memory_id = statements.same(connection, tenant, document)
                if memory_id is None:
                    memory_id = memory_id_of(tenant, document.identity)
                    if statements.find(connection, tenant, memory_id) is not None:  # ids are shortened hashes
                        raise BankError(
                            f"another document of this tenant has the id {memory_id}: change the text"
                        )
                    statements.insert_memory(connection, tenant, memory_id, document)
                    vector_rows.insert_chunks(connection, tenant, memory_id, chunks, vectors)
                infos.append(statements.info(connection, tenant, memory_id))
            require_within(connection, tenant)
        return infos

    def embedder(self, tenant: str) -> str | None:
        """The embedder that made the tenant's vectors; "" if it had no name, None if there are none."""
        check_tenant(tenant)
        with self._catalog.read() as connection:
            return vector_rows.embedder(connection, tenant)

    def reembed(self, tenant: str, embedder: str, embed: Embed, embed_entry: Embed | None = None) -> int:
        """Make all the tenant's chunks and vectors anew from their sources; how many memories that were.

        ``embed_entry`` does it for the entries of running memories, if not as ``embed``. The work is done
        before the bank is locked, but for what others remember in the meantime.
        """
        check_tenant(tenant)
        count = reembed(self._catalog, tenant, embedder, embed, embed_entry or embed)
        self._indexes.drop(tenant)
        return count

    def publish(self, tenant: str, memory_id: str, data: bytes, made: CompiledFrom = _FROM_ALL) -> MemoryInfo:
        """Make these artifact bytes the memory's current version, if they are sound and the tenant's.

        ``made`` tells what they were compiled from. Earlier versions are kept. Publishing the current
        version again changes nothing.
        """
        check_tenant(tenant)
        artifact = Artifact.decode(data)
        if artifact.manifest.tenant != tenant:
            raise ArtifactError("the artifact was compiled for another tenant; compile it for this one")
        self._current(tenant, memory_id)  # is there such a memory?
        with mapped_errors(self._catalog.path), self._blobs.writing():
            self._blobs.write(tenant, artifact.id, data)
            try:
                return self._publish(tenant, memory_id, artifact, data, made)
            except (NotFoundError, QuotaError):  # forgotten in the meantime, or too large
                self._discard(tenant, [artifact.id])
                raise

    def fail(self, tenant: str, memory_id: str, reason: str, attempt: str | None = None) -> MemoryInfo:
        """Note why a compilation failed; what the memory had before, it keeps.

        ``attempt``, 64 hex digits, names what was tried, so that nobody tries just that again.
        """
        check_tenant(tenant)
        reason = reason.encode(errors="replace").decode()
        with self._catalog.write() as connection:
            status = "compiled" if statements.info(connection, tenant, memory_id).version else "failed"
            statements.set_status(connection, tenant, memory_id, status, reason, attempt)
            return statements.info(connection, tenant, memory_id)

    def count_asked(self, tenant: str, counts: Mapping[str, int]) -> None:
        """Add to the number of questions that memories answered; those forgotten meanwhile are left out."""
        check_tenant(tenant)
        with self._catalog.write() as connection:
            now = statements.microseconds_of(datetime.now(UTC))
            for memory_id, count in counts.items():
                statements.add_asked(connection, tenant, memory_id, count, now)

    def get(self, tenant: str, memory_id: str) -> MemoryInfo:
        """One memory, by its id or the start of it; `NotFoundError` when none or several match."""
        check_tenant(tenant)
        if not isinstance(memory_id, str) or not _PREFIX.fullmatch(memory_id):
            raise statements.not_found(memory_id)
        with self._catalog.read() as connection:
            found = statements.infos(connection, tenant, memory_id)
        if len(found) > 1:
            raise NotFoundError(f"{memory_id!r} is the start of {len(found)} ids: give more of it")
        if not found:
            raise statements.not_found(memory_id)
        return found[0]

    def some(self, tenant: str, memory_ids: Sequence[str]) -> dict[str, MemoryInfo]:
        """Memories by their ids, as far as the tenant has them, all of one moment."""
        check_tenant(tenant)
        with self._catalog.read() as connection:
            return {info.id: info for info in statements.find_infos(connection, tenant, memory_ids)}

    def list(self, tenant: str) -> builtins.list[MemoryInfo]:
        """All memories of the tenant, oldest first; none for a tenant that is not known."""
        check_tenant(tenant)
        with self._catalog.read() as connection:
            return statements.infos(connection, tenant)

    def tenants(self) -> builtins.list[str]:
        """The names of all who have memories, for whoever runs the bank; of the memories it tells nothing."""
        with self._catalog.read() as connection:
            return statements.tenants_of(connection)

    def beneath(self, prefix: str) -> builtins.list[str]:
        """The names of all who have memories and whose names begin with that, byte by byte."""
        check_tenant(prefix)
        with self._catalog.read() as connection:
            return statements.beneath(connection, prefix)

    def exists(self, tenant: str) -> bool:
        """Whether the tenant has memories."""
        check_tenant(tenant)
        with self._catalog.read() as connection:
            return statements.exists(connection, tenant)

    def source(self, tenant: str, memory_id: str) -> Document:
        """The memory's source text."""
        check_tenant(tenant)
        with self._catalog.read() as connection:
            return statements.source(connection, tenant, memory_id)

    def artifact(self, tenant: str, memory_id: str, version: int | None = None) -> Artifact:
        """The memory's current artifact, or that of a ``version``, memory-mapped; `close` it after use.

        Raises `NotFoundError` when none was published, `ArtifactError` when its file went bad.
        """
        check_tenant(tenant)
        artifact_id = self._artifact_id(tenant, memory_id, version)
        try:
            return self._opened.artifact(tenant, artifact_id)
        except ArtifactError as error:
            self._artifact_id(tenant, memory_id, version)  # it may have been forgotten in the meantime
            raise ArtifactError(
                f"the artifact of memory {memory_id} is damaged ({error}); compile and publish it again, "
                "its source text is unharmed"
            ) from error

    def _artifact_id(self, tenant: str, memory_id: str, version: int | None) -> str:
        found = self._current(tenant, memory_id)
        if version is not None:
            kept = {each.version: each.artifact_id for each in self.versions.history(tenant, memory_id)}
            found = kept.get(version)
            if found is None:
                raise NotFoundError(f"memory {memory_id} has no version {version}")
        if found is None:
            raise NotFoundError(f"memory {memory_id} has no artifact yet: compile it first")
        return found

    def search(
        self, tenant: str, vector: NDArray[Any], k: int, *, within: str | None = None
    ) -> builtins.list[Hit]:
        """The best chunks for a query embedding float32 [dim], best first.

        One chunk of each of the ``k`` best memories, so that a long memory does not crowd out the
        others; or the ``k`` best chunks of the memory ``within``.
        """
        check_tenant(tenant)
        query = check_query(vector, k)
        with self._catalog.read() as connection:
            if not statements.exists(connection, tenant):
                return []
            load = partial(vector_rows.load_chunks, connection, tenant)
            added = partial(vector_rows.added_chunks, connection, tenant)
            index = self._indexes.get(tenant, vector_rows.generation(connection, tenant), load, added)
        return index.best(query, k) if within is None else index.within(query, within, k)

    def index_bytes(self, tenant: str) -> int:
        """Memory that the tenant's search index takes, in bytes; 0 while it is not loaded."""
        check_tenant(tenant)
        return self._indexes.nbytes(tenant)

    def excerpts(self, tenant: str, hits: Sequence[Hit], around: int = 0) -> builtins.list[str]:
        """The text of each chunk, with ``around`` characters on either side; "" where it was forgotten."""
        check_tenant(tenant)
        places = [(hit.memory_id, hit.start - around, hit.end + around) for hit in hits]
        with self._catalog.read() as connection:
            return statements.excerpts(connection, tenant, places)

    def forget(self, tenant: str, memory_id: str | None = None) -> builtins.list[Receipt]:
        """Remove one memory of the tenant, or all: text, chunks, vectors, artifacts of all versions.

        The bytes are overwritten in the database and gone from its log when this returns.
        """
        return self.deletion.forget(tenant, memory_id)

    def unfinished(self, tenant: str, memory_id: str) -> Path:
        """A file in which a compiler may keep what an interrupted compilation needs to go on.

        It goes with the memory: `forget` removes it.
        """
        check_tenant(tenant)
        self._current(tenant, memory_id)  # is there such a memory? Its id becomes a part of a path
        return self.path / "unfinished" / tenant_key(tenant)[:16] / memory_id

    def check(self, tenant: str) -> builtins.list[str]:
        """What is wrong with the tenant's artifact files, in words; nothing when all is well."""
        check_tenant(tenant)
        with self._catalog.read() as connection:
            versions = statements.versions(connection, tenant)
        problems = []
        for memory_id, version, artifact_id in versions:
            try:
                self._opened.artifact(tenant, artifact_id).close()
            except ArtifactError as error:
                problems.append(f"memory {memory_id}, version {version}: {error}")
        return problems

    def repair(self, *, grace: float | None = None) -> builtins.list[str]:
        """Remove what no memory needs, withdraw damaged artifacts, have indexes and unsound vectors made
        anew; returns what was done, without content.

        Files that another process may be about to name are left alone: while one is at it, or where the
        system cannot tell, those written in the last hour; or in the last ``grace`` seconds.
        """
        from memkit.bank.repair import repair

        with mapped_errors(self._catalog.path):
            done = repair(self.path, self._catalog, self._blobs, grace)
        self._catalog.checkpoint()
        self._indexes.clear()
        return done

    def backup(self, file: str | Path) -> int:
        """Write all of the bank as it is now to one new file; how many bytes that are.

        Reading and writing go on meanwhile. Raises `ConfigError` when the file exists.
        """
        from memkit.bank.backup import backup

        with mapped_errors(self._catalog.path):
            return backup(self.path, self._catalog, self._blobs, Path(file))

    def close(self) -> None:
        """Close the database; the next call would open it again."""
        self._indexes.clear()
        self._catalog.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _publish(
        self, tenant: str, memory_id: str, artifact: Artifact, data: bytes, made: CompiledFrom
    ) -> MemoryInfo:
        with self._catalog.write() as connection:
            current = statements.artifact_id(connection, tenant, memory_id)
            # A forget may have removed the same file again; while the write lock is held none can.
            if not self._blobs.exists(tenant, artifact.id):
                self._blobs.write(tenant, artifact.id, data)
            if current != artifact.id:
                statements.insert_version(connection, tenant, memory_id, artifact, made)
                require_within(connection, tenant)
            statements.set_status(connection, tenant, memory_id, "compiled", None)
            return statements.info(connection, tenant, memory_id)

    def _current(self, tenant: str, memory_id: str) -> str | None:
        with self._catalog.read() as connection:
            return statements.artifact_id(connection, tenant, memory_id)

    def _discard(self, tenant: str, artifact_ids: Iterable[str]) -> None:
        """Remove files that no row of the tenant names (any more)."""
        with self._catalog.write() as connection:
            for artifact_id in artifact_ids:
                if not statements.names(connection, tenant, artifact_id):
                    self._blobs.remove(tenant, artifact_id)
