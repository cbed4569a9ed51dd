"""Interleaving, timing, and the figures that the rows of both parts share."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np

T = TypeVar("T")


def turns(each: Sequence[T], turn: int) -> list[T]:
    """All items, starting with a different one at every turn, so that other load affects all alike."""
    first = turn % len(each)
    return [*each[first:], *each[:first]]


class Timing(NamedTuple):
    """The wall-clock and processor time of a call, in milliseconds."""

    ms: float
    cpu_ms: float


def stopwatch() -> Callable[[], Timing]:
    """Start measuring; the returned function gives the time since then, over all threads of this process."""
    started, busy = time.perf_counter(), time.process_time()
    return lambda: Timing((time.perf_counter() - started) * 1000, (time.process_time() - busy) * 1000)


def spread(name: str, ms: Sequence[float]) -> dict[str, float | None]:
    """Median and 95th percentile of milliseconds, as columns; None without values."""
    middle, high = (statistics.median(ms), float(np.quantile(ms, 0.95))) if ms else (None, None)
    return {f"{name}_p50_ms": middle, f"{name}_p95_ms": high}


def costs(name: str, taken: Sequence[Timing]) -> dict[str, float | None]:
    """`spread` of the wall-clock times, and the median of the processor times."""
    busy = statistics.median(each.cpu_ms for each in taken) if taken else None
    return {**spread(name, [each.ms for each in taken]), f"{name}_cpu_ms": busy}


def add_ratios(rows: Sequence[dict[str, Any]], reference: str, columns: Sequence[str]) -> None:
    """Add to each row the ratios of its medians to those of the ``reference`` row; None if unknown."""
    base = dict(next(row for row in rows if row["row"] == reference))
    for row in rows:
        for name in columns:
            value, reference_value = row[f"{name}_p50_ms"], base[f"{name}_p50_ms"]
            ratio = value / reference_value if value is not None and reference_value else None
            row[f"{name}_ratio_to_memkit"] = ratio
