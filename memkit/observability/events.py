"""What memkit tells those who run it: log records, and hooks for metrics and traces. Never content."""

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
    """Told of what a `memkit.Memory` does. Every method may be left as it is, and does nothing then."""

    def answered(self, user: str, answer: Answer, started: float) -> None:
        """A question was answered; ``started`` is a Unix time."""

    def compiled(self, user: str, info: MemoryInfo, made: Compiled, verification: Mapping[str, Any]) -> None:
        """An artifact was published, which showed ``verification`` in the admission gate."""

    def refused(self, user: str, info: MemoryInfo, error: Exception) -> None:
        """A compilation failed, or the admission gate refused its artifact."""


class LogObserver(Observer):
    """Log records of the logger ``memkit``, level INFO; what they hold is also in ``record.memkit``.

    Users appear by a hash, memories by their ids, and no text of theirs at all.
    """

    def answered(self, user: str, answer: Answer, started: float) -> None:
        trace = answer.trace
        self._say(
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

    def compiled(self, user: str, info: MemoryInfo, made: Compiled, verification: Mapping[str, Any]) -> None:
        self._say(
            "compiled",
            user,
            memory=info.id,
            version=info.version,
            compiler=info.compiler,
            seconds=round(made.seconds, 2),
            flops=made.flops,
            bytes=len(made.data),
            fidelity=verification.get("fidelity"),
        )

    def refused(self, user: str, info: MemoryInfo, error: Exception) -> None:
        self._say("refused", user, memory=info.id, error=type(error).__name__)

    def _say(self, event: str, user: str, **values: Any) -> None:
        if log.isEnabledFor(logging.INFO):
            told = {"event": event, "user": tenant_key(user)[:16], **values}
            words = " ".join(f"{name}={value}" for name, value in told.items() if value is not None)
            log.info(words, extra={"memkit": told})


class Observers(Observer):
    """Several of them, told in order."""

    def __init__(self, *observers: Observer) -> None:
        self._observers = observers

    def answered(self, user: str, answer: Answer, started: float) -> None:
        for each in self._observers:
            each.answered(user, answer, started)

    def compiled(self, user: str, info: MemoryInfo, made: Compiled, verification: Mapping[str, Any]) -> None:
        for each in self._observers:
            each.compiled(user, info, made, verification)

    def refused(self, user: str, info: MemoryInfo, error: Exception) -> None:
        for each in self._observers:
            each.refused(user, info, error)


class JsonFormatter(logging.Formatter):
    """A log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if isinstance(told := getattr(record, "memkit", None), Mapping):
            line |= told
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)
