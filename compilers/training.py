"""The one training loop: AdamW, warm-up, linear decay, early stopping, best state kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from memkit.compilers.base import Progress, Step
from memkit.errors import CompileError


@dataclass(frozen=True)
class Schedule:
    """``steps`` optimizer steps at a peak of ``lr``, the first ``warmup`` of them rising to it.

    Every ``check_every`` steps the held-out loss is measured; after ``patience`` measurements
    without a new best, training stops. ``target`` (nats) stops it as soon as it is reached.
    """

    steps: int
    lr: float
    warmup: int = 0
    check_every: int = 25
    patience: int = 4
    target: float = 0.0

    def __post_init__(self) -> None:
        if self.steps < 0 or self.warmup < 0:
            raise ValueError(f"steps and warmup must not be negative, got {self.steps} and {self.warmup}")
        if self.lr <= 0:
            raise ValueError(f"lr must be positive, got {self.lr}")
        if self.check_every < 1 or self.patience < 1:
            raise ValueError("check_every and patience must be at least 1")

    def scale(self, step: int) -> float:
        """Share of the peak learning rate at ``step`` (0-based)."""
        rise = min((step + 1) / max(self.warmup, 1), 1.0)
        return rise * max(1.0 - step / max(self.steps, 1), 0.02)


@dataclass
class History:
    """What happened: losses by step, steps done, and the best held-out loss."""

    curve: list[tuple[str, int, float]] = field(default_factory=list)
    steps: int = 0
    best: float = math.inf


def minimise(
    phase: str,
    parameters: Sequence[Tensor],
    loss: Callable[[int], Tensor],
    held_out: Callable[[], float] | None,
    schedule: Schedule,
    progress: Progress,
    history: History,
) -> None:
    """Run the loop in place; afterwards ``parameters`` hold the best state seen.

    Raises `CompileError` when a loss is not finite; ``parameters`` then hold the best state, too.
    """
    optimizer = torch.optim.AdamW(parameters, lr=schedule.lr, betas=(0.9, 0.95), weight_decay=0.0)
    best_state, best, bad = _copy(parameters), math.inf, 0
    started = time.perf_counter()
    for step in range(schedule.steps):
        for group in optimizer.param_groups:
            group["lr"] = schedule.lr * schedule.scale(step)
        value = loss(step)
        reached = float(value.detach())
        if not math.isfinite(reached):
            _restore(parameters, best_state)
            raise CompileError(f"the loss became {reached} at step {step} of {phase}; try a lower lr")
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        torch.nn.utils.clip_grad_norm_(list(parameters), 1.0)
        optimizer.step()
        history.steps += 1
        history.curve.append((phase, step, round(reached, 5)))
        progress(Step(phase, step + 1, schedule.steps, reached, time.perf_counter() - started))
        if held_out and ((step + 1) % schedule.check_every == 0 or step + 1 == schedule.steps):
            measured = held_out()
            if measured < best:
                best, best_state, bad = measured, _copy(parameters), 0
            else:
                bad += 1
            if bad >= schedule.patience or best <= schedule.target:
                break
    if held_out and math.isfinite(best):
        _restore(parameters, best_state)
        history.best = min(history.best, best)


def _copy(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [p.detach().clone() for p in parameters]


@torch.no_grad()
def _restore(parameters: Sequence[Tensor], state: Sequence[Tensor]) -> None:
    for parameter, saved in zip(parameters, state, strict=True):
        parameter.copy_(saved)


def cycle(count: int, take: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Endless draws of ``take`` of ``count`` indices: every index once before any comes twice."""
    waiting: list[int] = []
    while True:
        while len(waiting) < take:
            waiting += torch.randperm(count, generator=generator).tolist()
        yield waiting[:take]
        waiting = waiting[take:]
