"""The arithmetic of probes and answers on the embedded engine."""

from __future__ import annotations

from memkit.engine.base import Request
from memkit.engine.transformers.engine import TransformersEngine


class Work:
    """FLOPs of requests. The header and an artifact are read from memory; a text is computed."""

    def __init__(self, engine: TransformersEngine) -> None:
        self._engine = engine

    def probe(self, request: Request) -> float:
        """Of one token."""
        return self._forward(request, 0)

    def answer(self, request: Request, said: str) -> float:
        """Of a whole answer, its end included."""
        return self._forward(request, self._engine.count_tokens(said))

    def shared_nothing(self, request: Request) -> float:
        """Of one token when the header and the artifact have to be computed, too."""
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
