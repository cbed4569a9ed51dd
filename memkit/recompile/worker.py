"""One compilation of a run: in this process, or in a worker that opens the bank itself."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from functools import lru_cache

from memkit.bank.owners import Owner
from memkit.compilers.base import Progress, silent
from memkit.config import Config
from memkit.memory import Memory
from memkit.observability.events import Observer
from memkit.pipeline.compile_job import Status, try_compile
from memkit.recompile.plan import Task

log = logging.getLogger("memkit.recompile")


@dataclass(frozen=True)
class Outcome:
    """The result of a task; ``reason`` says why it is not "compiled".

    "refused": by the admission gate; "busy": another process compiles it; "unfinished": the budget ended,
    and the next run continues; "left": not started. ``seconds``, ``flops`` and ``nbytes`` (bytes of the
    artifact) are 0 unless it is "compiled".
    """

    user: str
    memory_id: str
    title: str
    status: Status
    reason: str = ""
    version: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    nbytes: int = 0


def without(task: Task, status: Status, reason: str) -> Outcome:
    """The outcome of a task that compiled nothing."""
    return Outcome(task.user, task.memory_id, task.title, status, reason)


def run_task(
    memory: Memory, task: Task, keep: int | None, deadline: float | None, progress: Progress = silent
) -> Outcome:
    """Do one task. Whatever goes wrong with it is its outcome, not an error.

    ``keep`` versions stay afterwards (None: all); ``deadline`` is a Unix time in seconds (None: no limit).
    """
    context = memory.context.of(Owner.of(task.user))
    context = replace(context, compiling=replace(context.compiling, keep=keep)).compiled_by(task.compiler)
    outcome = try_compile(context, task.memory_id, deadline=deadline, progress=progress)
    return Outcome(task.user, task.memory_id, task.title, **vars(outcome))


def open_memory(config: Config, observer: Observer | None = None) -> Memory:
    """A memory that compiles for every user; `Memory.for_user` names one. It answers nothing, so it asks no
    server, but makes what that server reads."""
    memory = Memory(config=replace(config, engine="transformers"), observer=observer)
    compiling = replace(memory.context.compiling, embedded=config.engine == "transformers")
    memory.context = replace(memory.context, compiling=compiling)
    return memory


@lru_cache(maxsize=1)
def _opened(config: Config) -> Memory:
    return open_memory(config)


def run_task_in_worker(config: Config, task: Task, keep: int, deadline: float | None) -> Outcome:
    """As `run_task`, in a process of its own, which keeps the model for the next task."""
    return run_task(_opened(config), task, keep, deadline)
