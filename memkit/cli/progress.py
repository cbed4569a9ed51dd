"""Progress on standard error: a bar on a terminal, occasional lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from memkit.cli.output import Output, clean

if TYPE_CHECKING:  # most commands show none
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from memkit.compilers.base import Step

Report = Callable[[str, str, int, int], None]  # what runs, how it stands, done, total
LINE_INTERVAL = 10.0  # seconds between lines where there is no terminal


@contextmanager
def progress(output: Output) -> Iterator[Report]:
    """A function that shows the progress of named pieces of work."""
    if output.err.is_terminal:
        with _bars(output.err) as bars:
            yield _Bars(bars).report
    else:
        yield _Lines(output).report


@contextmanager
def compilation(output: Output) -> Iterator[Callable[[Step], None]]:
    """A `memkit.compilers.base.Progress` that shows phase, losses (if there are any) and remaining time."""
    with progress(output) as report:
        report("compile", "preparing", 0, 0)
        yield lambda step: report(step.phase, state_of(step), step.step, step.steps)


def state_of(step: Step) -> str:
    """The losses of a step, if there are any."""
    held_out = "" if step.held_out is None else f", held out {step.held_out:.3f}"
    return f"loss {step.loss:.3f}{held_out}" if step.loss else ""


def _bars(console: Console) -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}", markup=False),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


class _Bars:
    """A bar for the current piece of work."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._name: str | None = None
        self._task: TaskID | None = None

    def report(self, name: str, state: str, done: int, total: int) -> None:
        if name != self._name or self._task is None:
            if self._task is not None:
                self._bars.remove_task(self._task)
            self._name, self._task = name, self._bars.add_task(clean(name), total=total or None, state="")
        self._bars.update(self._task, completed=done, state=clean(state))


class _Lines:
    def __init__(self, output: Output) -> None:
        self._output, self._name, self._last = output, "", 0.0

    def report(self, name: str, state: str, done: int, total: int) -> None:
        now = time.monotonic()
        if name != self._name or now - self._last >= LINE_INTERVAL:
            self._name, self._last = name, now
            self._output.note(f"{name}: {f'{done}/{total}, ' if total else ''}{state}".rstrip(",: "))
