"""One recompilation: bounded, resumable, and the same however often it is started.

What is done is in the bank, and what is half done in its ``unfinished`` files, so that a run that was
killed leaves no state of its own behind: the next one plans anew, and goes on.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memkit.bank import Receipt
from memkit.bank.owners import Owner
from memkit.compilers.base import Progress as Reporting
from memkit.compilers.base import silent
from memkit.memory import Memory
from memkit.observability.events import Observer
from memkit.pipeline.compile_job import Status, try_compile
from memkit.pipeline.compile_queue import JobOutcome
from memkit.recompile.plan import Plan, Scope, Skipped, Task

if TYPE_CHECKING:
    from memkit.recompile.executors import Executor

log = logging.getLogger("memkit.recompile")


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


def run_task(
    memory: Memory, task: Task, keep: int | None, deadline: float | None, progress: Reporting = silent
) -> Outcome:
    """Do one task; ``deadline`` is a Unix time. Whatever goes wrong with it is its outcome, and no error."""
    context = memory.context.of(Owner.of(task.user))
    context = replace(context, compiling=replace(context.compiling, keep=keep))
    return Outcome(
        *_names(task), **vars(try_compile(context, task.memory_id, deadline=deadline, progress=progress))
    )


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
        one = memory.for_user(Owner.of(user))
        for memory_id, spans in memory.bank.deletion.expired(user, now - timedelta(days=days)):
            done.setdefault(user, []).extend(one.forget(memory_id, spans=spans or None, compile=False))
    return done


def _names(task: Task) -> tuple[str, str, str]:
    return task.user, task.memory_id, task.title
