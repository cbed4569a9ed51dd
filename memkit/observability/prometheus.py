"""Prometheus metrics (the extra ``metrics``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memkit.errors import MissingExtraError, install_line
from memkit.observability.events import Observer

if TYPE_CHECKING:
    from memkit.answer import Answer
    from memkit.bank import MemoryInfo
    from memkit.compilers.base import Compiled
    from memkit.recompile.run import Report

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_LONG = (1.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0)
_MARGINS = (-0.5, -0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2, 0.5)


class Metrics(Observer):
    """Counts events in ``registry``, by default one of its own. No label identifies a user or a memory.

    Raises `MissingExtraError` without prometheus-client.
    """

    def __init__(self, registry: Any = None) -> None:
        try:
            from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
        except ImportError as error:
            raise MissingExtraError("prometheus_client", install_line("metrics")) from error
        self.registry = registry = registry or CollectorRegistry()
        by_route: dict[str, Any] = {"labelnames": ["route"], "registry": registry}
        by_compiler: dict[str, Any] = {"labelnames": ["compiler"], "registry": registry}
        self._answers = Counter("memkit_answers", "Answers by route", **by_route)
        self._answer = Histogram("memkit_answer_seconds", "Time of an answer", **by_route, buckets=_SECONDS)
        self._first = Histogram(
            "memkit_first_token_seconds", "Time to the first token", **by_route, buckets=_SECONDS
        )
        self._margin = Histogram(
            "memkit_gate_margin", "How clear the gate's decision was", **by_route, buckets=_MARGINS
        )
        self._outcomes = Counter(
            "memkit_compilations", "Compilations by outcome", labelnames=["outcome"], registry=registry
        )
        self._compile = Histogram(
            "memkit_compile_seconds", "Time of a compilation", **by_compiler, buckets=_LONG
        )
        self._fidelity = Histogram(
            "memkit_fidelity",
            "Share of self-test answers that the artifact gives as the text does",
            **by_compiler,
            buckets=_SHARES,
        )
        self._queue = Gauge(
            "memkit_queue_age_seconds", "How long the oldest compilation waits", registry=registry
        )

    def watch(self, age: Callable[[], float]) -> None:
        """Call ``age`` for the queue's age in seconds whenever metrics are read; see
        `memkit.Memory.queue_age`."""
        self._queue.set_function(age)

    def answered(self, user: str, answer: Answer, started: float) -> None:
        trace = answer.trace
        self._answers.labels(trace.route).inc()
        self._answer.labels(trace.route).observe((trace.route_ms + trace.total_ms) / 1000)
        self._first.labels(trace.route).observe((trace.route_ms + trace.ttft_ms) / 1000)
        if trace.margin is not None:
            self._margin.labels(trace.route).observe(trace.margin)

    def compiled(
        self, user: str, info: MemoryInfo, result: Compiled, verification: Mapping[str, Any]
    ) -> None:
        self._outcomes.labels("compiled").inc()
        self._compile.labels(info.compiler or "").observe(result.seconds)
        if isinstance(fidelity := verification.get("fidelity"), float | int):
            self._fidelity.labels(info.compiler or "").observe(fidelity)

    def refused(self, user: str, info: MemoryInfo, error: Exception) -> None:
        self._outcomes.labels(type(error).__name__).inc()

    def text(self) -> str:
        """All metrics in Prometheus' text format."""
        from prometheus_client import generate_latest

        return generate_latest(self.registry).decode()

    def write(self, file: Path) -> None:
        """Replace a file atomically, for the node exporter's textfile collector."""
        from prometheus_client import write_to_textfile

        write_to_textfile(str(file), self.registry)


def of_recompilation(report: Report) -> Metrics:
    """The metrics of a recompilation: its end, its duration, and its memories by outcome."""
    from prometheus_client import Gauge

    metrics = Metrics()
    ended = Gauge("memkit_recompile_ended_timestamp_seconds", "When it ended", registry=metrics.registry)
    ended.set_to_current_time()
    Gauge("memkit_recompile_seconds", "What it took", registry=metrics.registry).set(report.seconds)
    memories = Gauge(
        "memkit_recompile_memories", "Memories by outcome", labelnames=["outcome"], registry=metrics.registry
    )
    for outcome in report.outcomes:
        memories.labels(outcome.status).inc()
    memories.labels("skipped").set(len(report.skipped))
    memories.labels("unchanged").set(report.unchanged)
    return metrics
