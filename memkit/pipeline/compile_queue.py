"""The queue of a bank's compilations: one worker, who serves whoever asks in turn.

Each waiting compilation stands in the catalog, too, so that what a closed bank or a stopped server has not
done is taken up by the next one (`CompileQueue.resume`).
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
REMEMBERED = 500  # jobs that have ended and can still be looked at
UNEXPECTED = "something went wrong here; the log tells what"


class StopRequestedError(Exception):
    """The queue ends; what is half done goes on the next time."""


@dataclass
class JobProgress:
    """How far one memory's compilation is."""

    user: str
    memory_id: str
    phase: str = ""
    step: int = 0
    steps: int = 0
    loss: float | None = None

    def at(self, done: Step) -> None:
        """Take over where a compiler is."""
        self.phase, self.step, self.steps, self.loss = done.phase, done.step, done.steps, done.loss


@dataclass(frozen=True)
class JobOutcome:
    """What became of one memory; see `memkit.recompile.worker.Outcome`."""

    user: str
    memory_id: str
    status: str
    reason: str
    version: int
    seconds: float
    nbytes: int


@dataclass(eq=False)
class Job:
    """One compilation of a memory, or a recompilation of a whole group; ``run`` does it.

    A ``group`` is a tenant with its users, or one user of none: groups take turns. ``now`` tells how far it
    is, ``outcomes`` what became of each memory.
    """

    group: str
    kind: Literal["compile", "recompile"]
    run: Callable[[Job], None] = field(repr=False)
    memory: tuple[str, str] | None = None  # owner and id, of a compilation
    always: bool = False  # whatever the advice is
    again: bool = False  # it is left for another time
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
    """A bank's one queue. ``most`` bounds the jobs of a group that wait.

    A job that fails, however it does, ends no other. May be used from several threads.
    """

    def __init__(self, bank: Bank, compile: Callable[[Job], None]) -> None:
        self._bank, self._compile = bank, compile
        self._waiting: OrderedDict[str, deque[Job]] = OrderedDict()
        self._known: OrderedDict[str, Job] = OrderedDict()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._stopping = self._at_once = False

    # -- for callers ----------------------------------------------------------------------------
    def compile(
        self, owner: str, memory_id: str, *, most: int | None = None, always: bool = False
    ) -> Job | None:
        """Compile a memory when its turn comes, if it is worth it or ``always``.

        None where too many of its group wait: it is left to the nightly recompilation.
        """
        job = self._job(owner, memory_id, always)
        self._noted(partial(self._bank.pending.add, always=always), job)
        added = self.add(job, most)
        if added is None and not self._stopping:
            self._noted(self._bank.pending.done, job)
        return added

    def _job(self, owner: str, memory_id: str, always: bool = False) -> Job:
        job = Job(Owner.of(owner).group, "compile", self._compile, (owner, memory_id), always, total=1)
        job.now = JobProgress(Owner.of(owner).user, memory_id)
        return job

    def add(self, job: Job, most: int | None = None) -> Job | None:
        """Do a job when its turn comes. One that waits for the same memory is given instead; None where too
        many of the group wait, or the queue ends."""
        with self._changed:
            line = self._waiting.setdefault(job.group, deque())
            for other in line:
                if job.memory is not None and other.memory == job.memory:
                    return other
            if self._stopping or (most is not None and len(line) >= most):
                return None
            line.append(job)
            self._known[job.id] = job
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="memkit-compile", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return job

    def resume(self) -> int:
        """Take up what waited when the bank was last closed; how many compilations that were."""
        try:
            left = self._bank.pending.all()
        except BankError as error:
            log.warning("compilations that wait cannot be looked up: %s", error)
            return 0
        with self._changed:
            here = {job.memory for job in self._known.values() if job.ended is None}
        new = [each for each in left if each[:2] not in here]
        for owner, memory_id, always in new:
            self.add(self._job(owner, memory_id, always))
        return len(new)

    def list(self, group: str) -> list[Job]:
        """A group's jobs, newest first."""
        with self._changed:
            return [job for job in reversed(self._known.values()) if job.group == group]

    def get(self, group: str, job_id: str) -> Job | None:
        """One job of a group."""
        with self._changed:
            job = self._known.get(job_id)
        return job if job is not None and job.group == group else None

    def age(self) -> float:
        """Seconds that the oldest job which has not ended has been there; 0 where there is none."""
        with self._changed:
            open_ = [job.created for job in self._known.values() if job.ended is None]
        return (datetime.now(UTC) - min(open_)).total_seconds() if open_ else 0.0

    @property
    def busy(self) -> bool:
        """Whether a job waits or runs."""
        with self._changed:
            return self._busy()

    def wait(self) -> None:
        """Wait until every job has ended."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy())

    def forgotten(self, owner: str, memory_id: str | None = None) -> None:
        """Drop what waits for a memory, or for all of an owner's."""
        with self._changed:
            for job in list(self._known.values()):
                if job.state == "waiting" and job.memory is not None:
                    whose, which = job.memory
                    if whose == owner and memory_id in (None, which):
                        self._end(job, "stopped")

    def stopping(self) -> None:
        """Raise `StopRequestedError` where the queue ends at once: called between two steps of a job."""
        if self._at_once:
            raise StopRequestedError

    def stop(self, *, at_once: bool = False) -> None:
        """End: what waits is left for the next time, and so is, ``at_once``, what is half done."""
        with self._changed:
            self._stopping, self._at_once = True, at_once
            for line in self._waiting.values():
                for job in list(line):
                    self._end(job, "stopped")
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if not at_once:  # a memory that was closed may be used again
            self._stopping = False

    # -- the worker -----------------------------------------------------------------------------
    def _busy(self) -> bool:
        return any(job.ended is None for job in self._known.values())

    def _next(self) -> Job | None:
        """The next job of the group that has waited longest for its turn."""
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
            except BaseException as error:  # a library's panic, too: the worker goes on
                log.error("a compilation ended unexpectedly", exc_info=error)
                state, job.error = "failed", UNEXPECTED
            if state != "stopped" and not job.again:
                self._noted(self._bank.pending.done, job)
            with self._changed:
                self._end(job, state)

    def _noted(self, note: Callable[[str, str], None], job: Job) -> None:
        """Tell the catalog of a job. Where it cannot be told, the nightly recompilation finds the memory."""
        if job.memory is None:
            return
        try:
            note(*job.memory)
        except Exception as error:
            log.warning("the catalog was not told of a compilation: %s", error)

    def _end(self, job: Job, state: State) -> None:
        if job.state == "waiting":
            self._waiting[job.group].remove(job)
        job.state, job.ended, job.now = state, datetime.now(UTC), None
        over = [key for key, each in self._known.items() if each.ended is not None]
        for key in over[: max(len(over) - REMEMBERED, 0)]:
            del self._known[key]
        self._changed.notify_all()
