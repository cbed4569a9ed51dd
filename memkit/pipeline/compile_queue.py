"""The compile queue of a bank: one worker thread that serves groups of users in turn.

Waiting compilations are also stored in the catalog, so that the next process continues what a closed bank or
a stopped server left undone (`CompileQueue.resume`).
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Literal

from memkit.bank import Bank
from memkit.bank.owners import Owner
from memkit.compilers.base import Step
from memkit.errors import BankError, MemkitError

log = logging.getLogger("memkit.compile")
State = Literal["waiting", "running", "done", "failed", "stopped"]
MAX_ENDED_JOBS = 500  # that can still be inspected
UNEXPECTED = "an unexpected error; the log has the details"


class StopRequestedError(Exception):
    """The queue is stopping; an unfinished compilation continues next time."""


@dataclass
class JobProgress:
    """The progress of one memory's compilation: its phase, the step of that phase and the loss."""

    user: str
    memory_id: str
    phase: str = ""
    step: int = 0
    steps: int = 0
    loss: float | None = None

    def update(self, done: Step) -> None:
        """Set the progress to a compiler's latest step."""
        self.phase, self.step, self.steps, self.loss = done.phase, done.step, done.steps, done.loss


@dataclass(frozen=True)
class JobOutcome:
    """The outcome for one memory; see `memkit.pipeline.compile_job.CompileOutcome`."""

    user: str
    memory_id: str
    status: str
    reason: str
    version: int
    seconds: float
    nbytes: int


@dataclass(eq=False)
class Job:
    """One compilation of a memory, or a recompilation of a whole group; ``run`` performs it.

    A ``group`` is a tenant with all its users, or a single user without a tenant. Groups take turns.
    ``memory`` is the owner and the id of a compilation's memory. ``always`` compiles even if the advice is
    not to. ``retry`` says that the compilation stays in the catalog for another process. ``now`` is the
    progress, ``outcomes`` has one entry for each finished memory.
    """

    group: str
    kind: Literal["compile", "recompile"]
    run: Callable[[Job], None] = field(repr=False)
    memory: tuple[str, str] | None = None
    always: bool = False
    retry: bool = False
    id: str = field(default_factory=lambda: secrets.token_hex(8))
    state: State = "waiting"
    created: datetime = field(default_factory=lambda: datetime.now(UTC))
    started: datetime | None = None
    ended: datetime | None = None
    error: str | None = None
    total: int = 0
    now: JobProgress | None = None
    outcomes: list[JobOutcome] = field(default_factory=list)


