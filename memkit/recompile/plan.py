"""The plan of a recompilation: the memories that are due, in order, with estimated costs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from statistics import median

from memkit import registry
from memkit.bank import MemoryInfo
from memkit.bank.owners import Owner
from memkit.compiler_choice import AUTO, READERS, TRAINED, Choice
from memkit.compilers.base import Compiler, Estimate
from memkit.compilers.distillation.flops import FlopMeter
from memkit.document import Document
from memkit.engine.transformers import kv_cache
from memkit.errors import CompileError, ConfigError, NotFoundError
from memkit.memory import Memory
from memkit.models.chat import text_ids
from memkit.models.loading import LoadedModel
from memkit.pipeline.compile import attempt_id, snapshot
from memkit.pipeline.due import why_due
from memkit.recompile.advice import USUAL_RATIO, Advice, AdvisorConfig, advise

PROBED = 256  # tokens of the prefill that measures this machine's speed
RECENT = 20  # versions from which speed is estimated


@dataclass(frozen=True)
class Scope:
    """Which memories a recompilation considers, and how much it may do.

    ``users`` are owners by their names in the bank (None: all). ``since`` restricts it to memories that
    changed then or later, ``limit`` to a number of compilations, ``budget`` to seconds of wall time.
    ``retry`` includes memories that failed and have not changed. ``keep`` versions of each memory stay.
    ``advisor`` says which memories stay on their text. Raises `ConfigError` for a value out of range.
    """

    users: tuple[str, ...] | None = None
    since: datetime | None = None
    limit: int | None = None
    budget: float | None = None
    retry: bool = False
    keep: int = 5
    advisor: AdvisorConfig = field(default_factory=AdvisorConfig)

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit must be at least 1, got {self.limit}")
        if self.budget is not None and not self.budget > 0:
            raise ConfigError(f"budget must be a positive time, got {self.budget} seconds")
        if self.keep < 1:
            raise ConfigError(f"keep must be at least 1, got {self.keep}")


@dataclass(frozen=True)
class Task:
    """A memory that is due, the ``reason``, and its estimated cost (None: unknown).

    ``user`` is the owner's name in the bank; ``tokens`` are those of the text to compile; ``nbytes`` is the
    size of the artifact in bytes; ``compiler`` is the name of the one that compiles it.
    """

    user: str
    memory_id: str
    title: str
    reason: str
    tokens: int
    seconds: float | None
    flops: float | None
    nbytes: float | None
    compiler: str


@dataclass(frozen=True)
class Skipped:
    """A memory that changed and is not compiled, and why."""

    user: str
    memory_id: str
    title: str
    reason: str


@dataclass(frozen=True)
class Plan:
    """The ``tasks`` in order: most asked first, then longest waiting. ``unchanged`` counts other memories."""

    tasks: tuple[Task, ...]
    skipped: tuple[Skipped, ...]
    unchanged: int

    @property
    def seconds(self) -> float:
        """Estimated compute time of all tasks."""
        return sum(task.seconds or 0.0 for task in self.tasks)

    @property
    def flops(self) -> float:
        """Estimated FLOPs of all tasks."""
        return sum(task.flops or 0.0 for task in self.tasks)

    @property
    def nbytes(self) -> float:
        """Estimated size of all artifacts, in bytes."""
        return sum(task.nbytes or 0.0 for task in self.tasks)


def plan(memory: Memory, scope: Scope, now: datetime | None = None) -> Plan:
    """Find what is due. Nothing is written or compiled.

    ``memory`` gives the bank, the model and the compiler; ``scope`` says whose memories are considered.
    Raises `NotFoundError` for a user of ``scope`` without memories.
    """
    now = now or datetime.now(UTC)
    if scope.users is None:
        users: Sequence[str] = memory.bank.tenants()
    else:
        users = scope.users
        check_users(memory, users)
    speed, choice = Speed(memory), memory.chosen_compiler
    due, skipped, unchanged = list[tuple[tuple[int, datetime], Task]](), list[Skipped](), 0
    for user in users:
        one = memory.for_user(Owner.of(user))
        for info in memory.bank.list(user):
            task = None
            if not scope.since or (info.changed or info.created) >= scope.since:
                task = _task(one, info, choice, scope, now, speed)
            if task is None:
                unchanged += 1
            elif isinstance(task, Skipped):
                skipped.append(task)
            else:
                due.append(((-info.asked, info.changed or info.created), task))
    due.sort(key=lambda pair: pair[0])
    tasks = [task for _, task in due]
    remaining = tasks[scope.limit :] if scope.limit else []
    skipped += [
        Skipped(t.user, t.memory_id, t.title, f"the limit of {scope.limit} is reached") for t in remaining
    ]
    return Plan(tuple(tasks[: scope.limit]), tuple(skipped), unchanged)


def check_users(memory: Memory, users: Sequence[str]) -> None:
    """Raise `NotFoundError` for the name of an owner without memories."""
    if unknown := [user for user in users if not memory.bank.exists(user)]:
        raise NotFoundError(f"{Owner.of(unknown[0]).words} has no memories")


@dataclass(frozen=True)
class Due:
    """What a nightly run would do with a memory: ``reason`` says why, "" if nothing is due.

    ``compiler`` would do it; ``advice`` and ``cost`` (None: unknown) are those of this compiler.
    """

    reason: str
    compiler: str
    advice: Advice
    cost: Estimate | None


def due_tonight(
    memory: Memory, info: MemoryInfo, source: Document, choice: Choice, scope: Scope, now: datetime
) -> Due:
    """What a nightly run would do with a memory, whose compilation reads ``source``.

    Where ``auto`` chose a compiler that does not train, `TRAINED` takes over once a memory has been asked so
    often that training has paid for itself, compared to answers from the text.
    """
    reason = why_due(memory.context, info)
    if _may_train(memory, info, choice):
        advice, cost = examine(memory, info, source.text, scope.advisor, now, TRAINED)
        failed = info.attempt == attempt_id(memory.context.compiled_by(TRAINED), source) and not scope.retry
        if advice.break_even is not None and advice.break_even <= info.asked and not failed:
            pays = f"asked {info.asked:,} times: training pays off from {math.ceil(advice.break_even):,} on"
            return Due(reason or pays, TRAINED, advice, cost)
    advice, cost = examine(memory, info, source.text, scope.advisor, now, choice.name)
    return Due(reason, choice.name, advice, cost)


def _may_train(memory: Memory, info: MemoryInfo, choice: Choice) -> bool:
    """Whether it has to be asked if training pays for a memory."""
    if memory.compiler != AUTO or not choice.at_once or info.pinned or not info.asked:
        return False
    return info.behind > 0 or (info.compiler in (None, *READERS) and not _rolled_back(memory, info))


def _rolled_back(memory: Memory, info: MemoryInfo) -> bool:
    """Whether a newer version from `TRAINED` is there and was given up for the current one."""
    newer = (v for v in memory.bank.versions.history(memory.owner, info.id) if v.version > info.version)
    fingerprint = memory.local.fingerprint
    return any(v.compiler == TRAINED and v.fingerprint in (None, fingerprint) for v in newer)


def _task(
    memory: Memory, info: MemoryInfo, choice: Choice, scope: Scope, now: datetime, speed: Speed
) -> Task | Skipped | None:
    """What is due for a memory; None if nothing is."""
    reason = why_due(memory.context, info)
    if not reason and not _may_train(memory, info, choice):
        return None
    try:
        source, _ = snapshot(memory.context, info)
    except NotFoundError:
        return Skipped(memory.owner, info.id, info.title, "it was forgotten meanwhile")
    due = due_tonight(memory, info, source, choice, scope, now)
    advice, cost = due.advice, due.cost
    if not due.reason:
        return None
    if not advice.compile:
        return Skipped(memory.owner, info.id, info.title, advice.reason) if reason else None
    attempt = attempt_id(memory.context.compiled_by(due.compiler), source)
    if info.attempt and not scope.retry and info.attempt == attempt:
        return Skipped(memory.owner, info.id, info.title, f"it failed before and is the same: {info.error}")
    flops, nbytes = (cost.flops, cost.nbytes) if cost else (None, None)
    seconds = None if flops is None else flops / speed.of(memory.owner)
    return Task(
        memory.owner, info.id, info.title, due.reason, advice.tokens, seconds, flops, nbytes, due.compiler
    )


def examine(
    memory: Memory,
    info: MemoryInfo,
    text: str,
    config: AdvisorConfig,
    now: datetime,
    compiler: str | None = None,
) -> tuple[Advice, Estimate | None]:
    """The advice on a memory, and the estimated cost of compiling it (default: with the chosen compiler)."""
    base = memory.local.base
    tokens = len(text_ids(base.tokenizer, text))
    name = compiler or memory.chosen_compiler.name
    made = registry.compiler(name, memory.context.compiled_by(name).compiling.options)
    estimate: Callable[[int, LoadedModel], Estimate] | None = getattr(made, "estimate", None)
    try:
        cost = estimate(tokens, base) if estimate and tokens else None
    except CompileError:  # it does not fit; compiling will say so
        cost = None
    return advise(info, text, tokens, base, cost, config, now, _ratio(name, made, base)), cost


def _ratio(name: str, compiler: Compiler, base: LoadedModel) -> float:
    """Source tokens per position of an artifact; infinite if an artifact takes no positions.

    The compiler's option comes first, then the ratio that it works at for the model.
    """
    if not registry.takes_ratio(name):
        return math.inf
    ratio = getattr(getattr(compiler, "config", None), "ratio", None)
    try:
        ratio = registry.own_ratio(name, lambda: base) if ratio is None else ratio
    except CompileError:  # it is not ready for this model; compiling will say so
        ratio = None
    return USUAL_RATIO if ratio is None else float(ratio)


class Speed:
    """FLOPs per second: of recent compilations, else of a short prefill."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._known = dict[str, float]()

    def of(self, user: str) -> float:
        """The median speed of a user's recent compilations."""
        if user not in self._known:
            versions = self._memory.bank.versions.of(user)
            known = [v.flops / v.seconds for v in versions if v.flops and v.seconds]
            self._known[user] = median(known[-RECENT:]) if known else self._measured
        return self._known[user]

    @cached_property
    def _measured(self) -> float:
        base = self._memory.local.base
        ids = [base.chat.end] * min(PROBED, base.window // 2)
        kv_cache.prefill(base.model, ids)  # the first one also allocates
        started = time.perf_counter()
        kv_cache.prefill(base.model, ids)
        return FlopMeter(base.model).forward_flops(len(ids), 0) / (time.perf_counter() - started)
