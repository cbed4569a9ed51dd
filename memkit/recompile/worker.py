"""One compilation of a run: in this process, or in a worker that opens the bank itself."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from memkit.bank.owners import Owner
from memkit.compilers.base import Progress, Step, silent
from memkit.config import Config
from memkit.engine.factory import create_local_engine, memory_arguments
from memkit.errors import BankBusyError, BankError, MemkitError, NotFoundError, VerificationError
from memkit.memory import Memory
from memkit.pipeline.compile_queue import StopRequestedError
from memkit.recompile.plan import Task

log = logging.getLogger("memkit.recompile")
Status = Literal["compiled", "refused", "failed", "busy", "forgotten", "unfinished", "left"]
UNEXPECTED = "an unexpected {}; the log tells more"


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


class _BudgetSpentError(Exception):
    """The budget is spent; not an error of the compilation."""


def without(task: Task, status: Status, reason: str) -> Outcome:
    """The outcome of a task that compiled nothing."""
    return Outcome(task.user, task.memory_id, task.title, status, reason)


def run_task(
    memory: Memory, task: Task, keep: int | None, deadline: float | None, progress: Progress = silent
) -> Outcome:
    """Do one task. Whatever goes wrong with it is its outcome, not an error.

    ``keep`` versions stay afterwards (None: all); ``deadline`` is a Unix time in seconds (None: no limit).
    """

    def step(done: Step) -> None:
        progress(done)
        if deadline is not None and time.time() > deadline:
            raise _BudgetSpentError

    status: Status
    try:
        info, compiled = memory.of(Owner.of(task.user)).compiled(task.memory_id, progress=step)
        if keep is not None:
            memory.bank.versions.prune(task.user, task.memory_id, keep)
        cost = (compiled.seconds, compiled.flops, len(compiled.data))
        return Outcome(task.user, task.memory_id, task.title, "compiled", "", info.version, *cost)
    except _BudgetSpentError:
        status, reason = "unfinished", "the budget ended; the next run goes on where this one was"
    except NotFoundError:
        status, reason = "forgotten", "it was forgotten meanwhile"
    except BankBusyError as error:
        status, reason = "busy", str(error)
    except VerificationError as error:
        status, reason = "refused", str(error)
    except MemkitError as error:
        status, reason = "failed", str(error)
        _record_failure(memory, task, reason)
    except StopRequestedError:
        raise
    except Exception as error:  # of a library: one memory must not end the others' night
        log.error("compiling memory %s ended unexpectedly", task.memory_id, exc_info=error)
        status, reason = "failed", UNEXPECTED.format(type(error).__name__)
        _record_failure(memory, task, reason)
    return without(task, status, reason)


def _record_failure(memory: Memory, task: Task, reason: str) -> None:
    """Write the reason to the memory, unless the compiler or the gate has done so."""
    try:
        if memory.bank.get(task.user, task.memory_id).error != reason:
            memory.bank.fail(task.user, task.memory_id, reason)
    except BankError:  # forgotten meanwhile, or the catalog is what went wrong
        return


def open_memory(config: Config) -> Memory:
    """A memory that compiles for every user; `Memory.of` names one. It answers nothing, so asks no server."""
    return Memory(**memory_arguments(replace(config, engine="transformers")))


@lru_cache(maxsize=1)
def _opened(config: Config) -> Memory:
    arguments = memory_arguments(replace(config, engine="transformers"))
    return Memory(**{**arguments, "engine": create_local_engine(config)})


def run_task_in_worker(config: Config, task: Task, keep: int, deadline: float | None) -> Outcome:
    """As `run_task`, in a process of its own, which keeps the model for the next task."""
    return run_task(_opened(config), task, keep, deadline)
