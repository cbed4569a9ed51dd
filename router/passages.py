"""The text route: choose the passages of a memory that go into the prompt."""

from __future__ import annotations

from itertools import zip_longest
from typing import Protocol

from memkit.bank import Bank, Hit, MemoryInfo
from memkit.document import Span
from memkit.engine.base import Engine
from memkit.router.embedders import Vectors
from memkit.router.staleness import ALL_CHUNKS

MAX_CHUNKS = 32  # that are considered, best first
NEAR_BEST = 0.5  # share of the best score that a recent chunk must reach
TEMPLATE_TOKENS = 48  # reserved for the chat template and separators


class TokenCounter(Protocol):
    """Counts the tokens of a text; every engine does."""

    def count_tokens(self, text: str) -> int:
        """The number of tokens in ``text``."""


def select_passages(
    bank: Bank, tenant: str, engine: TokenCounter, memory: MemoryInfo, vector: Vectors, room: int
) -> tuple[str, tuple[Span, ...]]:
    """The memory's best chunks for a question that fit ``room`` tokens, as text and spans.

    ``vector [dim]`` is the question's embedding; ``engine`` counts tokens. Chunks come in document order
    and no character twice. Both results are empty if even the best chunk does not fit. Raises
    `NotFoundError` if the memory is gone.
    """
    source = bank.source(tenant, memory.id).text
    hits = bank.search(tenant, vector, ALL_CHUNKS if memory.running else MAX_CHUNKS, within=memory.id)
    chosen = list[Span]()
    for hit in interleave_newest(hits)[:MAX_CHUNKS] if memory.running else hits:
        span = Span(hit.start, hit.end)
        cost = engine.count_tokens(source[span.start : span.end])
        if cost > room:
            break
        chosen.append(span)
        room -= cost
    spans = merge_spans(chosen)
    return "\n".join(source[s.start : s.end].strip() for s in spans), spans


def interleave_newest(hits: list[Hit]) -> list[Hit]:
    """Order the hits of a running memory: the best one, the newest near-best one, the next best, and so on.

    Facts change, so the latest statement must be among the passages.
    """
    best = sorted(hits, key=lambda hit: (-hit.score, -hit.start))
    near_best = [hit for hit in best if hit.score >= NEAR_BEST * best[0].score]
    newest = sorted(near_best, key=lambda hit: -hit.start)
    pairs = zip_longest(best, newest)
    return list(dict.fromkeys(hit for pair in pairs for hit in pair if hit is not None))


def merge_spans(spans: list[Span]) -> tuple[Span, ...]:
    """The same characters as ordered spans without overlap."""
    out = list[Span]()
    for span in sorted(spans, key=lambda s: (s.start, s.end)):
        if out and span.start < out[-1].end:
            out[-1] = Span(out[-1].start, max(out[-1].end, span.end))
        else:
            out.append(span)
    return tuple(out)


def text_budget(engine: Engine, question: str, max_tokens: int) -> int:
    """Tokens available for a text beside ``question`` and an answer of ``max_tokens`` tokens.

    At most half the window; negative if the question itself does not fit.
    """
    remaining = engine.window - engine.count_tokens(question) - max_tokens - TEMPLATE_TOKENS
    return min(remaining, engine.window // 2)
