"""A server's compilations: jobs of its bank's queue, bounded for each group of callers."""

from __future__ import annotations

from datetime import UTC, datetime

from memkit.bank.owners import Owner
from memkit.compilers.base import Progress as Reporting
from memkit.compilers.base import Step
from memkit.memory import Memory
from memkit.pipeline.compile_queue import Job, JobProgress
from memkit.recompile.executors import InProcess
from memkit.recompile.plan import Scope, Task, plan
from memkit.recompile.run import expire, job_outcome, recompile


class Jobs:
    """The queue of a bank, as callers see it. Each group has at most ``most`` jobs waiting."""

    def __init__(self, root: Memory, most: int) -> None:
        self._root, self._queue, self._most = root, root.queue, most

    def resume(self) -> int:
        """Take up what waited when the bank was last closed; how many compilations that were."""
        return self._queue.resume()

    def compile(self, owner: str, memory_id: str, *, always: bool = False) -> Job | None:
        """Compile one memory when its turn comes, if it is worth it or ``always``; None where too many wait,
        it then stays on its text."""
        return self._queue.compile(owner, memory_id, most=self._most, always=always)

    def recompile(self, group: str, scope: Scope) -> Job | None:
        """Plan and compile what is due of a group; None where too many wait."""

        def run(job: Job) -> None:
            expire(self._root, scope.users, datetime.now(UTC))
            planned = plan(self._root, scope)
            job.total = len(planned.tasks)
            here = InProcess(self._root, lambda task: self._progress(job, task))
            recompile(planned, scope, here, lambda found: job.outcomes.append(job_outcome(found)))

        return self._queue.add(Job(group, "recompile", run), self._most)

    def list(self, group: str) -> list[Job]:
        """A group's jobs, newest first."""
        return self._queue.list(group)

    def get(self, group: str, job_id: str) -> Job | None:
        """One job of a group."""
        return self._queue.get(group, job_id)

    def age(self) -> float:
        """Seconds that the oldest job has waited; 0 where none does."""
        return self._queue.age()

    @property
    def busy(self) -> bool:
        """Whether a job waits or runs."""
        return self._queue.busy

    def forgotten(self, owner: str, memory_id: str | None) -> None:
        """Drop what waits for a memory, or for all of an owner's."""
        self._queue.discard(owner, memory_id)

    def stop(self) -> None:
        """End after the step that is under way; the next server goes on."""
        self._queue.stop(at_once=True)

    def _progress(self, job: Job, task: Task) -> Reporting:
        at = job.now = JobProgress(Owner.of(task.user).user, task.memory_id)

        def step(done: Step) -> None:
            self._queue.check_stopped()
            at.update(done)

        return step
