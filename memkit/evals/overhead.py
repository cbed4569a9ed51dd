"""What the server adds to an answer over the engine alone: both are timed in the same request."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from memkit.artifact import Artifact
from memkit.engine.base import Completion, Handle, Request, Score
from memkit.engine.transformers import TransformersEngine
from memkit.server.config import ServerConfig
from memkit.server.testing import Served, served

WARM = 10  # requests that are not counted


class Timed(TransformersEngine):
    """An engine that adds up the time spent in it, in seconds."""

    def __init__(self, model: str) -> None:
        self.seconds, self._depth = 0.0, threading.local()
        super().__init__(model)

    @contextmanager
    def _inside(self) -> Iterator[None]:
        deep = getattr(self._depth, "value", 0)
        self._depth.value = deep + 1
        started = time.perf_counter()
        try:
            yield
        finally:
            self._depth.value = deep
            if not deep:
                self.seconds += time.perf_counter() - started

    def attach(self, artifact: Artifact) -> Handle:
        with self._inside():
            return super().attach(artifact)

    def count_tokens(self, text: str) -> int:
        with self._inside():
            return super().count_tokens(text)

    def score(self, requests: Sequence[Request]) -> list[Score]:
        with self._inside():
            return super().score(requests)

    def stream(self, request: Request) -> Iterator[str | Completion]:
        with self._inside():
            pieces = super().stream(request)
        while True:
            with self._inside():
                piece = next(pieces, None)
            if piece is None:
                return
            yield piece


def overhead(
    model: str,
    home: Path,
    fill: Callable[[Served], list[tuple[Any, str]]],
    ask: Callable[[Any, str], Any],
    count: int,
) -> dict[str, Any]:
    """Milliseconds of a streamed answer that are not the engine's, of ``count`` requests one after the other.

    ``fill`` gives clients with their questions. The client's own work is part of it, as it runs here, too.
    """
    engine = Timed(model)
    added, whole = list[float](), list[float]()
    with served(ServerConfig(home, model, rate=10**9, compile=False), engine) as server:
        pairs = fill(server)
        for number in range(WARM + count):
            client, question = pairs[number % len(pairs)]
            engine.seconds, started = 0.0, time.perf_counter()
            ask(client, question)
            took = time.perf_counter() - started
            if number >= WARM:
                added.append((took - engine.seconds) * 1000)
                whole.append(took * 1000)
    return {
        "overhead_n": count,
        "overhead_ms_p50": median(added),
        "overhead_ms_p95": quantiles(added, n=20)[-1],
        "alone_answer_ms_p50": median(whole),
    }
