"""Taking turns, and the figures that the rows of both parts share."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

T = TypeVar("T")


def turns(each: Sequence[T], turn: int) -> list[T]:
    """All of them, beginning with another one at every turn: what else runs here hits all alike."""
    first = turn % len(each)
    return [*each[first:], *each[:first]]


class Timing(NamedTuple):
    """Milliseconds of a call: those that passed, and those of the processor, whatever else kept it busy."""

    ms: float
    cpu_ms: float


def stopwatch() -> Callable[[], Timing]:
    """What has been taken since, by all threads of this process, whenever it is called."""
    started, busy = time.perf_counter(), time.process_time()
    return lambda: Timing((time.perf_counter() - started) * 1000, (time.process_time() - busy) * 1000)


def spread(name: str, ms: Sequence[float]) -> dict[str, float | None]:
    """Median and 95th percentile of milliseconds, as columns; None of nothing."""
    middle, high = (statistics.median(ms), float(np.quantile(ms, 0.95))) if ms else (None, None)
    return {f"{name}_p50_ms": middle, f"{name}_p95_ms": high}


def costs(name: str, taken: Sequence[Timing]) -> dict[str, float | None]:
    """The same of what passed, and the median of the processor's time."""
    busy = statistics.median(each.cpu_ms for each in taken) if taken else None
    return {**spread(name, [each.ms for each in taken]), f"{name}_cpu_ms": busy}


def add_ratios(rows: Sequence[dict[str, Any]], reference: str, columns: Sequence[str]) -> None:
    """How many times as long as the ``reference`` row each row's medians are, at its end; None if unknown."""
    ours = dict(next(row for row in rows if row["row"] == reference))
    for row in rows:
        for name in columns:
            theirs, mine = row[f"{name}_p50_ms"], ours[f"{name}_p50_ms"]
            row[f"{name}_ratio_to_memkit"] = theirs / mine if theirs is not None and mine else None
