"""Where compilations run: in this process, in several processes on this machine, or on a Ray cluster.

An executor takes tasks one by one, when a worker is free, so that a budget can end the run.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from itertools import islice
from typing import Any, Literal, Protocol, get_args

from memkit.compilers.base import Progress, silent
from memkit.config import Config
from memkit.errors import CompileError, ConfigError, MissingExtraError, install_line
from memkit.memory import Memory
from memkit.recompile.plan import Task
from memkit.recompile.worker import Outcome, run_task, run_task_in_worker

Name = Literal["local", "ray"]
RETRIES = 2  # of a task after its Ray worker died


class Executor(Protocol):
    """Runs tasks, in any order."""

    def run(self, tasks: Iterator[Task], keep: int, deadline: float | None) -> Iterator[Outcome]:
        """Outcomes as they come; arguments as in `memkit.recompile.worker.run_task`."""


def create_executor(
    name: str,
    config: Config,
    memory: Memory,
    workers: int = 1,
    progress: Callable[[Task], Progress] | None = None,
) -> Executor:
    """An executor: "local" or "ray", with ``workers`` compilations at a time.

    Workers in other processes open the bank and the model from ``config``; a single local one uses
    ``memory``, and reports to what ``progress`` gives for each task. Raises `ConfigError` for an unknown name
    or too few workers, `MissingExtraError` where Ray is not installed.
    """
    if name not in get_args(Name):
        raise ConfigError(f"the executor must be one of {', '.join(get_args(Name))}, got {name!r}")
    if workers < 1:
        raise ConfigError(f"workers must be at least 1, got {workers}")
    if name == "ray":
        return RayExecutor(config, workers)
    return ProcessExecutor(config, workers) if workers > 1 else InProcess(memory, progress)


class InProcess:
    """One task after the other, in this process."""

    def __init__(self, memory: Memory, progress: Callable[[Task], Progress] | None = None) -> None:
        self._memory, self._progress = memory, progress or (lambda task: silent)

    def run(self, tasks: Iterator[Task], keep: int, deadline: float | None) -> Iterator[Outcome]:
        for task in tasks:
            yield run_task(self._memory, task, keep, deadline, self._progress(task))


class ProcessExecutor:
    """Several processes, each with its own copy of the model."""

    def __init__(self, config: Config, workers: int) -> None:
        self._config, self._workers = config, workers

    def run(self, tasks: Iterator[Task], keep: int, deadline: float | None) -> Iterator[Outcome]:
        # Forking a process that has used threads of torch can hang.
        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(self._workers, mp_context=context)
        waiting = set[Future[Outcome]]()
        try:
            while True:
                for task in islice(tasks, self._workers - len(waiting)):
                    waiting.add(pool.submit(run_task_in_worker, self._config, task, keep, deadline))
                if not waiting:
                    return
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        except BrokenExecutor as error:
            raise CompileError(
                "a worker process was killed, perhaps for lack of memory; what was published stays: run it "
                "again with fewer workers"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


class RayExecutor:
    """One Ray task per memory. All machines of the cluster must be able to reach the bank.

    ``RAY_ADDRESS`` names the cluster; without it, one is started on this machine.
    """

    def __init__(self, config: Config, workers: int, cpus: float = 1.0) -> None:
        try:
            import ray
        except ImportError as error:
            raise MissingExtraError("ray", install_line("ray")) from error
        self._ray: Any = ray
        self._config, self._workers, self._cpus = config, workers, cpus

    def run(self, tasks: Iterator[Task], keep: int, deadline: float | None) -> Iterator[Outcome]:
        ray = self._ray
        started = not ray.is_initialized()
        if started:
            ray.init(include_dashboard=False, log_to_driver=False, ignore_reinit_error=True)
        remote = ray.remote(num_cpus=self._cpus, max_retries=RETRIES)(run_task_in_worker)
        waiting = list[Any]()
        try:
            while True:
                for task in islice(tasks, self._workers - len(waiting)):
                    waiting.append(remote.remote(self._config, task, keep, deadline))
                if not waiting:
                    return
                done, waiting = ray.wait(waiting, num_returns=1)
                yield from ray.get(done)
        finally:
            for reference in waiting:
                ray.cancel(reference)
            if started:
                ray.shutdown()
