"""Vector indexes (FAISS), one for each tenant, derived from the catalog and held in memory only."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np

from memkit.bank.types import Hit, Vectors
from memkit.errors import BankError, ConfigError, MissingExtraError

# Vectors of a tenant up to which search is exact: it takes a few milliseconds (measured by `memkit bench
# route`) and misses nothing.
EXACT_BELOW = 20_000
# Share of an inverted file's lists that is searched. A fifth would be four times as fast and miss one memory
# in ten.
PROBED_SHARE = 0.8
# Chunks that are searched beside an index before it is rebuilt: this many, or this share of the index.
TAIL_LEAST, TAIL_SHARE = 1024, 0.1


@dataclass(frozen=True)
class Chunk:
    """The source of one vector: characters ``[start, end)`` of a memory's text, its chunk ``number``."""

    memory_id: str
    number: int
    start: int
    end: int


LoadedVectors = tuple[Sequence[Chunk], Vectors]


class _Segment:
    """A part of a tenant's chunks, grouped by memory, with their vectors, float32 [chunks, dim]."""

    def __init__(self, chunks: Sequence[Chunk], vectors: Vectors, exact: bool) -> None:
        self.chunks = chunks
        flat = _faiss().IndexFlatIP(vectors.shape[1])
        self._faiss: Any = flat if exact else _inverted(flat, vectors)
        self._faiss.add(vectors)
        self.rows = dict[str, tuple[int, int]]()
        for row, chunk in enumerate(chunks):
            self.rows[chunk.memory_id] = (self.rows.get(chunk.memory_id, (row, 0))[0], row + 1)

    @property
    def nbytes(self) -> int:
        size = sum(map(sys.getsizeof, self.chunks)) + sys.getsizeof(self.rows) + 40 * len(self.rows)
        return int(_faiss().serialize_index(self._faiss).nbytes) + size

    @property
    def vectors(self) -> Vectors:
        """The vectors of all chunks, float32 [chunks, dim]."""
        vectors: Vectors = self._faiss.reconstruct_n(0, len(self.chunks))
        return vectors

    def search(self, query: Vectors, k: int) -> list[Hit]:
        """The ``k`` best chunks for a query float32 [1, dim], best first."""
        try:
            scores, rows = self._faiss.search(query, min(k, len(self.chunks)))
        except RuntimeError as error:
            raise BankError(f"the search index failed: {error}") from error
        ranked = [(row, score) for row, score in zip(rows[0], scores[0], strict=True) if row >= 0]
        return self._hits(ranked)

    def within(self, query: Vectors, memory_id: str) -> list[Hit]:
        """All chunks of one memory, with their scores for a query float32 [1, dim], in any order."""
        start, stop = self.rows.get(memory_id, (0, 0))
        if start == stop:
            return []
        scores = self._faiss.reconstruct_n(start, stop - start) @ query[0]
        return self._hits(list(zip(range(start, stop), scores, strict=True)))

    def _hits(self, ranked: Sequence[tuple[int, float]]) -> list[Hit]:
        chunks = [(self.chunks[row], float(score)) for row, score in ranked]
        return [Hit(c.memory_id, c.number, c.start, c.end, score) for c, score in chunks]


