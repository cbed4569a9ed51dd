"""Helpers of evaluations and benchmarks: timing, sizes, and the rates of this machine."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MATRIX = 1024  # rows and columns of the matrices of `matrix_rate`


def stamp(*more: str) -> dict[str, str]:
    """The machine and date of a measurement; ``more`` adds to the machine's description."""
    machine = ", ".join([platform.machine(), f"{os.cpu_count()} cores", *more])
    return {"machine": machine, "date": datetime.now(UTC).date().isoformat()}


def interleaved(calls: Sequence[Callable[[], object]], repeats: int) -> list[list[float]]:
    """Milliseconds of ``repeats`` runs of each call, interleaved, after a warm-up round."""
    for call in calls:
        call()
    rounds = [[_time(call) for call in calls] for _ in range(repeats)]
    return [list(column) for column in zip(*rounds, strict=True)]


def matrix_rate(dtype: torch.dtype, repeats: int = 9) -> float:
    """The FLOPs per second of a matrix product: the median of ``repeats``."""
    import torch

    a, b = (torch.randn(MATRIX, MATRIX).to(dtype) for _ in range(2))
    (times,) = interleaved([lambda: a @ b], repeats)
    return 2 * MATRIX**3 / (statistics.median(times) / 1000)


def copy_rate(nbytes: int = 1 << 24, repeats: int = 9) -> float:
    """The bytes per second of a copy in memory: the median of ``repeats``."""
    data = bytes(nbytes)
    (times,) = interleaved([lambda: bytearray(data)], repeats)
    return nbytes / (statistics.median(times) / 1000)


def nbytes(folder: Path) -> int:
    """The size of all files below a folder, in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _time(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000
