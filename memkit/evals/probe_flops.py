"""Count the FLOPs of probes and answers on the embedded engine."""

from __future__ import annotations

from memkit.engine.base import Request
from memkit.engine.transformers.engine import TransformersEngine


class RequestFlops:
    """The FLOPs of requests. The KV of the header and of an artifact is cached; a context is computed."""

    def __init__(self, engine: TransformersEngine) -> None:
        self._engine = engine

    def probe(self, request: Request) -> float:
        """The FLOPs of the first token."""
        return self._forward(request, 0)

    def answer(self, request: Request, text: str) -> float:
        """The FLOPs of a whole answer ``text``, including its end token."""
        return self._forward(request, self._engine.count_tokens(text))

    def without_cache(self, request: Request) -> float:
        """The FLOPs of the first token if header and artifact are computed, too."""
        base, cached = self._engine.base, request.handle.tokens if request.handle else 0
        return self._total([(len(base.chat.header) + cached, 0)]) + self._forward(request, 0)

    def _forward(self, request: Request, more: int) -> float:
        base = self._engine.base
        remembered = request.handle is not None or request.context is not None
        query = len(base.chat.query(base.tokenizer, request.question, remembered))
        prefix = len(base.chat.header) + (request.handle.tokens if request.handle else 0)
        text = self._engine.count_tokens(request.context) if request.context is not None else 0
        return self._total([(text + query, prefix), (more, prefix + text + query)])

    def _total(self, passes: list[tuple[int, int]]) -> float:
        from memkit.compilers.distillation.flops import FlopMeter

        meter = FlopMeter(self._engine.base.model)
        for tokens, attended in passes:
            meter.forward(tokens, attended)
        return meter.total
