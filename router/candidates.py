"""Candidate memories for a question, by similarity of their chunks."""

from __future__ import annotations

from dataclasses import dataclass

from memkit.bank import Bank, Hit, MemoryInfo
from memkit.router.embed import Embedder


@dataclass(frozen=True)
class Candidate:
    """A memory with its best chunk's similarity; ``hits`` are its chunks, best first."""

    memory: MemoryInfo
    similarity: float
    hits: tuple[Hit, ...]


def candidates(
    bank: Bank, tenant: str, question: str, embedder: Embedder, *, memories: int = 8, chunks: int = 32
) -> list[Candidate]:
    """The tenant's best ``memories`` memories among its ``chunks`` best chunks, best first."""
    hits = bank.search(tenant, embedder.question(question), chunks)
    grouped = dict[str, list[Hit]]()
    for hit in hits:
        grouped.setdefault(hit.memory_id, []).append(hit)
    ranked = sorted(grouped.items(), key=lambda item: (-item[1][0].score, item[0]))[:memories]
    return [Candidate(bank.get(tenant, key), group[0].score, tuple(group)) for key, group in ranked]
