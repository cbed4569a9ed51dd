"""Search indexes, one per tenant, derived from the catalog and held in memory only."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from memkit.bank.records import Hit, Vectors
from memkit.errors import BankError, ConfigError, MissingExtraError

# `memkit bench route` measures both kinds of search: exact search stays below the few milliseconds
# that nobody notices before an answer up to here, and misses nothing.
EXACT_BELOW = 20_000  # vectors of a tenant
# Of an inverted file's lists. What exact search finds, it is to find, too: a fifth of the lists would be four
# times as fast, and miss one memory in ten.
PROBED_SHARE = 0.8


@dataclass(frozen=True)
class Chunk:
    """Where one vector of an index comes from."""

    memory_id: str
    number: int
    start: int
    end: int


class TenantIndex:
    """Inner-product search over vectors float32 [chunks, dim], those of one memory side by side.

    Exact below ``exact_below`` vectors, then by an inverted file (IVF): what a graph (HNSW) takes to
    build is too long for an index that is built anew whenever the tenant's chunks change.
    """

    def __init__(
        self, generation: int, chunks: Sequence[Chunk], vectors: Vectors, exact_below: int = EXACT_BELOW
    ) -> None:
        self.generation = generation
        self._chunks, self._dim = chunks, vectors.shape[1]
        self.exact = len(chunks) < exact_below
        flat = _faiss().IndexFlatIP(self._dim)
        self._faiss: Any = flat if self.exact else _inverted(flat, vectors)
        self._faiss.add(vectors)
        self._rows = dict[str, tuple[int, int]]()
        for row, chunk in enumerate(chunks):
            self._rows[chunk.memory_id] = (self._rows.get(chunk.memory_id, (row, 0))[0], row + 1)

    @property
    def nbytes(self) -> int:
        """Bytes of the index as FAISS writes it, and of what it knows of its chunks."""
        known = sum(map(sys.getsizeof, self._chunks)) + sys.getsizeof(self._rows) + 40 * len(self._rows)
        return int(_faiss().serialize_index(self._faiss).nbytes) + known

    def search(self, query: Vectors, k: int) -> list[Hit]:
        """The ``k`` best chunks for a query float32 [1, dim], best first."""
        self._check(query)
        try:
            scores, rows = self._faiss.search(query, min(k, len(self._chunks)))
        except RuntimeError as error:
            raise BankError(f"the search index failed: {error}") from error
        found = [(row, score) for row, score in zip(rows[0], scores[0], strict=True) if row >= 0]
        return self._hits(found)

    def best(self, query: Vectors, k: int) -> list[Hit]:
        """The best chunk of each of the ``k`` best memories, best first.

        Takes more and more chunks until they are of ``k`` memories, so that one long memory cannot
        crowd out the others.
        """
        width = 4 * k
        while True:
            hits = self.search(query, width)
            first = dict[str, Hit]()
            for hit in hits:
                first.setdefault(hit.memory_id, hit)
            # An inverted file that is asked for more than its lists hold gives fewer.
            if len(first) >= min(k, len(self._rows)) or len(hits) < width:
                return list(first.values())[:k]
            width *= 4

    def within(self, query: Vectors, memory_id: str, k: int) -> list[Hit]:
        """The ``k`` best chunks of one memory, best first; none of a memory that is not indexed."""
        self._check(query)
        start, stop = self._rows.get(memory_id, (0, 0))
        if start == stop:
            return []
        scores = self._faiss.reconstruct_n(start, stop - start) @ query[0]
        return self._hits(list(zip(range(start, stop), scores, strict=True)))[:k]

    def _check(self, query: Vectors) -> None:
        if query.shape[1] != self._dim:
            raise ConfigError(
                f"the query has {query.shape[1]} dimensions, this tenant's embeddings have {self._dim}: "
                "use the embedding model that they were made with"
            )

    def _hits(self, found: Sequence[tuple[int, float]]) -> list[Hit]:
        chunks = [(self._chunks[row], float(score)) for row, score in found]
        hits = [Hit(c.memory_id, c.number, c.start, c.end, score) for c, score in chunks]
        return sorted(hits, key=lambda hit: (-hit.score, hit.memory_id, hit.chunk))


def _inverted(flat: Any, vectors: Vectors) -> Any:
    """A trained, empty inverted file over vectors float32 [chunks, dim]."""
    faiss = _faiss()
    lists = max(int(2 * len(vectors) ** 0.5), 1)
    index = faiss.IndexIVFFlat(flat, vectors.shape[1], lists, faiss.METRIC_INNER_PRODUCT)
    index.cp.niter, index.cp.max_points_per_centroid, index.cp.min_points_per_centroid = 8, 64, 1
    index.nprobe = max(int(PROBED_SHARE * lists), min(lists, 16))
    index.train(vectors)
    index.set_direct_map_type(faiss.DirectMap.Array)  # to read single vectors again
    return index


class Indexes:
    """The indexes of the tenants searched last. Safe to use from several threads."""

    def __init__(self, capacity: int = 256) -> None:
        self._capacity = capacity
        self._indexes: OrderedDict[str, TenantIndex] = OrderedDict()
        self._lock = threading.Lock()

    def get(
        self, tenant: str, generation: int, load: Callable[[], tuple[Sequence[Chunk], Vectors]]
    ) -> TenantIndex:
        """The tenant's index of that generation, built from ``load()`` when it is not at hand."""
        with self._lock:
            index = self._indexes.get(tenant)
        if index is None or index.generation != generation:
            index = TenantIndex(generation, *load())
        with self._lock:
            self._indexes[tenant] = index
            self._indexes.move_to_end(tenant)
            while len(self._indexes) > self._capacity:
                self._indexes.popitem(last=False)
        return index

    def nbytes(self, tenant: str) -> int:
        """Bytes of one tenant's index, 0 when it is not at hand."""
        with self._lock:
            index = self._indexes.get(tenant)
        return 0 if index is None else index.nbytes

    def drop(self, tenant: str) -> None:
        """Let go of one tenant's index."""
        with self._lock:
            self._indexes.pop(tenant, None)

    def clear(self) -> None:
        """Let go of all of them."""
        with self._lock:
            self._indexes.clear()


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError("faiss", "pip install faiss-cpu") from error
    return faiss
