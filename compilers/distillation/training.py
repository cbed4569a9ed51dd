"""The one training loop: AdamW, warm-up, linear decay, early stopping, best state kept.

It also trains several independent problems at once, as one batch: see `minimise_all`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from memkit.compilers.base import Progress, Step
from memkit.compilers.distillation.checkpoint import Checkpoint
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
    minimise_all(
        phase,
        parameters,
        lambda step: loss(step)[None],
        (lambda: [held_out()]) if held_out else None,
        schedule,
        progress,
        [history],
        checkpoint,
        skip,
    )


def minimise_all(
    phase: str,
    parameters: Sequence[Tensor],
    losses: Callable[[int], Tensor],
    held_out: Callable[[], Sequence[float]] | None,
    schedule: Schedule,
    progress: Progress,
    histories: Sequence[History],
    checkpoint: Checkpoint | None = None,
    skip: Callable[[int], None] = lambda count: None,
) -> None:
    """As `minimise`, for as many independent problems as there are ``histories``.

    ``losses`` gives ``[problem]``. With more than one problem every parameter is ``[problem, ...]``;
    each problem has its own clipping, its own best state and its own early stop, so that it ends as it
    would alone. One that has stopped goes along, unchanged in what is kept, until all have.
    """
    run = _Run(phase, parameters, schedule, checkpoint or Checkpoint(), len(histories))
    started = time.perf_counter()
    skip(run.step * schedule.accumulate)
    while run.step < schedule.steps and not run.done:
        reached = run.advance(losses)
        progress(Step(phase, run.step, schedule.steps, reached, time.perf_counter() - started))
        if held_out and (run.step % schedule.check_every == 0 or run.step == schedule.steps):
            run.judge(held_out())
        run.keep()
    run.finish()
    for history, problem in zip(histories, run.problems, strict=True):
        history.steps += problem.steps
        history.curve += problem.curve
        history.best = min(history.best, problem.best)


@dataclass
class _Problem:
    """One of the problems: its part of the parameters, its best state and whether it has stopped."""

    parameters: list[Tensor]
    best_state: list[Tensor]
    best: float = math.inf
    bad: int = 0
    steps: int = 0
    done: bool = False
    curve: list[tuple[str, int, float]] = field(default_factory=list)

    def judge(self, measured: float, schedule: Schedule) -> None:
        """Keep the best state; after ``patience`` failures to beat it, stop."""
        if measured < self.best:
            self.best, self.best_state, self.bad = measured, _copy(self.parameters), 0
        else:
            self.bad += 1
        self.done = self.bad >= schedule.patience or self.best <= schedule.target

    def state(self) -> dict[str, Any]:
        kept = ("best_state", "best", "bad", "steps", "done")
        return {name: getattr(self, name) for name in kept} | {"curve": [list(point) for point in self.curve]}

    def restore(self, state: dict[str, Any]) -> None:
        for name in ("best_state", "best", "bad", "steps", "done"):
            setattr(self, name, state[name])
        self.curve = [(p, s, v) for p, s, v in state["curve"]]


class _Run:
    """One phase under way: parameters, optimizer and the problems."""

    def __init__(
        self,
        phase: str,
        parameters: Sequence[Tensor],
        schedule: Schedule,
        checkpoint: Checkpoint,
        problems: int,
    ) -> None:
        self.phase, self.parameters, self.schedule = phase, list(parameters), schedule
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=schedule.lr, betas=(0.9, 0.95), weight_decay=0.0
        )
        self.step = 0
        self.problems = [self._problem(i, problems) for i in range(problems)]
        self._checkpoint = checkpoint
        if state := checkpoint.get(phase, self.parameters):
            _restore(self.parameters, state["parameters"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step = state["step"]
            for problem, kept in zip(self.problems, state["problems"], strict=True):
                problem.restore(kept)

    def _problem(self, index: int, count: int) -> _Problem:
        mine = self.parameters if count == 1 else [p.detach()[index] for p in self.parameters]
        return _Problem(mine, _copy(mine))

    @property
    def done(self) -> bool:
        return all(problem.done for problem in self.problems)

    def advance(self, losses: Callable[[int], Tensor]) -> float:
        """One optimizer step; returns its mean loss."""
        schedule = self.schedule
        for group in self.optimizer.param_groups:
            group["lr"] = schedule.lr * schedule.scale(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        parts = [_backward(losses, self.step, schedule.accumulate) for _ in range(schedule.accumulate)]
        reached = [math.fsum(values) for values in zip(*parts, strict=True)]
        if wrong := [value for value in reached if not math.isfinite(value)]:
            for problem in self.problems:
                _restore(problem.parameters, problem.best_state)
            raise CompileError(
                f"the loss became {wrong[0]} at step {self.step} of {self.phase}; try a lower lr. Nothing "
                "was published, earlier versions are kept"
            )
        _clip(self.parameters, len(self.problems))
        self.optimizer.step()
        for problem, value in zip(self.problems, reached, strict=True):
            if not problem.done:
                problem.curve.append((self.phase, self.step, round(value, 5)))
                problem.steps += 1
        self.step += 1
        return sum(reached) / len(reached)

    def judge(self, measured: Sequence[float]) -> None:
        """Judge the problems that have not stopped."""
        for problem, value in zip(self.problems, measured, strict=True):
            if not problem.done:
                problem.judge(value, self.schedule)

    def keep(self) -> None:
        if self._checkpoint.due:
            self._checkpoint.put(self.phase, self._state(False))

    def finish(self) -> None:
        """Go back to the best states, of problems for which any was measured."""
        for problem in self.problems:
            if math.isfinite(problem.best):
                _restore(problem.parameters, problem.best_state)
            problem.done = True
        self._checkpoint.put(self.phase, self._state(True))

    def _state(self, done: bool) -> dict[str, Any]:
        return {
            "parameters": _copy(self.parameters),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "done": done,
            "problems": [problem.state() for problem in self.problems],
        }


def _clip(parameters: Sequence[Tensor], problems: int) -> None:
    """Shorten every problem's gradient to a norm of at most 1."""
    if problems == 1:
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    squares = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0)  # [problem]
    share = (1.0 / (squares.sqrt() + 1e-6)).clamp(max=1.0)
    for g in gradients:
        g.mul_(share.view(-1, *[1] * (g.dim() - 1)))


def _backward(losses: Callable[[int], Tensor], step: int, parts: int) -> list[float]:
    """Add the gradient of one of ``parts`` losses of a step; returns each problem's share of its loss."""
    try:
        values = losses(step) / parts
        values.sum().backward()
    except RuntimeError as error:
        # torch has a type of its own for CUDA; a CPU allocator's failure is a RuntimeError.
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
            raise CompileError(
                "out of memory: give a smaller self_study_batch, agnostic_batch or reconstruction_window "
                "(accumulate makes up for it), or a smaller segment_tokens"
            ) from error
        raise
    reached: list[float] = values.detach().tolist()
    return reached


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