class CompileQueue:
    """The queue of one bank. It may be used from several threads.

    ``compile`` performs the job of a compilation. A job that fails does not end the others.
    """

    def __init__(self, bank: Bank, compile: Callable[[Job], None]) -> None:
        self._bank, self._compile = bank, compile
        self._waiting: OrderedDict[str, deque[Job]] = OrderedDict()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = self._at_once = False

    # -- for callers ----------------------------------------------------------------------------
    def compile(
        self, owner: str, memory_id: str, *, most: int | None = None, always: bool = False
    ) -> Job | None:
        """Queue the compilation of a memory; it is skipped if not worth it, unless ``always``.

        Returns None if ``most`` jobs of the group are waiting already; the nightly recompilation then
        compiles the memory.
        """
        job = self._job(owner, memory_id, always)
        self._record(partial(self._bank.pending.add, always=always), job)
        added = self.add(job, most)
        if added is None and not self._stopping:
            self._record(self._bank.pending.done, job)
        return added

    def _job(self, owner: str, memory_id: str, always: bool = False) -> Job:
        job = Job(Owner.of(owner).group, "compile", self._compile, (owner, memory_id), always, total=1)
        job.now = JobProgress(Owner.of(owner).user, memory_id)
        return job

    def add(self, job: Job, most: int | None = None) -> Job | None:
        """Queue a job. Returns it, or a waiting job for the same memory.

        Returns None if ``most`` jobs of the group are waiting already, or if the queue is stopping.
        """
        with self._changed:
            line = self._waiting.setdefault(job.group, deque())
            for other in line:
                if job.memory is not None and other.memory == job.memory:
                    return other
            if self._stopping or (most is not None and len(line) >= most):
                return None
            line.append(job)
            self._jobs[job.id] = job
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="memkit-compile", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return job

    def resume(self) -> int:
        """Queue the compilations that were waiting when the bank was last closed; returns their number."""
        try:
            pending = self._bank.pending.all()
        except BankError as error:
            log.warning("cannot read the waiting compilations from the catalog: %s", error)
            return 0
        with self._changed:
            queued = {job.memory for job in self._jobs.values() if job.ended is None}
        new = [row for row in pending if row[:2] not in queued]
        for owner, memory_id, always in new:
            self.add(self._job(owner, memory_id, always))
        return len(new)

    def list(self, group: str) -> list[Job]:
        """A group's jobs, newest first."""
        with self._changed:
            return [job for job in reversed(self._jobs.values()) if job.group == group]

    def get(self, group: str, job_id: str) -> Job | None:
        """One job of a group; None if the group has no such job."""
        with self._changed:
            job = self._jobs.get(job_id)
        return job if job is not None and job.group == group else None

    def age(self) -> float:
        """Seconds since the oldest unfinished job was queued; 0 without one."""
        with self._changed:
            created = [job.created for job in self._jobs.values() if job.ended is None]
        return (datetime.now(UTC) - min(created)).total_seconds() if created else 0.0

    @property
    def busy(self) -> bool:
        """Whether a job is waiting or running."""
        with self._changed:
            return self._busy()

    def wait(self) -> None:
        """Wait until every job has ended."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy())

    def discard(self, owner: str, memory_id: str | None = None) -> None:
        """Drop the waiting jobs of a memory, or of all memories of an owner."""
        with self._changed:
            for job in list(self._jobs.values()):
                if job.state == "waiting" and job.memory is not None:
                    job_owner, job_memory_id = job.memory
                    if job_owner == owner and memory_id in (None, job_memory_id):
                        self._end(job, "stopped")

    def check_stopped(self) -> None:
        """Raise `StopRequestedError` if the queue stops at once; jobs call this between two steps."""
        if self._at_once:
            raise StopRequestedError

    def stop(self, *, at_once: bool = False) -> None:
        """Stop the worker. Waiting jobs are left for the next time, with ``at_once`` also the running one."""
        with self._changed:
            self._stopping, self._at_once = True, at_once
            for line in self._waiting.values():
                for job in list(line):
                    self._end(job, "stopped")
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if not at_once:  # a closed memory may be used again
            self._stopping = False

    # -- the worker -----------------------------------------------------------------------------
    def _busy(self) -> bool:
        return any(job.ended is None for job in self._jobs.values())

    def _next(self) -> Job | None:
        """Wait for a job and take it from the group whose turn it is; None if the queue is stopping."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopping or any(self._waiting.values()))
            if self._stopping:
                return None
            group = next(name for name, line in self._waiting.items() if line)
            line = self._waiting.pop(group)
            job = line.popleft()
            if line:
                self._waiting[group] = line
            job.state, job.started = "running", datetime.now(UTC)
            return job

    def _work(self) -> None:
        while (job := self._next()) is not None:
            state: State = "done"
            try:
                job.run(job)
            except StopRequestedError:
                state = "stopped"
            except MemkitError as error:
                state, job.error = "failed", str(error)
            except BaseException as error:  # also a library's panic: the worker goes on
                log.error("a compilation ended unexpectedly", exc_info=error)
                state, job.error = "failed", UNEXPECTED
            if state != "stopped" and not job.retry:
                self._record(self._bank.pending.done, job)
            with self._changed:
                self._end(job, state)

    def _record(self, write: Callable[[str, str], None], job: Job) -> None:
        """Write a job to the catalog; if that fails, the nightly recompilation still finds the memory."""
        if job.memory is None:
            return
        try:
            write(*job.memory)
        except Exception as error:
            log.warning("cannot record a compilation in the catalog: %s", error)

    def _end(self, job: Job, state: State) -> None:
        if job.state == "waiting":
            self._waiting[job.group].remove(job)
        job.state, job.ended, job.now = state, datetime.now(UTC), None
        ended = [key for key, each in self._jobs.items() if each.ended is not None]
        for key in ended[: max(len(ended) - MAX_ENDED_JOBS, 0)]:
            del self._jobs[key]
        self._changed.notify_all()
