"""Entries of a running memory that its artifact has not seen: what is asked about them is read as text."""

from __future__ import annotations

from bisect import bisect_right

from memkit.bank import Bank, Entry, MemoryInfo
from memkit.router.embedders import Vectors

ALL = 1 << 20  # chunks of one memory


def staleness_reason(bank: Bank, tenant: str, memory: MemoryInfo, vector: Vectors, least: float) -> str:
    """Why a running memory's artifact cannot answer a question with that vector ``[dim]``, or "".

    Newer entries count as soon as they are about the question (similarity ``least``), as one of them may
    have changed what the artifact tells. Older ones, which were left out, count where they are closer
    to it than all that was compiled.
    """
    if not memory.running:
        return ""
    entries = bank.logs.entries(tenant, memory.id)
    last = max((entry.number for entry in entries if entry.compiled), default=0)
    scores = _scores(bank, tenant, memory, vector, entries)
    newer = [e for e in entries if e.number > last and scores.get(e.number, 0.0) >= least]
    if newer:
        return f"{_count(len(newer), 'entry', 'entries')} about this came after it was compiled"
    compiled = max((scores.get(e.number, 0.0) for e in entries if e.compiled), default=0.0)
    older = [e for e in entries if e.number <= last and not e.compiled]
    closest = max((scores.get(e.number, 0.0) for e in older), default=0.0)
    if closest >= least and closest > compiled:
        return "what is closest to the question is older than what was compiled"
    return ""


def _scores(
    bank: Bank, tenant: str, memory: MemoryInfo, vector: Vectors, entries: list[Entry]
) -> dict[int, float]:
    """The best score of each entry's chunks, by the entry's number."""
    starts, found = [entry.start for entry in entries], dict[int, float]()
    for hit in bank.search(tenant, vector, ALL, within=memory.id):
        at = bisect_right(starts, hit.start) - 1
        if at >= 0 and hit.start < entries[at].end:  # it may have been forgotten in the meantime
            found[entries[at].number] = max(hit.score, found.get(entries[at].number, hit.score))
    return found


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
