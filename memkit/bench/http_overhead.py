"""The overhead of the server over the engine, both timed in the same request."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import httpx2

from memkit.artifact.format import Artifact
from memkit.bench.http_server import LiveServer, served
from memkit.engine.base import Completion, Handle, Request, Score
from memkit.engine.transformers.engine import TransformersEngine
from memkit.server.config import ServerConfig

WARM = 10  # requests that are not counted


class TimedEngine(TransformersEngine):
    """An engine that measures the time spent in it: wall-clock time, and processor time in total."""

    def __init__(self, model: str) -> None:
        self.seconds, self.cpu, self.requests, self._depth = 0.0, 0.0, list[float](), threading.local()
        super().__init__(model)

    @contextmanager
    def _inside(self) -> Iterator[None]:
        deep = getattr(self._depth, "value", 0)
        self._depth.value = deep + 1
        started, busy = time.perf_counter(), time.thread_time()
        try:
            yield
        finally:
            self._depth.value = deep
            if not deep:
                self.seconds += time.perf_counter() - started
                self.cpu += time.thread_time() - busy

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
        try:
            while True:
                with self._inside():
                    piece = next(pieces, None)
                if piece is None:
                    return
                yield piece
        finally:  # the consumer may stop after the last piece
            self.requests.append(self.seconds)
            self.seconds = 0.0


def overhead(
    model: str,
    home: Path,
    fill: Callable[[LiveServer], list[tuple[str, str]]],
    ask: Callable[[httpx2.Client, str], None],
    count: int,
) -> dict[str, Any]:
    """The time of a streamed answer outside the engine, in milliseconds, over ``count`` sequential requests.

    ``fill`` returns (key, question) pairs, which a separate process asks with ``ask``. The mean processor
    time ``overhead_cpu_ms`` is independent of other load on the machine.
    """
    engine = TimedEngine(model)
    with served(ServerConfig(home, model, rate=10**9, compile=False), engine) as server:
        pairs = fill(server)
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            busy, engine.cpu = time.process_time(), 0.0
            times = pool.submit(_ask_in_turn, server.url, pairs, ask, WARM + count).result()
            busy = time.process_time() - busy - engine.cpu
    rows = [(total, total - inside) for total, inside in zip(times, engine.requests, strict=True)][WARM:]
    added = [rest * 1000 for _, rest in rows]
    return {
        "overhead_n": count,
        "overhead_cpu_ms": busy * 1000 / (WARM + count),
        "overhead_ms_p10": quantiles(added, n=10)[0],
        "overhead_ms_p50": median(added),
        "overhead_ms_p95": quantiles(added, n=20)[-1],
        "alone_answer_ms_p50": median(total * 1000 for total, _ in rows),
    }


def _ask_in_turn(
    url: str, pairs: Sequence[tuple[str, str]], ask: Callable[[httpx2.Client, str], None], count: int
) -> list[float]:
    """The time of each answer, in seconds."""
    times = list[float]()
    with httpx2.Client(base_url=url, timeout=60) as client:
        for number in range(count):
            key, question = pairs[number % len(pairs)]
            client.headers["Authorization"] = f"Bearer {key}"
            started = time.perf_counter()
            ask(client, question)
            times.append(time.perf_counter() - started)
    return times
