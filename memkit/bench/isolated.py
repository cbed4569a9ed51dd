"""Measurements in a process of their own, and that process's peak memory."""

from __future__ import annotations

import multiprocessing
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any


def run_apart(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """The result of ``work`` in a new process, which is then gone with its memory."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_quietly, work, *arguments).result()


def _quietly(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    from memkit.models.loading import quiet_libraries

    quiet_libraries()  # this process writes to the parent's output
    return work(*arguments)


def peak_bytes() -> int:
    """The peak memory of this process: on the GPU if there is one, else resident."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
