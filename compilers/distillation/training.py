"""The training loop of all compilers: AdamW, warm-up, linear decay, early stopping, best state kept.

It also trains several independent problems as one batch: see `minimise_all`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from memkit.compilers.base import Progress, Step, silent
from memkit.compilers.distillation.checkpoint import Checkpoint
from memkit.errors import CompileError


@dataclass(frozen=True)
class Schedule:
    """Learning rate and stopping. Raises `ValueError` for invalid values."""

    steps: int  # optimizer steps
    lr: float  # peak learning rate
    warmup: int = 0  # steps
    check_every: int = 25  # steps between measurements of the held-out loss
    patience: int = 4  # measurements without a new best after which training stops
    target: float = 0.0  # held-out loss (nats) at which training stops
    accumulate: int = 1  # losses whose gradients are averaged in one step
    keep_start: bool = False  # the start is measured, too, and stays if training finds nothing better
    seconds: float = math.inf  # left, after which training stops; the learning rate falls with the time, too
    least_gain: float = 0.0  # share by which a held-out loss has to be lower to count for ``patience``

    def __post_init__(self) -> None:
        if self.steps < 0 or self.warmup < 0:
            raise ValueError(f"steps and warmup must not be negative, got {self.steps} and {self.warmup}")
        if self.lr <= 0:
            raise ValueError(f"lr must be positive, got {self.lr}")
        if min(self.check_every, self.patience, self.accumulate) < 1:
            raise ValueError("check_every, patience and accumulate must be at least 1")
        if not self.seconds > 0:
            raise ValueError(f"seconds must be positive, got {self.seconds}")
        if not 0 <= self.least_gain < 1:
            raise ValueError(f"least_gain must be from 0 to less than 1, got {self.least_gain}")

    def scale(self, step: int, passed: float = 0.0) -> float:
        """The learning rate at ``step`` (0-based), as a share of the peak, when a share of the time has
        ``passed``."""
        rise = min((step + 1) / max(self.warmup, 1), 1.0)
        return rise * max(1.0 - max(step / max(self.steps, 1), passed), 0.02)


@dataclass
class History:
    """The record of a training: (phase, step, loss), the number of steps and the best held-out loss.

    ``held_out`` are the measurements (phase, step, held-out loss). ``coverage`` is the share of the text's
    words that the answers of the study set contain (None: not measured).
    """

    curve: list[tuple[str, int, float]] = field(default_factory=list)
    held_out: list[tuple[str, int, float]] = field(default_factory=list)
    steps: int = 0
    best: float = math.inf
    coverage: float | None = None


@dataclass(frozen=True)
class Run:
    """What the phases of one compilation share. ``deadline`` is by `time.perf_counter`."""

    progress: Progress = silent
    history: History = field(default_factory=History)
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    deadline: float = math.inf

    @property
    def seconds_left(self) -> float:
        return self.deadline - time.perf_counter()


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
    """Train ``parameters`` in place on ``loss(step)``; afterwards they hold the best state by ``held_out()``.

    An interrupted run resumes from ``checkpoint``; ``skip`` then receives the number of losses that it had
    drawn. Raises `CompileError` when a loss is not finite or memory runs out.
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
    """Like `minimise`, for several independent problems, one for each of ``histories``.

    ``losses(step)`` is ``[problem]``. With more than one problem every parameter is ``[problem, ...]``. Each
    problem has its own gradient clipping, best state and early stopping, so its result is the same as alone.
    A stopped problem stays in the batch, its best state unchanged, until all have stopped.
    """
    run = _Run(phase, parameters, schedule, checkpoint or Checkpoint(), len(histories))
    started = time.perf_counter()
    skip(run.step * schedule.accumulate)
    ends = run.ends
    if held_out and schedule.keep_start and not (run.step or ends):
        run.record(held_out())
    while not (ends or run.done):
        loss = run.advance(losses)
        ends = run.ends
        if held_out and (ends or run.step % schedule.check_every == 0):
            run.record(held_out())
        seconds = time.perf_counter() - started
        progress(Step(phase, run.step, schedule.steps, loss, seconds, run.problems[0].last))
        run.save()
    run.finish()
    for history, problem in zip(histories, run.problems, strict=True):
        history.steps += problem.steps
        history.curve += problem.curve
        history.held_out += problem.held_out
        history.best = min(history.best, problem.best)


@dataclass
class _Problem:
    """The state of one problem: its part of the parameters, its best state and whether it has stopped."""

    parameters: list[Tensor]
    best_state: list[Tensor]
    best: float = math.inf
    bad: int = 0
    steps: int = 0
    done: bool = False
    curve: list[tuple[str, int, float]] = field(default_factory=list)
    held_out: list[tuple[str, int, float]] = field(default_factory=list)

    @property
    def last(self) -> float | None:
        """The latest held-out loss."""
        return self.held_out[-1][2] if self.held_out else None

    def record(self, phase: str, step: int, held_out: float, schedule: Schedule) -> None:
        """Update the best state; stop after ``patience`` measurements without a new best."""
        self.held_out.append((phase, step, round(held_out, 5)))
        gained = held_out < self.best * (1 - schedule.least_gain)
        if held_out < self.best:
            self.best, self.best_state = held_out, _copy(self.parameters)
        self.bad = 0 if gained else self.bad + 1
        self.done = self.bad >= schedule.patience or self.best <= schedule.target

    def state(self) -> dict[str, Any]:
        names = ("best_state", "best", "bad", "steps", "done")
        points = {name: [list(p) for p in getattr(self, name)] for name in ("curve", "held_out")}
        return {name: getattr(self, name) for name in names} | points

    def restore(self, state: dict[str, Any]) -> None:
        for name in ("best_state", "best", "bad", "steps", "done"):
            setattr(self, name, state[name])
        self.curve = [(p, s, v) for p, s, v in state["curve"]]
        self.held_out = [(p, s, v) for p, s, v in state["held_out"]]


