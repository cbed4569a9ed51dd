"""Compilations that callers wait for no longer than they like: one worker, tenants in turn."""

from __future__ import annotations

import logging
import secrets
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from memkit.bank.owners import Owner
from memkit.compilers.base import Step
from memkit.errors import MemkitError
from memkit.memory import Memory
from memkit.recompile.executors import Here
from memkit.recompile.plan import Scope, Task, plan
from memkit.recompile.run import Outcome, expire, recompile, work

log = logging.getLogger("memkit.server")
State = Literal["waiting", "running", "done", "failed", "stopped"]
REMEMBERED = 500  # jobs that have ended and can still be looked at


class _StopError(Exception):
    """The server ends; what is half done goes on after it starts again."""


@dataclass
class Progress:
    """How far one memory's compilation is."""

    user: str
    memory_id: str
    phase: str = ""
    step: int = 0
    steps: int = 0
    loss: float | None = None


@dataclass(frozen=True)
class Done:
    """What became of one memory; see `memkit.recompile.run.Outcome`."""

    user: str
    memory_id: str
    status: str
    reason: str
    version: int
    seconds: float
    nbytes: int

    @classmethod
    def of(cls, found: Outcome) -> Done:
        kept = (found.memory_id, found.status, found.reason, found.version, found.seconds, found.nbytes)
        return cls(_user(found.user), *kept)


@dataclass(eq=False)
class Job:
    """One compilation ("compile") or recompilation of a tenant ("recompile"); it knows ids, and no titles."""

    tenant: str
    kind: Literal["compile", "recompile"]
    run: Callable[[Job], None] = field(repr=False)
    key: str = ""
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    state: State = "waiting"
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    started: datetime | None = None
    ended: datetime | None = None
    error: str | None = None
    total: int = 0
    now: Progress | None = None
    outcomes: list[Done] = field(default_factory=list)


class Jobs:
    """The queue, and what became of it. Each tenant has at most ``most`` jobs waiting."""

    def __init__(self, root: Memory, most: int, keep: int) -> None:
        self._root, self._most, self._keep = root, most, keep
        self._waiting: OrderedDict[str, deque[Job]] = OrderedDict()
        self._known: OrderedDict[str, Job] = OrderedDict()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = False

    # -- for callers ----------------------------------------------------------------------------
    def compile(self, owner: str, memory_id: str) -> Job | None:
        """Compile one memory when its turn comes; None where too many wait, it then stays on its text."""
        key = f"{owner}\0{memory_id}"

        def run(job: Job) -> None:
            task = Task(owner, memory_id, "", "", 0, None, None, None)
            job.outcomes.append(Done.of(work(self._root, task, self._keep, None, self._progress(job, task))))

        job = Job(Owner.of(owner).group, "compile", run, key, total=1)
        job.now = Progress(_user(owner), memory_id)
        return self._add(job)

    def recompile(self, tenant: str, scope: Scope) -> Job | None:
        """Plan and compile what is due of a tenant; None where too many wait."""

        def run(job: Job) -> None:
            expire(self._root, scope.users, datetime.now(UTC))
            planned = plan(self._root, scope)
            job.total = len(planned.tasks)
            here = Here(self._root, lambda task: self._progress(job, task))
            recompile(planned, scope, here, lambda found: job.outcomes.append(Done.of(found)))

        return self._add(Job(tenant, "recompile", run))

    def list(self, tenant: str) -> list[Job]:
        """A tenant's jobs, newest first."""
        with self._changed:
            return [job for job in reversed(self._known.values()) if job.tenant == tenant]

    def get(self, tenant: str, job_id: str) -> Job | None:
        """One job of a tenant."""
        job = self._known.get(job_id)
        return job if job is not None and job.tenant == tenant else None

    def age(self) -> float:
        """Seconds that the oldest job has waited; 0 where none does."""
        with self._changed:
            heads = [jobs[0].created for jobs in self._waiting.values() if jobs]
        return (datetime.now(UTC) - min(heads)).total_seconds() if heads else 0.0

    @property
    def busy(self) -> bool:
        """Whether a job waits or runs."""
        with self._changed:
            return any(job.ended is None for job in self._known.values())

    def forgotten(self, owner: str, memory_id: str | None) -> None:
        """Drop what waits for a memory, or for all of an owner's."""
        with self._changed:
            for job in list(self._known.values()):
                if job.state == "waiting" and job.key.startswith(f"{owner}\0{memory_id or ''}"):
                    self._end(job, "stopped")

    def stop(self) -> None:
        """End after the step that is under way."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    # -- the worker -----------------------------------------------------------------------------
    def _add(self, job: Job) -> Job | None:
        with self._changed:
            line = self._waiting.setdefault(job.tenant, deque())
            for other in line:
                if job.key and other.key == job.key:
                    return other
            if len(line) >= self._most or self._stopping:
                return None
            line.append(job)
            self._known[job.id] = job
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="memkit-jobs", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return job

    def _next(self) -> Job | None:
        """The next job of the tenant who has waited longest for its turn."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or any(self._waiting.values()))
            if self._stopping:
                return None
            tenant = next(name for name, line in self._waiting.items() if line)
            job = self._waiting[tenant].popleft()
            line = self._waiting.pop(tenant)
            if line:
                self._waiting[tenant] = line
            job.state, job.started = "running", datetime.now(UTC)
            return job

    def _work(self) -> None:
        while (job := self._next()) is not None:
            state: State = "done"
            try:
                job.run(job)
            except _StopError:
                state = "stopped"
            except MemkitError as error:
                state, job.error = "failed", str(error)
            except Exception as error:
                log.error("a compilation ended unexpectedly", exc_info=error)
                state, job.error = "failed", "something went wrong here; the server's log tells what"
            with self._changed:
                self._end(job, state)

    def _end(self, job: Job, state: State) -> None:
        if job.state == "waiting":
            self._waiting[job.tenant].remove(job)
        job.state, job.ended, job.now = state, datetime.now(UTC), None
        over = [key for key, each in self._known.items() if each.ended is not None]
        for key in over[: max(len(over) - REMEMBERED, 0)]:
            del self._known[key]

    def _progress(self, job: Job, task: Task) -> Callable[[Step], None]:
        at = Progress(_user(task.user), task.memory_id)
        job.now = at

        def step(done: Step) -> None:
            if self._stopping:
                raise _StopError
            at.phase, at.step, at.steps, at.loss = done.phase, done.step, done.steps, done.loss

        return step


def _user(owner: str) -> str:
    return Owner.of(owner).user
