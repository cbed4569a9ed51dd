"""Processes that train together: each takes a share of every step, and gradients are added up.

    accelerate launch --num_processes 4 -m memkit train-compressor --stage cpt1 ...

All draw the same samples, so that the weights are those of one process that had all the time; they are
replicated, not sharded: a model whose optimizer does not fit one device cannot be trained so.
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
        """What ``accelerate launch`` or ``torchrun`` started this process for; alone without them.

        To be called before a model is loaded: it chooses the process's device.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) < 2:
            return cls()
        from accelerate import PartialState

        state = PartialState(cpu=not torch.cuda.is_available())
        return cls(state.process_index, state.num_processes)

    @property
    def leads(self) -> bool:
        """Whether this process writes what all of them reach."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> Sequence[T]:
        """Those of the items that are this process's."""
        return items[self.rank :: self.size]

    def run(self, items: Sequence[T]) -> Sequence[T]:
        """This process's part of the items, neighbours together."""
        start, end = (len(items) * i // self.size for i in (self.rank, self.rank + 1))
        return items[start:end]

    def gather(self, mine: Sequence[T]) -> list[T]:
        """What all processes have, in the order of their ranks."""
        if self.size == 1:
            return list(mine)
        parts: list[Any] = [None] * self.size
        distributed.all_gather_object(parts, list(mine))
        return [each for part in parts for each in part]

    def total(self, found: Sequence[Series]) -> dict[str, tuple[float, float]]:
        """(sum, count) of each series over all that all processes found."""
        return added(self.gather(found))

    @torch.no_grad()
    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Give every process the sum of all gradients, where any of them has one."""
        if self.size == 1:
            return
        learned = [p for p in parameters if p.requires_grad]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in learned])
        distributed.all_reduce(flat)
        for parameter, part in zip(learned, flat.split([p.numel() for p in learned]), strict=True):
            parameter.grad = part.view_as(parameter).clone()

    def wait(self) -> None:
        """Wait for the others."""
        if self.size > 1:
            distributed.barrier()


def added(found: Sequence[Series]) -> dict[str, tuple[float, float]]:
    """(sum, count) of each series, over all that was found."""
    made = dict[str, tuple[float, float]]()
    for name, (value, count) in (pair for each in found for pair in each.items()):
        before = made.get(name, (0.0, 0.0))
        made[name] = before[0] + value, before[1] + count
    return made
