"""One recompilation: bounded, resumable, and the same however often it is started.

What is done is in the bank, and what is half done in its ``unfinished`` files, so that a run that was
killed leaves no state of its own behind: the next one plans anew, and goes on.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from memkit.bank import Receipt
from memkit.bank.owners import Owner
from memkit.compilers.base import Progress as Reporting
from memkit.compilers.base import Step, silent
from memkit.errors import BankBusyError, BankError, MemkitError, NotFoundError, VerificationError
from memkit.memory import Memory
from memkit.observability.events import Observer
from memkit.pipeline.compile_queue import Job, JobOutcome, JobProgress, StopRequestedError
from memkit.recompile.plan import Plan, Scope, Skipped, Task

if TYPE_CHECKING:
    from memkit.recompile.executors import Executor

log = logging.getLogger("memkit.recompile")
Status = Literal["compiled", "refused", "failed", "busy", "forgotten", "unfinished", "left"]


@dataclass(frozen=True)
class Settings:
    """What a worker needs to open the bank and compile as its parent would; all of it can be sent."""

    home: Path
    model: str = "nano"
    compiler: str = "lcc"
    options: Mapping[str, Any] = field(default_factory=dict)
    embedder: str | None = None
    database: str | None = None
    artifacts: str | None = None

    def open(self, observer: Observer | None = None) -> Memory:
        """A memory that belongs to nobody in particular: `Memory.of` makes it somebody's."""
        return Memory(
            self.home,
            self.model,
            compiler=self.compiler,
            options=self.options,
            embedder=self.embedder,
            database=self.database,
            artifacts=self.artifacts,
            observer=observer,
        )


@dataclass(frozen=True)
class Outcome:
    """What became of a task; ``reason`` says why it is not "compiled".

    "refused": the admission gate, "busy": another process compiles it, "unfinished": the budget ended and
    the next run goes on, "left": not begun.
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


@dataclass(frozen=True)
class Report:
    """All outcomes of a run, and what was planned away."""

    outcomes: tuple[Outcome, ...]
    skipped: tuple[Skipped, ...]
    unchanged: int
    seconds: float
    expired: Mapping[str, Sequence[Receipt]] = field(default_factory=dict)


UNEXPECTED = "an unexpected {}; the log tells more"


class _BudgetSpentError(Exception):
    """The budget is spent; not an error of the compilation."""


def run_task(
    memory: Memory, task: Task, keep: int | None, deadline: float | None, progress: Reporting = silent
) -> Outcome:
    """Do one task; ``deadline`` is a Unix time. Whatever goes wrong with it is its outcome, and no error."""

    def step(done: Step) -> None:
        progress(done)
        if deadline is not None and time.time() > deadline:
            raise _BudgetSpentError

    status: Status
    try:
        info, made = memory.of(Owner.of(task.user)).compiled(task.memory_id, progress=step)
        if keep is not None:
            memory.bank.versions.prune(task.user, task.memory_id, keep)
        return Outcome(*_names(task), "compiled", "", info.version, made.seconds, made.flops, len(made.data))
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
        _note(memory, task, reason)
    except StopRequestedError:
        raise
    except Exception as error:  # of a library: one memory must not end the others' night
        log.error("compiling memory %s ended unexpectedly", task.memory_id, exc_info=error)
        status, reason = "failed", UNEXPECTED.format(type(error).__name__)
        _note(memory, task, reason)
    return Outcome(*_names(task), status, reason)


def _note(memory: Memory, task: Task, reason: str) -> None:
    """Have the memory's owner see why; what a compiler or the gate refused is noted already."""
    try:
        if memory.bank.get(task.user, task.memory_id).error != reason:
            memory.bank.fail(task.user, task.memory_id, reason)
    except BankError:  # forgotten meanwhile, or the catalog is what went wrong
        return


def compile_job(memory: Memory, job: Job) -> None:
    """Do a job of the bank's queue: compile one memory, unless the advice is to leave it."""
    if job.memory is None:
        return
    owner, memory_id = job.memory
    at = job.now = JobProgress(Owner.of(owner).user, memory_id)

    def step(done: Step) -> None:
        memory.queue.stopping()
        at.at(done)

    task = Task(owner, memory_id, "", "", 0, None, None, None)
    reason = ""
    if not job.always:
        try:
            reason = memory.of(Owner.of(owner)).objection(memory_id)
        except NotFoundError:
            reason = ""  # compiling it says so
    outcome = (
        Outcome(owner, memory_id, "", "left", reason)
        if reason
        else run_task(memory, task, memory.keep, None, step)
    )
    job.again = outcome.status == "busy"
    job.outcomes.append(job_outcome(outcome))


def job_outcome(found: Outcome) -> JobOutcome:
    """An outcome as a job keeps it."""
    kept = (found.memory_id, found.status, found.reason, found.version, found.seconds, found.nbytes)
    return JobOutcome(Owner.of(found.user).user, *kept)


@lru_cache(maxsize=1)
def _opened(key: str, home: Path) -> Memory:
    return Settings(home, **json.loads(key)).open()


def run_task_in_worker(settings: Settings, task: Task, keep: int, deadline: float | None) -> Outcome:
    """Do one task in a process of its own, which keeps the model for the next one."""
    values = {name: value for name, value in vars(settings).items() if name != "home"}
    memory = _opened(json.dumps(values, sort_keys=True, default=dict), settings.home)
    return run_task(memory, task, keep, deadline)


def recompile(plan: Plan, scope: Scope, executor: Executor, on_outcome: Any = None) -> Report:
    """Carry out a plan. An interruption loses nothing: what was compiled is published.

    ``on_outcome`` is called with each `Outcome` as it comes. Tasks that do not fit what is left of the
    budget are not begun, but for the first one, of which a part is done every night.
    """
    started, deadline = time.monotonic(), None if scope.budget is None else time.time() + scope.budget
    outcomes, left = list[Outcome](), list[Outcome]()

    def tasks() -> Iterator[Task]:
        for number, task in enumerate(plan.tasks):
            room = None if deadline is None else deadline - time.time()
            if room is not None and (room <= 0 or (number and (task.seconds or 0.0) > room)):
                left.append(Outcome(*_names(task), "left", "the budget ended before it"))
            else:
                yield task

    for outcome in executor.run(tasks(), scope.keep, deadline):
        outcomes.append(outcome)
        log.info("recompile %s: %s", outcome.status, outcome.memory_id, extra={"memkit": vars(outcome)})
        if on_outcome:
            on_outcome(outcome)
    return Report((*outcomes, *left), plan.skipped, plan.unchanged, time.monotonic() - started)


def expire(memory: Memory, users: Sequence[str] | None, now: datetime) -> dict[str, list[Receipt]]:
    """Forget what is older than its user's policy allows; what was forgotten, by user.

    What remains is left for the recompilation.
    """
    done = dict[str, list[Receipt]]()
    for user in memory.bank.tenants() if users is None else users:
        days = memory.bank.policies.get(user).keep_days
        if days is None:
            continue
        one = memory.of(Owner.of(user))
        for memory_id, spans in memory.bank.deletion.expired(user, now - timedelta(days=days)):
            done.setdefault(user, []).extend(one.forget(memory_id, spans=spans or None, compile=False))
    return done


def _names(task: Task) -> tuple[str, str, str]:
    return task.user, task.memory_id, task.title
