"""The training loop of all stages, with curves, early stopping and a state file to resume from.

The whole state is one file, replaced atomically. Every step draws from its own seed, so a resumed run sees
the same samples as an uninterrupted one.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from memkit.compilers.base import Progress, silent
from memkit.compilers.meanpool.config import RLConfig, StageConfig
from memkit.compilers.meanpool.distributed import ProcessGroup, summed
from memkit.compilers.meanpool.model import Compressor
from memkit.errors import CompileError, ConfigError

SAVE_EVERY = 60.0  # seconds between two writes of the state
LOG_EVERY = 20  # steps that are averaged for a point of a curve
FORMAT = 1
HELD_OUT = "held out "  # prefix of the names of series measured on held-out texts
Point = tuple[str, int, float]  # series, step, value


@dataclass
class RunState:
    """The progress of a run; plain values only, so that it can be loaded safely."""

    step: int = 0
    best: float = math.inf  # lowest held-out measurement
    best_step: int = 0
    bad: int = 0  # measurements since then
    done: bool = False
    seconds: float = 0.0
    curve: list[Point] = field(default_factory=list)


class Run:
    """The loop that all stages share; a stage implements `step`, `measure` and `report`.

    ``key`` identifies the stage and its settings. Raises `ConfigError` when the folder holds a run with
    another key or cannot be written.
    """

    from_the_start = False  # measure before the first step: the initial weights may be the best ones

    def __init__(
        self,
        compressor: Compressor,
        optimizers: Sequence[torch.optim.Optimizer],
        config: StageConfig | RLConfig,
        folder: Path,
        key: str,
        progress: Progress = silent,
        processes: ProcessGroup | None = None,
    ) -> None:
        self.processes = processes or ProcessGroup()
        self.compressor, self.optimizers, self.config = compressor, list(optimizers), config
        self.folder, self.key, self.progress = folder, key, progress
        for group in (g for o in self.optimizers for g in o.param_groups):
            group["initial_lr"] = group["lr"]
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"cannot write to {folder}: {error.strerror}") from error
        self.state, self.best = RunState(), self._weights()
        self._recent = list[Mapping[str, tuple[float, float]]]()
        self._saved = time.monotonic()
        self._resume()

    # -- implemented by a stage -----------------------------------------------------------------
    def step(self) -> dict[str, tuple[float, float]]:
        """Take one step; returns (sum, count) of each series, whose means make its curve."""
        raise NotImplementedError

    def measure(self) -> tuple[float, dict[str, float]]:
        """The early-stopping criterion (lower is better) and series to log, on held-out texts."""
        raise NotImplementedError

    def report(self) -> None:
        """Call `progress` after a step."""
        raise NotImplementedError

    # -- the loop -------------------------------------------------------------------------------
    @property
    def reached(self) -> float:
        """The share of the steps that are done."""
        return self.state.step / self.config.steps

    def run(self) -> RunState:
        """Train until the last step or early stopping; leaves the best weights in the compressor."""
        config, state = self.config, self.state
        try:
            if self.from_the_start and not state.step:
                self._measure()
            while state.step < config.steps and not state.done:
                started = time.perf_counter()
                self._recent.append(self.step())
                state.step += 1
                state.seconds += time.perf_counter() - started
                self.report()
                if state.step % LOG_EVERY == 0 or state.step == config.steps:
                    self._log(means(self._recent))
                    self._recent.clear()
                if state.step % config.evaluate_every == 0 or state.step == config.steps:
                    self._measure()
                if time.monotonic() - self._saved >= SAVE_EVERY:
                    self.save()
        except KeyboardInterrupt:
            self.save()
            raise
        state.done = True
        self._set(self.best)
        self.save()
        return state

    def advance(self, scale: float, parameters: Sequence[nn.Parameter]) -> None:
        """Sum and clip the gradients, and take an optimizer step at ``scale`` times the learning rates."""
        self.processes.add_gradients(parameters)
        nn.utils.clip_grad_norm_(parameters, self.config.max_grad_norm)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * scale
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    def check(self, loss: float) -> None:
        """Raise `CompileError` for a loss that is not finite."""
        if not math.isfinite(loss):
            raise CompileError(
                f"the loss became {loss} at step {self.state.step + 1}; try lower learning rates. An earlier "
                f"state is in {self.folder}"
            )

    def _measure(self) -> None:
        state = self.state
        measured, series = self.measure()
        self._log({f"{HELD_OUT}{name}": value for name, value in series.items()})
        if measured < state.best:
            state.best, state.best_step, state.bad, self.best = measured, state.step, 0, self._weights()
        else:
            state.bad += 1
            state.done = state.bad >= self.config.patience

    def _log(self, series: Mapping[str, float]) -> None:
        state = self.state
        rounded = {name: round(value, 4) for name, value in sorted(series.items())}
        state.curve += [(name, state.step, value) for name, value in rounded.items()]
        if not self.processes.leads:
            return
        with suppress(OSError), (self.folder / "log.jsonl").open("a") as log:
            log.write(json.dumps({"step": state.step, "seconds": round(state.seconds), **rounded}) + "\n")

    # -- state ----------------------------------------------------------------------------------
    @property
    def file(self) -> Path:
        return self.folder / "state.pt"

    def _weights(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.compressor.trained]

    @torch.no_grad()
    def _set(self, weights: Sequence[Tensor]) -> None:
        for parameter, saved in zip(self.compressor.trained, weights, strict=True):
            parameter.copy_(saved)

    def _resume(self) -> None:
        if not self.file.exists():
            return
        try:
            # weights_only: nothing but tensors, numbers and texts is read, even from an altered file.
            state: dict[str, Any] = torch.load(self.file, weights_only=True, map_location="cpu")
        except Exception as error:  # torch's parser raises many kinds of errors on damaged files
            raise ConfigError(
                f"cannot read the unfinished run {self.file}; remove it to start anew"
            ) from error
        if (state.get("format"), state.get("key")) != (FORMAT, self.key):
            raise ConfigError(
                f"{self.folder} holds a run with other settings; give the same, another --out, or remove it"
            )
        self._set(state["weights"])
        self.best = state["best"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.state = RunState(**state["run"])
        self.state.curve = [(s, n, v) for s, n, v in self.state.curve]

    def save(self) -> None:
        """Replace the state file atomically, in the first process only. Raises `CompileError`."""
        self._saved = time.monotonic()
        if not self.processes.leads:
            return
        state = {
            "format": FORMAT,
            "key": self.key,
            "weights": self._weights(),
            "best": self.best,
            "optimizers": [o.state_dict() for o in self.optimizers],
            "run": {**vars(self.state), "curve": [list(point) for point in self.state.curve]},
        }
        temporary = self.file.with_suffix(f".{os.getpid()}.partial")
        try:
            torch.save(state, temporary)
            temporary.replace(self.file)
        except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
            temporary.unlink(missing_ok=True)
            raise CompileError(f"cannot keep the run's state in {self.folder}: {error}") from error


def means(recent: Sequence[Mapping[str, tuple[float, float]]]) -> dict[str, float]:
    """The mean of each series from (sum, count) pairs; series with a count of 0 are left out."""
    return {name: total / count for name, (total, count) in summed(recent).items() if count}


def autocast(compressor: Compressor, precision: str) -> Any:
    """A context for mixed precision in bfloat16 if ``precision`` is "bf16"."""
    kind = compressor.base.model.device.type
    return torch.autocast(kind, torch.bfloat16, enabled=precision == "bf16")
