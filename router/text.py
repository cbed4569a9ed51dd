"""The text route: the passages of a memory that go into the prompt."""

from __future__ import annotations

from memkit.bank import Bank
from memkit.document import Span
from memkit.engine.base import Engine
from memkit.router.embed import Vectors

CHUNKS = 32  # best chunks that are considered
AROUND = 48  # tokens of chat template and separators


def passages(
    bank: Bank, tenant: str, engine: Engine, memory_id: str, vector: Vectors, room: int
) -> tuple[str, tuple[Span, ...]]:
    """The memory's best chunks for a question's vector ``[dim]`` that fit ``room`` tokens.

    They come in the document's order, no character twice. Nothing where not even the best one fits.
    """
    source = bank.source(tenant, memory_id).text
    chosen = list[Span]()
    for hit in bank.search(tenant, vector, CHUNKS, within=memory_id):
        span = Span(hit.start, hit.end)
        cost = engine.count_tokens(source[span.start : span.end])
        if cost > room:
            break
        chosen.append(span)
        room -= cost
    spans = merged(chosen)
    return "\n".join(source[s.start : s.end].strip() for s in spans), spans


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
