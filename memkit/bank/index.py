"""Search indexes, one per tenant, derived from the catalog and held in memory only."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from memkit.bank.records import Hit, Vectors
from memkit.errors import BankError, ConfigError, MissingExtraError


@dataclass(frozen=True)
class Chunk:
    """Where one vector of an index comes from."""

    memory_id: str
    number: int
    start: int
    end: int


class TenantIndex:
    """Exact inner-product search over vectors float32 [chunks, dim]."""

    def __init__(self, generation: int, chunks: Sequence[Chunk], vectors: Vectors) -> None:
        self.generation = generation
        self._chunks, self._dim = chunks, vectors.shape[1]
        self._faiss: Any = _faiss().IndexFlatIP(self._dim)
        self._faiss.add(vectors)

    def search(self, query: Vectors, k: int) -> list[Hit]:
        """The ``k`` best chunks for a query float32 [1, dim], best first."""
        if query.shape[1] != self._dim:
            raise ConfigError(
                f"the query has {query.shape[1]} dimensions, this tenant's embeddings have {self._dim}: "
                "use the embedding model that they were made with"
            )
        try:
            scores, rows = self._faiss.search(query, min(k, len(self._chunks)))
        except RuntimeError as error:
            raise BankError(f"the search index failed: {error}") from error
        found = [
            Hit(c.memory_id, c.number, c.start, c.end, float(score))
            for score, c in zip(scores[0], (self._chunks[row] for row in rows[0]), strict=True)
        ]
        return sorted(found, key=lambda hit: (-hit.score, hit.memory_id, hit.chunk))


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
