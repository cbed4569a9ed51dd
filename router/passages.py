"""The text route: the passages of a memory that go into the prompt."""

from __future__ import annotations

from itertools import zip_longest
from typing import Protocol

from memkit.bank import Bank, Hit, MemoryInfo
from memkit.document import Span
from memkit.engine.base import Engine
from memkit.router.embedders import Vectors
from memkit.router.staleness import ALL

CHUNKS = 32  # best chunks that are considered
CLOSE = 0.5  # of the best score, that the newest chunks must reach
AROUND = 48  # tokens of chat template and separators


class Counter(Protocol):
    """Tells how much room a text takes; an engine does."""

    def count_tokens(self, text: str) -> int:
        """Tokens of ``text``."""


def passages(
    bank: Bank, tenant: str, engine: Counter, memory: MemoryInfo, vector: Vectors, room: int
) -> tuple[str, tuple[Span, ...]]:
    """The memory's best chunks for a question's vector ``[dim]`` that fit ``room`` tokens.

    They come in the document's order, no character twice. Nothing where not even the best one fits.
    """
    source = bank.source(tenant, memory.id).text
    hits = bank.search(tenant, vector, ALL if memory.running else CHUNKS, within=memory.id)
    chosen = list[Span]()
    for hit in recent(hits)[:CHUNKS] if memory.running else hits:
        span = Span(hit.start, hit.end)
        cost = engine.count_tokens(source[span.start : span.end])
        if cost > room:
            break
        chosen.append(span)
        room -= cost
    spans = merged(chosen)
    return "\n".join(source[s.start : s.end].strip() for s in spans), spans


def recent(hits: list[Hit]) -> list[Hit]:
    """Of a running memory: in turn the best chunk and the newest that is about as good.

    Facts change, so that what was said last must be among what is read.
    """
    best = sorted(hits, key=lambda hit: (-hit.score, -hit.start))
    close = [hit for hit in best if hit.score >= CLOSE * best[0].score]
    newest = sorted(close, key=lambda hit: -hit.start)
    pairs = zip_longest(best, newest)
    return list(dict.fromkeys(hit for pair in pairs for hit in pair if hit is not None))


def merged(spans: list[Span]) -> tuple[Span, ...]:
    """The same characters as spans that do not overlap, in order."""
    out = list[Span]()
    for span in sorted(spans, key=lambda s: (s.start, s.end)):
        if out and span.start < out[-1].end:
            out[-1] = Span(out[-1].start, max(out[-1].end, span.end))
        else:
            out.append(span)
    return tuple(out)


def room_for(engine: Engine, question: str, max_tokens: int) -> int:
    """Tokens that a text may have beside a question and its answer: half the window, or less."""
    left = engine.window - engine.count_tokens(question) - max_tokens - AROUND
    return min(left, engine.window // 2)
