"""Events for operators: log records, and hooks for metrics and traces. They never contain content."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from memkit.bank.types import tenant_key

if TYPE_CHECKING:
    from memkit.answer import Answer
    from memkit.bank import MemoryInfo
    from memkit.compilers.base import Compiled

log = logging.getLogger("memkit")


class Observer:
    """Receives the events of a `memkit.Memory`. The methods do nothing; override those that you need."""

    def answered(self, user: str, answer: Answer, started: float) -> None:
        """A question was answered; ``started`` is the Unix time at which it was asked."""

    def compiled(
        self, user: str, info: MemoryInfo, result: Compiled, verification: Mapping[str, Any]
    ) -> None:
        """An artifact was published; ``verification`` holds its figures of the admission gate."""

    def refused(self, user: str, info: MemoryInfo, error: Exception) -> None:
        """A compilation failed, or the admission gate refused its artifact."""


class LogObserver(Observer):
    """Writes events to the logger ``memkit`` at level INFO; their fields are also in ``record.memkit``.

    Users appear as a hash and memories as their ids; texts never appear.
    """

    def answered(self, user: str, answer: Answer, started: float) -> None:
        trace = answer.trace
        self._log(
            "answered",
            user,
            memory=trace.memory_id,
            version=trace.version,
            route=trace.route,
            gate=trace.gate,
            margin=trace.margin,
            probes=trace.probes,
            prompt_tokens=trace.prompt_tokens,
            route_ms=round(trace.route_ms, 1),
            ttft_ms=round(trace.ttft_ms, 1),
            total_ms=round(trace.total_ms, 1),
        )

    def compiled(
        self, user: str, info: MemoryInfo, result: Compiled, verification: Mapping[str, Any]
    ) -> None:
        self._log(
            "compiled",
            user,
            memory=info.id,
            version=info.version,
            compiler=info.compiler,
            seconds=round(result.seconds, 2),
            flops=result.flops,
            bytes=len(result.data),
            fidelity=verification.get("fidelity"),
        )

    def refused(self, user: str, info: MemoryInfo, error: Exception) -> None:
        self._log("refused", user, memory=info.id, error=type(error).__name__)

    def _log(self, event: str, user: str, **values: Any) -> None:
        if log.isEnabledFor(logging.INFO):
            fields = {"event": event, "user": tenant_key(user)[:16], **values}
            message = " ".join(f"{name}={value}" for name, value in fields.items() if value is not None)
            log.info(message, extra={"memkit": fields})


class Observers(Observer):
    """Passes every event to several observers, in order."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def answered(self, user: str, answer: Answer, started: float) -> None:
        for each in self._observers:
            each.answered(user, answer, started)

    def compiled(
        self, user: str, info: MemoryInfo, result: Compiled, verification: Mapping[str, Any]
    ) -> None:
        for each in self._observers:
            each.compiled(user, info, result, verification)

    def refused(self, user: str, info: MemoryInfo, error: Exception) -> None:
        for each in self._observers:
            each.refused(user, info, error)


class JsonFormatter(logging.Formatter):
    """Formats a log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if isinstance(fields := getattr(record, "memkit", None), Mapping):
            line |= fields
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
