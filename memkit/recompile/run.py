"""One recompilation: bounded, resumable and idempotent.

Finished compilations are in the bank, half-finished ones in its ``unfinished`` files. A run that is killed
therefore leaves no state of its own: the next one plans again and continues.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from memkit.bank import Receipt
from memkit.bank.owners import Owner
from memkit.memory import Memory
from memkit.pipeline.compile_queue import JobOutcome
from memkit.recompile.executors import Executor
from memkit.recompile.plan import Plan, Scope, Skipped, Task, check_users
from memkit.recompile.plan import plan as make_plan
from memkit.recompile.worker import Outcome, log, without


@dataclass(frozen=True)
class Report:
    """All outcomes of a run, what its plan skipped, and what it forgot for its age (``expired``, by user).

    ``unchanged`` counts memories, ``seconds`` is wall time.
    """

    outcomes: tuple[Outcome, ...]
    skipped: tuple[Skipped, ...]
    unchanged: int
    seconds: float
    expired: Mapping[str, Sequence[Receipt]] = field(default_factory=dict)


def job_outcome(outcome: Outcome) -> JobOutcome:
    """An outcome as a job of the compile queue keeps it."""
    return JobOutcome(
        Owner.of(outcome.user).user,
        outcome.memory_id,
        outcome.status,
        outcome.reason,
        outcome.version,
        outcome.seconds,
        outcome.nbytes,
    )


def recompile(
    plan: Plan, scope: Scope, executor: Executor, on_outcome: Callable[[Outcome], object] | None = None
) -> Report:
    """Carry out a plan. An interruption loses nothing: what was compiled is published.

    ``on_outcome`` is called with each `Outcome` as it comes. A task that does not fit the rest of the budget
    is not started, except the first: a part of it is done every night.
    """
    started, deadline = time.monotonic(), None if scope.budget is None else time.time() + scope.budget
    outcomes, not_started = list[Outcome](), list[Outcome]()

    def tasks() -> Iterator[Task]:
        for number, task in enumerate(plan.tasks):
            room = None if deadline is None else deadline - time.time()
            if room is not None and (room <= 0 or (number and (task.seconds or 0.0) > room)):
                not_started.append(without(task, "left", "the budget ended before it"))
            else:
                yield task

    for outcome in executor.run(tasks(), scope.keep, deadline):
        outcomes.append(outcome)
        log.info("recompile %s: %s", outcome.status, outcome.memory_id, extra={"memkit": vars(outcome)})
        if on_outcome:
            on_outcome(outcome)
    return Report((*outcomes, *not_started), plan.skipped, plan.unchanged, time.monotonic() - started)


def expire_and_plan(memory: Memory, scope: Scope, now: datetime) -> tuple[Plan, dict[str, list[Receipt]]]:
    """`expire`, and the plan for the users that have memories then.

    Raises `NotFoundError` for a user of ``scope`` who had none before.
    """
    users = scope.users
    if users is not None:
        check_users(memory, users)
    expired = expire(memory, users, now)
    if users is not None:
        scope = replace(scope, users=tuple(user for user in users if memory.bank.exists(user)))
    return make_plan(memory, scope, now), expired


def expire(memory: Memory, users: Sequence[str] | None, now: datetime) -> dict[str, list[Receipt]]:
    """Forget what is older than its user's policy allows; returns the receipts by user.

    What remains of a memory is compiled by the recompilation.
    """
    receipts = dict[str, list[Receipt]]()
    for user in memory.bank.tenants() if users is None else users:
        days = memory.bank.policies.get(user).keep_days
        if days is None:
            continue
        memories = memory.for_user(Owner.of(user))
        for memory_id, spans in memory.bank.deletion.expired(user, now - timedelta(days=days)):
            receipts.setdefault(user, []).extend(
                memories.forget(memory_id, spans=spans or None, compile=False)
            )
    return receipts
