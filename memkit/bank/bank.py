"""The memory bank: one folder with a catalog and artifact files.

A write stores the artifact file, then commits to the catalog, then updates the index: a process killed at any
point leaves the old state or the new one, and at worst a file that no row refers to, which `Bank.repair`
removes.
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
    """Memories of many tenants. Every call names one tenant and sees only that tenant's memories.

    The folder ``path`` and its database are created, or opened, at the first call. A bank is safe to use from
    several threads and processes: writers wait for each other up to ``timeout`` seconds, then raise
    `BankBusyError`. In a read-only folder reading works and writing raises `BankReadOnlyError`. Every call
    raises `ConfigError` for an invalid tenant.

    Several machines share a bank whose ``database`` is in PostgreSQL (``postgresql+psycopg://...``) and whose
    ``artifacts`` are at a URL that fsspec supports (``s3://...``); the folder then holds this machine's
    cache.
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
        self._store = store_of(self.path, artifacts)
        self._indexes = VectorIndexes()
        self._reader = ArtifactReader(self._store)
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
        """Store a document and its chunks, with their embeddings, float32 [chunks, dim].

        Search ranks by inner product. All vectors of a tenant come from one embedding model, named
        ``embedder``. Chunks may overlap. A document with the same `Document.identity` as one of the tenant's
        is not stored again: the existing memory is returned. Raises `ConfigError` for another embedder than
        the tenant's or embeddings that do not fit the chunks, and `QuotaError` beyond the tenant's limits.
        """
        return self.remember_many(tenant, [(document, chunks, embeddings)], embedder=embedder)[0]

    def remember_many(
        self,
        tenant: str,
        documents: Sequence[tuple[Document, Sequence[Span], NDArray[Any]]],
        *,
        embedder: str = "",
    ) -> builtins.list[MemoryInfo]:
        """Like `remember`, for several documents in one transaction."""
        check_tenant(tenant)
        checked = []
        for document, chunks, embeddings in documents:
            check_title(document)
            checked.append((document, chunks, check_chunks(document, chunks, embeddings)))
        infos = []
        with self._catalog.write() as connection:
            vector_rows.require_embedder(connection, tenant, embedder)
            for document, chunks, vectors in checked:
                memory_id = statements.find_document(connection, tenant, document)
                if memory_id is None:
                    memory_id = memory_id_of(tenant, document.identity)
                    if statements.find(connection, tenant, memory_id) is not None:  # ids are truncated hashes
                        raise BankError(
                            f"another document of this tenant has the id {memory_id}: change the text"
                        )
                    statements.insert_memory(connection, tenant, memory_id, document)
                    vector_rows.insert_chunks(connection, tenant, memory_id, chunks, vectors)
                infos.append(statements.info(connection, tenant, memory_id))
            require_within(connection, tenant)
        return infos

    def embedder(self, tenant: str) -> str | None:
        """The name of the tenant's embedder, "" if it has none; None for a tenant without vectors."""
        check_tenant(tenant)
        with self._catalog.read() as connection:
            return vector_rows.embedder(connection, tenant)

    def reembed(self, tenant: str, embedder: str, embed: Embed, embed_entry: Embed | None = None) -> int:
        """Rebuild the tenant's chunks and vectors from the source texts; returns the number of memories.

        ``embed`` chunks and embeds a document with the model named ``embedder``; ``embed_entry``, if given,
        does so for the entries of running memories. The write lock is taken only after embedding.
        """
        check_tenant(tenant)
        count = reembed(self._catalog, tenant, embedder, embed, embed_entry or embed)
        self._indexes.drop(tenant)
        return count

    def publish(
        self, tenant: str, memory_id: str, data: bytes, compiled_from: CompiledFrom = _FROM_ALL
    ) -> MemoryInfo:
        """Store artifact bytes as a new version of a memory, which becomes the current one unless pinned.

        Earlier versions are kept. Publishing the current version again changes nothing. Raises
        `ArtifactError` for damaged bytes or another tenant's artifact, `NotFoundError` for an unknown memory,
        and `QuotaError` beyond the tenant's limits.
        """
        check_tenant(tenant)
        artifact = Artifact.decode(data)
        if artifact.manifest.tenant != tenant:
            raise ArtifactError("the artifact was compiled for another tenant; compile it for this one")
        self._current(tenant, memory_id)  # raises NotFoundError
        with mapped_errors(self._catalog.path), self._store.writing():
            self._store.write(tenant, artifact.id, data)
            try:
                return self._publish(tenant, memory_id, artifact, data, compiled_from)
            except (NotFoundError, QuotaError):  # forgotten in the meantime, or too large
                self._discard(tenant, [artifact.id])
                raise

    def fail(self, tenant: str, memory_id: str, reason: str, attempt: str | None = None) -> MemoryInfo:
        """Record that a compilation failed. The memory keeps its current artifact.

        ``attempt`` (64 hex digits) identifies the source, options and model that were tried, so that the same
        compilation is not tried again. Raises `NotFoundError` for an unknown memory.
        """
        check_tenant(tenant)
        reason = reason.encode(errors="replace").decode()
        with self._catalog.write() as connection:
            status = "compiled" if statements.info(connection, tenant, memory_id).version else "failed"
            statements.set_status(connection, tenant, memory_id, status, reason, attempt)
            return statements.info(connection, tenant, memory_id)

    def count_asked(self, tenant: str, counts: Mapping[str, int]) -> None:
        """Add to the number of questions that each memory answered; skips forgotten memories."""
        check_tenant(tenant)
        with self._catalog.write() as connection:
            now = statements.microseconds_of(datetime.now(UTC))
            for memory_id, count in counts.items():
                statements.add_asked(connection, tenant, memory_id, count, now)

    def get(self, tenant: str, memory_id: str) -> MemoryInfo:
        """The memory with that id or a unique prefix of it. Raises `NotFoundError` if none or several
        match."""
        check_tenant(tenant)
        if not isinstance(memory_id, str) or not _PREFIX.fullmatch(memory_id):
            raise statements.not_found(memory_id)
        with self._catalog.read() as connection:
            matches = statements.infos(connection, tenant, memory_id)
        if len(matches) > 1:
            raise NotFoundError(f"{memory_id!r} is the start of {len(matches)} ids: give more of it")
        if not matches:
            raise statements.not_found(memory_id)
        return matches[0]

    def get_many(self, tenant: str, memory_ids: Sequence[str]) -> dict[str, MemoryInfo]:
        """Memories by their ids, in one transaction; unknown ids are skipped."""
        check_tenant(tenant)
        with self._catalog.read() as connection:
            return {info.id: info for info in statements.find_infos(connection, tenant, memory_ids)}

    def list(self, tenant: str) -> builtins.list[MemoryInfo]:
        """All memories of the tenant, oldest first; none for an unknown tenant."""
        check_tenant(tenant)
        with self._catalog.read() as connection:
            return statements.infos(connection, tenant)

    def tenants(self) -> builtins.list[str]:
        """The names of all tenants that have memories, for administration; reveals nothing of the
        memories."""
        with self._catalog.read() as connection:
            return statements.tenants_of(connection)

    def tenants_with_prefix(self, prefix: str) -> builtins.list[str]:
        """The names of all tenants that have memories and whose name begins with ``prefix``, byte by byte."""
        check_tenant(prefix)
        with self._catalog.read() as connection:
            return statements.tenants_with_prefix(connection, prefix)

    def exists(self, tenant: str) -> bool:
        """Whether the tenant has memories."""
        check_tenant(tenant)
        with self._catalog.read() as connection:
            return statements.exists(connection, tenant)

    def source(self, tenant: str, memory_id: str) -> Document:
        """The memory's source text. Raises `NotFoundError`."""
        check_tenant(tenant)
        with self._catalog.read() as connection:
            return statements.source(connection, tenant, memory_id)

    def artifact(self, tenant: str, memory_id: str, version: int | None = None) -> Artifact:
        """The memory's current artifact, or that of a ``version``, memory-mapped; `close` it after use.

        Raises `NotFoundError` when there is none, `ArtifactError` when its file is damaged.
        """
        check_tenant(tenant)
        artifact_id = self._artifact_id(tenant, memory_id, version)
        try:
            return self._reader.artifact(tenant, artifact_id)
        except ArtifactError as error:
            self._artifact_id(tenant, memory_id, version)  # raises NotFoundError if forgotten meanwhile
            raise ArtifactError(
                f"the artifact of memory {memory_id} is damaged ({error}); compile and publish it again, "
                "its source text is unharmed"
            ) from error

    def _artifact_id(self, tenant: str, memory_id: str, version: int | None) -> str:
        artifact_id = self._current(tenant, memory_id)
        if version is not None:
            stored = {each.version: each.artifact_id for each in self.versions.history(tenant, memory_id)}
            artifact_id = stored.get(version)
            if artifact_id is None:
                raise NotFoundError(f"memory {memory_id} has no version {version}")
        if artifact_id is None:
            raise NotFoundError(f"memory {memory_id} has no artifact yet: compile it first")
        return artifact_id

    def search(
        self, tenant: str, vector: NDArray[Any], k: int, *, within: str | None = None
    ) -> builtins.list[Hit]:
        """The best chunks for a query embedding, float32 [dim], best first.

        Returns the best chunk of each of the ``k`` best memories, so that a long memory does not crowd out
        the others; or the ``k`` best chunks of the one memory ``within``. Raises `ConfigError` when ``dim``
        is not that of the tenant's vectors.
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
        """The size of the tenant's search index in memory, in bytes; 0 while it is not loaded."""
        check_tenant(tenant)
        return self._indexes.nbytes(tenant)

    def excerpts(self, tenant: str, hits: Sequence[Hit], around: int = 0) -> builtins.list[str]:
        """The text of each chunk, with ``around`` characters on either side; "" for a forgotten memory."""
        check_tenant(tenant)
        spans = [(hit.memory_id, hit.start - around, hit.end + around) for hit in hits]
        with self._catalog.read() as connection:
            return statements.excerpts(connection, tenant, spans)

    def forget(self, tenant: str, memory_id: str | None = None) -> builtins.list[Receipt]:
        """Remove one memory of the tenant, or all: text, chunks, vectors, artifacts of all versions.

        When this returns, the bytes are overwritten in the database and gone from its log. Raises
        `NotFoundError` for an unknown id.
        """
        return self.deletion.forget(tenant, memory_id)

    def checkpoint_path(self, tenant: str, memory_id: str) -> Path:
        """The file for a compiler's checkpoint of this memory, to resume an interrupted compilation.

        `forget` removes it with the memory. Raises `NotFoundError` for an unknown id.
        """
        check_tenant(tenant)
        self._current(tenant, memory_id)  # raises NotFoundError: the id becomes a part of the path
        return self.path / "unfinished" / tenant_key(tenant)[:16] / memory_id

    def check(self, tenant: str) -> builtins.list[str]:
        """Verify the tenant's artifact files; one message for each problem."""
        check_tenant(tenant)
        with self._catalog.read() as connection:
            versions = statements.versions(connection, tenant)
        problems = []
        for memory_id, version, artifact_id in versions:
            try:
                self._reader.artifact(tenant, artifact_id).close()
            except ArtifactError as error:
                problems.append(f"memory {memory_id}, version {version}: {error}")
        return problems

    def repair(self, *, grace: float | None = None) -> builtins.list[str]:
        """Remove stray files, withdraw damaged artifacts, and have indexes and damaged vectors rebuilt.

        Returns a line for each thing done, without content. Files written in the last ``grace`` seconds are
        kept, since a writer may be about to commit them. By default that is 0 if no process is writing, and
        an hour if one is or the system cannot tell. Raises `BankError` when the catalog itself is damaged.
        """
        from memkit.bank.repair import repair

        with mapped_errors(self._catalog.path):
            done = repair(self.path, self._catalog, self._store, grace)
        self._catalog.purge_deleted()
        self._indexes.clear()
        return done

    def backup(self, file: str | Path) -> int:
        """Write a snapshot of the whole bank to a new file; returns its size in bytes.

        The bank can be read and written meanwhile. Raises `ConfigError` when the file exists and
        `BankBusyError` when memories keep being forgotten during the copy.
        """
        from memkit.bank.backup import backup

        with mapped_errors(self._catalog.path):
            return backup(self.path, self._catalog, self._store, Path(file))

    def close(self) -> None:
        """Close the database; the next call opens it again."""
        self._indexes.clear()
        self._catalog.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _publish(
        self, tenant: str, memory_id: str, artifact: Artifact, data: bytes, compiled_from: CompiledFrom
    ) -> MemoryInfo:
        with self._catalog.write() as connection:
            current = statements.artifact_id(connection, tenant, memory_id)
            # A concurrent forget may have removed the file; while the write lock is held, none can.
            if not self._store.exists(tenant, artifact.id):
                self._store.write(tenant, artifact.id, data)
            if current != artifact.id:
                statements.insert_version(connection, tenant, memory_id, artifact, compiled_from)
                require_within(connection, tenant)
            statements.set_status(connection, tenant, memory_id, "compiled", None)
            return statements.info(connection, tenant, memory_id)

    def _current(self, tenant: str, memory_id: str) -> str | None:
        with self._catalog.read() as connection:
            return statements.artifact_id(connection, tenant, memory_id)

    def _discard(self, tenant: str, artifact_ids: Iterable[str]) -> None:
        """Remove the files of artifacts that no row of the tenant refers to."""
        with self._catalog.write() as connection:
            for artifact_id in artifact_ids:
                if not statements.has_artifact(connection, tenant, artifact_id):
                    self._store.remove(tenant, artifact_id)