class _Run:
    """The state of one phase: parameters, optimizer and problems."""

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
        self._before, self._started = 0.0, time.perf_counter()  # seconds of interrupted runs
        self.problems = [self._problem(i, problems) for i in range(problems)]
        self._checkpoint = checkpoint
        if state := checkpoint.get(phase, self.parameters):
            _restore(self.parameters, state["parameters"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self._before = state["step"], state["seconds"]
            for problem, saved in zip(self.problems, state["problems"], strict=True):
                problem.restore(saved)

    def _problem(self, index: int, count: int) -> _Problem:
        own = self.parameters if count == 1 else [p.detach()[index] for p in self.parameters]
        return _Problem(own, _copy(own))

    @property
    def seconds(self) -> float:
        """How long this phase has taken, with interrupted runs."""
        return self._before + time.perf_counter() - self._started

    @property
    def _passed(self) -> float:
        """The share of the phase's time that has passed."""
        return self.seconds / (self._before + self.schedule.seconds)

    @property
    def ends(self) -> bool:
        """Whether no step or no time is left."""
        return self.step >= self.schedule.steps or self.seconds - self._before >= self.schedule.seconds

    @property
    def done(self) -> bool:
        return all(problem.done for problem in self.problems)

    def advance(self, losses: Callable[[int], Tensor]) -> float:
        """Take one optimizer step; returns its loss, the mean over problems."""
        schedule = self.schedule
        for group in self.optimizer.param_groups:
            group["lr"] = schedule.lr * schedule.scale(self.step, self._passed)
        self.optimizer.zero_grad(set_to_none=True)
        parts = [_backward(losses, self.step, schedule.accumulate) for _ in range(schedule.accumulate)]
        totals = [math.fsum(values) for values in zip(*parts, strict=True)]
        if wrong := [value for value in totals if not math.isfinite(value)]:
            for problem in self.problems:
                _restore(problem.parameters, problem.best_state)
            raise CompileError(
                f"the loss became {wrong[0]} at step {self.step} of {self.phase}; try a lower lr. Nothing "
                "was published, earlier versions are kept"
            )
        _clip(self.parameters, len(self.problems))
        self.optimizer.step()
        for problem, value in zip(self.problems, totals, strict=True):
            if not problem.done:
                problem.curve.append((self.phase, self.step, round(value, 5)))
                problem.steps += 1
        self.step += 1
        return sum(totals) / len(totals)

    def record(self, held_out: Sequence[float]) -> None:
        """Record the held-out losses of the problems that have not stopped."""
        for problem, value in zip(self.problems, held_out, strict=True):
            if not problem.done:
                problem.record(self.phase, self.step, value, self.schedule)

    def save(self) -> None:
        if self._checkpoint.due:
            self._checkpoint.put(self.phase, self._state(False))

    def finish(self) -> None:
        """Restore the best state of every problem with a held-out measurement."""
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
            "seconds": self.seconds,
            "done": done,
            "problems": [problem.state() for problem in self.problems],
        }


def _clip(parameters: Sequence[Tensor], problems: int) -> None:
    """Clip every problem's gradient to a norm of at most 1."""
    if problems == 1:
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    squares = torch.stack([g.flatten(1).square().sum(1) for g in gradients]).sum(0)  # [problem]
    share = (1.0 / (squares.sqrt() + 1e-6)).clamp(max=1.0)
    for g in gradients:
        g.mul_(share.view(-1, *[1] * (g.dim() - 1)))


def _backward(losses: Callable[[int], Tensor], step: int, parts: int) -> list[float]:
    """Accumulate the gradient of one of ``parts`` losses of a step; returns it by problem, divided by
    parts."""
    try:
        values = losses(step) / parts
        values.sum().backward()
    except RuntimeError as error:
        # torch raises OutOfMemoryError for CUDA only; the CPU allocator raises a plain RuntimeError.
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
            raise CompileError(
                "out of memory: give a smaller self_study_batch, agnostic_batch or reconstruction_window "
                "(accumulate makes up for it), or a smaller segment_tokens"
            ) from error
        raise
    shares: list[float] = values.detach().tolist()
    return shares


def _copy(parameters: Sequence[Tensor]) -> list[Tensor]:
    return [p.detach().clone() for p in parameters]


@torch.no_grad()
def _restore(parameters: Sequence[Tensor], state: Sequence[Tensor]) -> None:
    for parameter, saved in zip(parameters, state, strict=True):
        parameter.copy_(saved)


def cycle(count: int, take: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Yield ``take`` of ``count`` indices forever, in random order, each once before any is repeated."""
    queue: list[int] = []
    while True:
        while len(queue) < take:
            queue += torch.randperm(count, generator=generator).tolist()
        yield queue[:take]
        queue = queue[take:]
