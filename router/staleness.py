"""Staleness: a running memory's artifact may lack the entries that a question is about.

The router then answers from the text.
"""

from __future__ import annotations

from bisect import bisect_right

from memkit.bank import Bank, Entry, MemoryInfo
from memkit.router.embedders import Vectors

ALL_CHUNKS = 1 << 20  # more than any memory has


def staleness_reason(
    bank: Bank, tenant: str, memory: MemoryInfo, vector: Vectors, min_similarity: float
) -> str:
    """Why a running memory's artifact is too stale to answer a question, or "".

    ``vector [dim]`` is the question's embedding. Entries that are newer than the artifact count if their
    similarity to the question is at least ``min_similarity``: one of them may correct the artifact. Older
    entries that were not compiled count if they are also closer to the question than every compiled entry.
    """
    if not memory.running:
        return ""
    entries = bank.logs.entries(tenant, memory.id)
    last = max((entry.number for entry in entries if entry.compiled), default=0)
    scores = _scores(bank, tenant, memory, vector, entries)
    newer = [e for e in entries if e.number > last and scores.get(e.number, 0.0) >= min_similarity]
    if newer:
        noun = "entry" if len(newer) == 1 else "entries"
        return f"{len(newer)} {noun} about this came after it was compiled"
    compiled = max((scores.get(e.number, 0.0) for e in entries if e.compiled), default=0.0)
    older = [e for e in entries if e.number <= last and not e.compiled]
    closest = max((scores.get(e.number, 0.0) for e in older), default=0.0)
    if closest >= min_similarity and closest > compiled:
        return "the entry closest to the question is older than what was compiled"
    return ""


def _scores(
    bank: Bank, tenant: str, memory: MemoryInfo, vector: Vectors, entries: list[Entry]
) -> dict[int, float]:
    """The best score of each entry's chunks, by entry number."""
    starts, scores = [entry.start for entry in entries], dict[int, float]()
    for hit in bank.search(tenant, vector, ALL_CHUNKS, within=memory.id):
        at = bisect_right(starts, hit.start) - 1
        if at >= 0 and hit.start < entries[at].end:  # a concurrent forget may have removed the entry
            scores[entries[at].number] = max(hit.score, scores.get(entries[at].number, hit.score))
    return scores
