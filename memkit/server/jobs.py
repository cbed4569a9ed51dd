"""A server's compilations: jobs in the bank's queue, bounded for each tenant."""

from __future__ import annotations

from datetime import UTC, datetime

from memkit.bank.owners import Owner
from memkit.compilers.base import Progress as Reporting
from memkit.compilers.base import Step
from memkit.memory import Memory
from memkit.pipeline.compile_queue import Job, JobProgress
from memkit.recompile.executors import InProcess
from memkit.recompile.plan import Scope, Task
from memkit.recompile.run import expire_and_plan, job_outcome, recompile


class Jobs:
    """The bank's compile queue, as callers see it: a group (`Caller.group`) has at most ``most`` waiting
    jobs."""

    def __init__(self, root: Memory, most: int) -> None:
        self._root, self._queue, self._most = root, root.queue, most

    def resume(self) -> int:
        """Queue the compilations that waited when the bank was last closed; returns their number."""
        return self._queue.resume()

    def compile(self, owner: str, memory_id: str, *, always: bool = False) -> Job | None:
        """Queue a memory, to be compiled if that is worthwhile or ``always``.

        Returns None where too many jobs wait: the memory then stays on its text.
        """
        return self._queue.compile(owner, memory_id, most=self._most, always=always)

    def recompile(self, group: str, scope: Scope) -> Job | None:
        """Queue a recompilation of what is due in a group. Returns None where too many jobs wait."""

        def run(job: Job) -> None:
            planned, _ = expire_and_plan(self._root, scope, datetime.now(UTC))
            job.total = len(planned.tasks)
            here = InProcess(self._root, lambda task: self._progress(job, task))
            recompile(planned, scope, here, lambda outcome: job.outcomes.append(job_outcome(outcome)))

        return self._queue.add(Job(group, "recompile", run), self._most)

    def list(self, group: str) -> list[Job]:
        """A group's jobs, newest first."""
        return self._queue.list(group)

    def get(self, group: str, job_id: str) -> Job | None:
        """One job of a group."""
        return self._queue.get(group, job_id)

    def age(self) -> float:
        """Seconds that the oldest waiting job has waited; 0 if none waits."""
        return self._queue.age()

    @property
    def busy(self) -> bool:
        """Whether a job waits or runs."""
        return self._queue.busy

    def forgotten(self, owner: str, memory_id: str | None) -> None:
        """Drop the waiting jobs of a memory that is forgotten, or of all of an owner's."""
        self._queue.discard(owner, memory_id)

    def stop(self) -> None:
        """Stop after the current step; the next server continues."""
        self._queue.stop(at_once=True)

    def _progress(self, job: Job, task: Task) -> Reporting:
        current = job.now = JobProgress(Owner.of(task.user).user, task.memory_id)

        def step(done: Step) -> None:
            self._queue.check_stopped()
            current.update(done)

        return step