class TenantIndex:
    """Inner-product search over a tenant's vectors. An index is immutable: `grown` returns a new one.

    Search is exact below ``exact_below`` vectors and uses an inverted file (IVF) from there on: a graph
    (HNSW) takes too long to build for an index that is rebuilt whenever chunks are removed. Chunks added
    later form a short second segment, which is searched exactly.
    """

    def __init__(
        self, generation: int, chunks: Sequence[Chunk], vectors: Vectors, exact_below: int = EXACT_BELOW
    ) -> None:
        self.generation, self._dim = generation, vectors.shape[1]
        self.exact = len(chunks) < exact_below
        self._segments: tuple[_Segment, ...] = (_Segment(chunks, vectors, self.exact),)
        self._count()

    def _count(self) -> None:
        first, *more = (segment.rows for segment in self._segments)
        self._memories = len(first) + sum(len(rows.keys() - first.keys()) for rows in more)

    def grown(self, generation: int, chunks: Sequence[Chunk], vectors: Vectors) -> TenantIndex | None:
        """An index with further chunks and their vectors, float32 [chunks, dim]; None if a rebuild is due."""
        index = copy(self)
        index.generation = generation
        if not chunks:
            return index
        base, *tail = self._segments
        for segment in tail:  # there is one at most
            chunks, vectors = [*segment.chunks, *chunks], np.concatenate((segment.vectors, vectors))
        if len(chunks) > max(TAIL_LEAST, int(TAIL_SHARE * len(base.chunks))):
            return None
        # Stable: a running memory's chunks stay in the order of their numbers.
        order = sorted(range(len(chunks)), key=lambda row: chunks[row].memory_id)
        index._segments = (base, _Segment([chunks[row] for row in order], vectors[order], exact=True))
        index._count()
        return index

    @property
    def nbytes(self) -> int:
        """Bytes of the serialized FAISS index and of the chunk table."""
        return sum(segment.nbytes for segment in self._segments)

    def search(self, query: Vectors, k: int) -> list[Hit]:
        """The ``k`` best chunks for a query float32 [1, dim], best first."""
        self._check(query)
        return _sorted([hit for segment in self._segments for hit in segment.search(query, k)])[:k]

    def best(self, query: Vectors, k: int) -> list[Hit]:
        """The best chunk of each of the ``k`` best memories for a query float32 [1, dim], best first.

        Widens the search until its hits cover ``k`` memories, so that one long memory cannot crowd out the
        others.
        """
        width = 4 * k
        while True:
            hits = self.search(query, width)
            first = dict[str, Hit]()
            for hit in hits:
                first.setdefault(hit.memory_id, hit)
            # An inverted file returns fewer hits than requested when its probed lists hold no more.
            if len(first) >= min(k, self._memories) or len(hits) < width:
                return list(first.values())[:k]
            width *= 4

    def within(self, query: Vectors, memory_id: str, k: int) -> list[Hit]:
        """The ``k`` best chunks of one memory, best first; none for a memory that is not indexed."""
        self._check(query)
        return _sorted([hit for segment in self._segments for hit in segment.within(query, memory_id)])[:k]

    def _check(self, query: Vectors) -> None:
        if query.shape[1] != self._dim:
            raise ConfigError(
                f"the query has {query.shape[1]} dimensions, this tenant's embeddings have {self._dim}: "
                "use the embedding model that they were made with"
            )


def _sorted(hits: Sequence[Hit]) -> list[Hit]:
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


class VectorIndexes:
    """An LRU cache of the indexes of ``capacity`` tenants. Thread-safe."""

    def __init__(self, capacity: int = 256) -> None:
        self._capacity = capacity
        self._indexes: OrderedDict[str, TenantIndex] = OrderedDict()
        self._lock = threading.Lock()

    def get(
        self,
        tenant: str,
        generation: int,
        load: Callable[[], LoadedVectors],
        load_since: Callable[[int], LoadedVectors | None],
    ) -> TenantIndex:
        """The tenant's index of that generation.

        An older cached index grows by ``load_since(its generation)``, which is None if chunks were also
        removed; otherwise the index is built from ``load()``.
        """
        with self._lock:
            cached = self._indexes.get(tenant)
        index = cached
        if cached is not None and cached.generation != generation:
            newer = load_since(cached.generation) if cached.generation < generation else None
            index = None if newer is None else cached.grown(generation, *newer)
        if index is None:
            index = TenantIndex(generation, *load())
        with self._lock:
            self._indexes[tenant] = index
            self._indexes.move_to_end(tenant)
            while len(self._indexes) > self._capacity:
                self._indexes.popitem(last=False)
        return index

    def nbytes(self, tenant: str) -> int:
        """Bytes of one tenant's index; 0 if it is not cached."""
        with self._lock:
            index = self._indexes.get(tenant)
        return 0 if index is None else index.nbytes

    def drop(self, tenant: str) -> None:
        """Remove one tenant's index from the cache."""
        with self._lock:
            self._indexes.pop(tenant, None)

    def clear(self) -> None:
        """Remove all indexes from the cache."""
        with self._lock:
            self._indexes.clear()


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError("faiss", "pip install faiss-cpu") from error
    return faiss
