"""The one training loop: AdamW, warm-up, linear decay, early stopping, best state kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from memkit.compilers.base import Progress, Step
from memkit.compilers.checkpoint import Checkpoint
from memkit.errors import CompileError


@dataclass(frozen=True)
class Schedule:
    """``steps`` optimizer steps at a peak of ``lr``, the first ``warmup`` of them rising to it.

    Every ``check_every`` steps the held-out loss is measured; after ``patience`` measurements
    without a new best, training stops. ``target`` (nats) stops it as soon as it is reached. A step
    averages the gradients of ``accumulate`` losses.
    """

    steps: int
    lr: float
    warmup: int = 0
    check_every: int = 25
    patience: int = 4
    target: float = 0.0
    accumulate: int = 1

    def __post_init__(self) -> None:
        if self.steps < 0 or self.warmup < 0:
            raise ValueError(f"steps and warmup must not be negative, got {self.steps} and {self.warmup}")
        if self.lr <= 0:
            raise ValueError(f"lr must be positive, got {self.lr}")
        if min(self.check_every, self.patience, self.accumulate) < 1:
            raise ValueError("check_every, patience and accumulate must be at least 1")

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
    checkpoint: Checkpoint | None = None,
    skip: Callable[[int], None] = lambda count: None,
) -> None:
    """Run the loop in place; afterwards ``parameters`` hold the best state seen.

    What ``checkpoint`` holds of an interrupted run is not done again; ``skip`` is then told how many
    losses that run had drawn. Raises `CompileError` when a loss is not finite.
    """
    run, started = _Run(phase, parameters, schedule, checkpoint or Checkpoint()), time.perf_counter()
    skip(run.step * schedule.accumulate)
    while run.step < schedule.steps and not run.done:
        reached = run.advance(loss)
        progress(Step(phase, run.step, schedule.steps, reached, time.perf_counter() - started))
        if held_out and (run.step % schedule.check_every == 0 or run.step == schedule.steps):
            run.judge(held_out())
        run.keep()
    run.finish()
    history.steps += run.step
    history.curve += run.curve
    history.best = min(history.best, run.best)


class _Run:
    """One phase under way: parameters, optimizer, the best state and when to stop."""

    def __init__(
        self, phase: str, parameters: Sequence[Tensor], schedule: Schedule, checkpoint: Checkpoint
    ) -> None:
        self.phase, self.parameters, self.schedule = phase, list(parameters), schedule
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=schedule.lr, betas=(0.9, 0.95), weight_decay=0.0
        )
        self.step, self.best, self.bad, self.done = 0, math.inf, 0, False
        self.best_state = _copy(self.parameters)
        self.curve = list[tuple[str, int, float]]()
        self._checkpoint = checkpoint
        if state := checkpoint.get(phase, self.parameters):
            _restore(self.parameters, state["parameters"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.best, self.bad = state["step"], state["best"], state["bad"]
            self.best_state, self.done = state["best_state"], state["done"]
            self.curve = [(p, s, v) for p, s, v in state["curve"]]

    def advance(self, loss: Callable[[int], Tensor]) -> float:
        """One optimizer step; returns its loss."""
        schedule = self.schedule
        for group in self.optimizer.param_groups:
            group["lr"] = schedule.lr * schedule.scale(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        reached = sum(_backward(loss, self.step, schedule.accumulate) for _ in range(schedule.accumulate))
        if not math.isfinite(reached):
            _restore(self.parameters, self.best_state)
            raise CompileError(
                f"the loss became {reached} at step {self.step} of {self.phase}; try a lower lr. Nothing was "
                "published, earlier versions are kept"
            )
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.curve.append((self.phase, self.step, round(reached, 5)))
        self.step += 1
        return reached

    def judge(self, measured: float) -> None:
        """Keep the best state; after ``patience`` failures to beat it, stop."""
        if measured < self.best:
            self.best, self.best_state, self.bad = measured, _copy(self.parameters), 0
        else:
            self.bad += 1
        self.done = self.bad >= self.schedule.patience or self.best <= self.schedule.target

    def keep(self) -> None:
        if self._checkpoint.due:
            self._checkpoint.put(self.phase, self._state())

    def finish(self) -> None:
        """Go back to the best state, if any was measured."""
        if math.isfinite(self.best):
            _restore(self.parameters, self.best_state)
        self.done = True
        self._checkpoint.put(self.phase, self._state())

    def _state(self) -> dict[str, Any]:
        return {
            "parameters": _copy(self.parameters),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "best": self.best,
            "bad": self.bad,
            "best_state": self.best_state,
            "done": self.done,
            "curve": [list(point) for point in self.curve],
        }


def _backward(loss: Callable[[int], Tensor], step: int, parts: int) -> float:
    """Add the gradient of one of ``parts`` losses of a step; returns its share of the step's loss."""
    try:
        value = loss(step) / parts
        value.backward()
    except RuntimeError as error:
        # torch has a type of its own for CUDA; a CPU allocator's failure is a RuntimeError.
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
            raise CompileError(
                "out of memory: give a smaller self_study_batch, agnostic_batch or reconstruction_window "
                "(accumulate makes up for it), or a smaller segment_tokens"
            ) from error
        raise
    return float(value.detach())


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
