"""Search indexes, one per tenant, derived from the catalog and held in memory only."""

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

# `memkit bench route` measures both kinds of search: exact search stays below the few milliseconds
# that nobody notices before an answer up to here, and misses nothing.
EXACT_BELOW = 20_000  # vectors of a tenant
# Of an inverted file's lists. What exact search finds, it is to find, too: a fifth of the lists would be four
# times as fast, and miss one memory in ten.
PROBED_SHARE = 0.8
# Chunks that may lie beside an index before it is built anew with them: this many, or this share of it.
TAIL_LEAST, TAIL_SHARE = 1024, 0.1


@dataclass(frozen=True)
class Chunk:
    """Where one vector of an index comes from."""

    memory_id: str
    number: int
    start: int
    end: int


LoadedVectors = tuple[Sequence[Chunk], Vectors]


class _Segment:
    """Some of a tenant's chunks with vectors float32 [chunks, dim], those of one memory side by side."""

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
        known = sum(map(sys.getsizeof, self.chunks)) + sys.getsizeof(self.rows) + 40 * len(self.rows)
        return int(_faiss().serialize_index(self._faiss).nbytes) + known

    @property
    def vectors(self) -> Vectors:
        """All of them again, float32 [chunks, dim]."""
        made: Vectors = self._faiss.reconstruct_n(0, len(self.chunks))
        return made

    def search(self, query: Vectors, k: int) -> list[Hit]:
        """The ``k`` best chunks, best first."""
        try:
            scores, rows = self._faiss.search(query, min(k, len(self.chunks)))
        except RuntimeError as error:
            raise BankError(f"the search index failed: {error}") from error
        found = [(row, score) for row, score in zip(rows[0], scores[0], strict=True) if row >= 0]
        return self._hits(found)

    def within(self, query: Vectors, memory_id: str) -> list[Hit]:
        """All chunks of one memory, in any order."""
        start, stop = self.rows.get(memory_id, (0, 0))
        if start == stop:
            return []
        scores = self._faiss.reconstruct_n(start, stop - start) @ query[0]
        return self._hits(list(zip(range(start, stop), scores, strict=True)))

    def _hits(self, found: Sequence[tuple[int, float]]) -> list[Hit]:
        chunks = [(self.chunks[row], float(score)) for row, score in found]
        return [Hit(c.memory_id, c.number, c.start, c.end, score) for c, score in chunks]


class TenantIndex:
    """Inner-product search over a tenant's vectors. An index never changes: `grown` makes a new one.

    Exact below ``exact_below`` vectors, then by an inverted file (IVF): a graph (HNSW) takes too long for
    what is built anew whenever chunks are taken away. Chunks that came later lie in a short segment of their
    own, which is searched exactly.
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
        """With chunks that came since, vectors float32 [chunks, dim]; None when it is time to build anew."""
        made = copy(self)
        made.generation = generation
        if not chunks:
            return made
        base, *tail = self._segments
        for segment in tail:  # there is one at most
            chunks, vectors = [*segment.chunks, *chunks], np.concatenate((segment.vectors, vectors))
        if len(chunks) > max(TAIL_LEAST, int(TAIL_SHARE * len(base.chunks))):
            return None
        # Stable: a running memory's chunks stay in the order of their numbers.
        order = sorted(range(len(chunks)), key=lambda row: chunks[row].memory_id)
        made._segments = (base, _Segment([chunks[row] for row in order], vectors[order], exact=True))
        made._count()
        return made

    @property
    def nbytes(self) -> int:
        """Bytes of the index as FAISS writes it, and of what it knows of its chunks."""
        return sum(segment.nbytes for segment in self._segments)

    def search(self, query: Vectors, k: int) -> list[Hit]:
        """The ``k`` best chunks for a query float32 [1, dim], best first."""
        self._check(query)
        return _sorted([hit for segment in self._segments for hit in segment.search(query, k)])[:k]

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
            if len(first) >= min(k, self._memories) or len(hits) < width:
                return list(first.values())[:k]
            width *= 4

    def within(self, query: Vectors, memory_id: str, k: int) -> list[Hit]:
        """The ``k`` best chunks of one memory, best first; none of a memory that is not indexed."""
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
    """The indexes of the tenants searched last. Safe to use from several threads."""

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

        When it is not at hand an older one grows by ``load_since(its generation)``, which is None where more
        than that has changed; else it is built from ``load()``.
        """
        with self._lock:
            found = self._indexes.get(tenant)
        index = found
        if found is not None and found.generation != generation:
            newer = load_since(found.generation) if found.generation < generation else None
            index = None if newer is None else found.grown(generation, *newer)
        if index is None:
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
