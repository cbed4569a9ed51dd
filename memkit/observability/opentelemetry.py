"""OpenTelemetry spans (the extra ``otel``). Their attributes are ids and numbers, never content."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from memkit._version import __version__
from memkit.errors import MissingExtraError, install_line
from memkit.observability.events import Observer

if TYPE_CHECKING:
    from memkit.answer import Answer
    from memkit.bank import MemoryInfo
    from memkit.compilers.base import Compiled


class Tracing(Observer):
    """Emits spans ``memkit.ask`` (with children ``memkit.route`` and ``memkit.generate``) and
    ``memkit.compile``.

    They are children of the span that is current when memkit is called. ``provider`` is a tracer provider;
    the default is the application's. Raises `MissingExtraError` without opentelemetry-api.
    """

    def __init__(self, provider: Any = None) -> None:
        try:
            from opentelemetry import trace
        except ImportError as error:
            raise MissingExtraError("opentelemetry", install_line("otel")) from error
        self._api = trace
        self._tracer = trace.get_tracer("memkit", __version__, tracer_provider=provider)

    def answered(self, user: str, answer: Answer, started: float) -> None:
        record = answer.trace
        begin = int(started * 1e9)
        middle = begin + int(record.route_ms * 1e6)
        end = middle + int(record.total_ms * 1e6)
        span = self._tracer.start_span("memkit.ask", start_time=begin)
        values = {
            "memkit.route": record.route,
            "memkit.gate": record.gate,
            "memkit.margin": record.margin,
            "memkit.memory": record.memory_id,
            "memkit.version": record.version,
            "memkit.probes": record.probes,
            "memkit.prompt_tokens": record.prompt_tokens,
            "memkit.ttft_ms": record.ttft_ms,
        }
        span.set_attributes({name: value for name, value in values.items() if value is not None})
        inside = self._api.set_span_in_context(span)
        self._tracer.start_span("memkit.route", context=inside, start_time=begin).end(middle)
        self._tracer.start_span("memkit.generate", context=inside, start_time=middle).end(end)
        span.end(end)

    def compiled(
        self, user: str, info: MemoryInfo, result: Compiled, verification: Mapping[str, Any]
    ) -> None:
        end = time.time_ns()
        span = self._tracer.start_span("memkit.compile", start_time=end - int(result.seconds * 1e9))
        span.set_attributes(
            {
                "memkit.memory": info.id,
                "memkit.version": info.version,
                "memkit.compiler": info.compiler or "",
                "memkit.flops": result.flops,
                "memkit.steps": result.steps,
            }
        )
        span.end(end)

    def refused(self, user: str, info: MemoryInfo, error: Exception) -> None:
        span = self._tracer.start_span("memkit.compile")
        span.set_attribute("memkit.memory", info.id)
        span.set_status(self._api.StatusCode.ERROR, type(error).__name__)
        span.end()
