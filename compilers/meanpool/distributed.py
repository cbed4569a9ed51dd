"""Data-parallel training: each process computes a share of every step, and gradients are summed.

    accelerate launch --num_processes 4 -m memkit train-compressor --stage cpt1 ...

All processes draw the same samples, so the result is that of a single process. Weights are replicated, not
sharded: model and optimizer must fit one device.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import distributed, nn

T = TypeVar("T")
Series = Mapping[str, tuple[float, float]]


@dataclass(frozen=True)
class ProcessGroup:
    """This process's ``rank`` among ``size``."""

    rank: int = 0
    size: int = 1

    @classmethod
    def of_environment(cls) -> ProcessGroup:
        """The group that ``accelerate launch`` or ``torchrun`` started; without them a group of one.

        Must be called before a model is loaded, since it sets the process's device.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return cls()
        from accelerate import PartialState

        state = PartialState(cpu=not torch.cuda.is_available())
        return cls(state.process_index, state.num_processes)

    @property
    def leads(self) -> bool:
        """Whether this is the first process, which writes the results."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """This process's share of the items: every ``size``-th."""
        return items[self.rank :: self.size]

    def run(self, items: Sequence[T]) -> Sequence[T]:
        """This process's share of the items: a contiguous part."""
        start, end = (len(items) * i // self.size for i in (self.rank, self.rank + 1))
        return items[start:end]

    def gather(self, items: Sequence[T]) -> list[T]:
        """The items of all processes, ordered by rank."""
        if self.size == 1:
            return list(items)
        parts: list[Any] = [None] * self.size
        distributed.all_gather_object(parts, list(items))
        return [each for part in parts for each in part]

    def total(self, series: Sequence[Series]) -> dict[str, tuple[float, float]]:
        """(sum, count) of each series over all processes."""
        return summed(self.gather(series))

    @torch.no_grad()
    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Replace every process's gradients by their sum over all processes."""
        if self.size == 1:
            return
        trained = [p for p in parameters if p.requires_grad]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trained])
        distributed.all_reduce(flat)
        for parameter, part in zip(trained, flat.split([p.numel() for p in trained]), strict=True):
            parameter.grad = part.view_as(parameter).clone()

    def wait(self) -> None:
        """Wait for the other processes."""
        if self.size > 1:
            distributed.barrier()


def summed(series: Sequence[Series]) -> dict[str, tuple[float, float]]:
    """(sum, count) of each series over all mappings."""
    totals = dict[str, tuple[float, float]]()
    for name, (value, count) in (pair for each in series for pair in each.items()):
        before = totals.get(name, (0.0, 0.0))
        totals[name] = before[0] + value, before[1] + count
    return totals
