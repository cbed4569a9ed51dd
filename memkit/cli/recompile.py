"""``memkit recompile``, ``schedule`` and ``cron``."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memkit.cli.options import (
    Compiler,
    EmbedderName,
    Home,
    Json,
    Model,
    Options,
    Ratio,
    compiler_options,
    load_config,
    owner_document,
    owner_option,
    users_option,
)
from memkit.cli.output import InterruptError, Output
from memkit.cli.progress import progress as showing
from memkit.cli.progress import state_of
from memkit.errors import ConfigError, NotFoundError
from memkit.text.dates import parse_time

if TYPE_CHECKING:
    from memkit.compilers.base import Progress
    from memkit.config import Config
    from memkit.memory import Memory
    from memkit.recompile.plan import Plan, Scope, Skipped, Task
    from memkit.recompile.run import Report
    from memkit.recompile.worker import Outcome

_UNITS: Mapping[str, float] = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_BAD = ("refused", "failed")

Users = Annotated[
    list[str] | None,
    typer.Option(
        "--user",
        "-u",
        metavar="U",
        help="A user; repeatable. With --tenant, its users. Default: all.",
        show_default=False,
    ),
]
Group = Annotated[
    str | None,
    typer.Option(
        "--tenant",
        metavar="T",
        help="A server's tenant: the users that --user names, or all.",
        show_default=False,
    ),
]
Since = Annotated[
    str | None,
    typer.Option(metavar="DATE|2d", help="Only memories that changed then or later.", show_default=False),
]
Budget = Annotated[
    str | None, typer.Option(metavar="2h", help="Stop after this time (s, m, h, d).", show_default=False)
]
Most = Annotated[
    int | None, typer.Option("--limit", metavar="N", help="At most N compilations.", show_default=False)
]
Keep = Annotated[int, typer.Option(metavar="N", help="Versions to keep of each memory.")]
Retry = Annotated[bool, typer.Option("--retry", help="Include memories that failed and have not changed.")]
Always = Annotated[
    bool,
    typer.Option("--always", help="Include short, tabular and rarely used memories (see `memkit advise`)."),
]
Idle = Annotated[
    float, typer.Option(metavar="DAYS", help="Skip memories without a question for so many days.")
]
Times = Annotated[str, typer.Option("--cron", metavar="EXPR", help="Times: minute hour day month weekday.")]
ExecutorName = Annotated[str, typer.Option("--executor", metavar="E", help="local or ray.")]
Workers = Annotated[int, typer.Option(metavar="N", help="Compilations at a time.")]


def recompile(
    user: Users = None,
    tenant: Group = None,
    since: Since = None,
    budget: Budget = None,
    limit: Most = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print the plan.")] = False,
    keep: Keep = 5,
    retry: Retry = False,
    always: Always = False,
    idle_days: Idle = 60.0,
    executor: ExecutorName = "local",
    workers: Workers = 1,
    compiler: Compiler = "auto",
    ratio: Ratio = None,
    option: Options = None,
    embedder: EmbedderName = None,
    metrics: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write metrics for Prometheus' node exporter.", show_default=False),
    ] = None,
    home: Home = None,
    model: Model = "nano",
    json: Json = False,
) -> None:
    """Compile what changed, from its source. Safe to run every night, to interrupt and to repeat.

    A memory that fails its checks keeps its version; the exit code is then 4.
    """
    from memkit.recompile.plan import plan
    from memkit.recompile.worker import open_memory

    output = Output(json)
    scope = _scope(since, budget, limit, retry, keep, always, idle_days)
    options = compiler_options(option, ratio)
    config = load_config(home, model, compiler=compiler, options=options, embedder=embedder)
    with open_memory(config) as memory:
        scope = replace(scope, users=_owners(memory, user, tenant))
        if dry_run:
            _show_plan(output, plan(memory, scope))
            return
        report = _carry_out(output, memory, config, scope, executor, workers)
    _show_report(output, report)
    if metrics is not None:
        from memkit.observability.prometheus import of_recompilation

        of_recompilation(report).write(metrics)
    if any(outcome.status in _BAD for outcome in report.outcomes):
        raise typer.Exit(4)


def schedule(
    cron: Times = "0 3 * * *",
    zone: Annotated[str, typer.Option(metavar="ZONE", help="Time zone of --cron.")] = "UTC",
    user: Users = None,
    tenant: Group = None,
    budget: Budget = None,
    limit: Most = None,
    keep: Keep = 5,
    always: Always = False,
    idle_days: Idle = 60.0,
    executor: ExecutorName = "local",
    workers: Workers = 1,
    compiler: Compiler = "auto",
    ratio: Ratio = None,
    option: Options = None,
    embedder: EmbedderName = None,
    home: Home = None,
    model: Model = "nano",
) -> None:
    """Keep running, and recompile at given times until interrupted."""
    from memkit.recompile.schedule import repeat
    from memkit.recompile.worker import open_memory

    output = Output()
    scope = _scope(None, budget, limit, False, keep, always, idle_days)
    options = compiler_options(option, ratio)
    config = load_config(home, model, compiler=compiler, options=options, embedder=embedder)

    def run() -> None:
        with open_memory(config) as memory:
            chosen = replace(scope, users=_owners(memory, user, tenant))
            _show_report(output, _carry_out(output, memory, config, chosen, executor, workers))

    repeat(run, cron, zone, output.note)


def cron(
    format: Annotated[
        str, typer.Option(metavar="FORMAT", help="crontab, systemd or kubernetes.")
    ] = "crontab",
    cron: Times = "0 3 * * *",
    argument: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- ARGUMENTS]", help="Arguments of memkit recompile.", show_default=False),
    ] = None,
    image: Annotated[
        str, typer.Option(metavar="IMAGE", help="Container image for kubernetes.")
    ] = "memkit:latest",
    home: Home = None,
) -> None:
    """Print a file for the system's scheduler that calls `memkit recompile`."""
    from memkit.recompile.cron import Job, render

    job = Job(cron, str(load_config(home).home.absolute()), tuple(argument or ()), image=image)
    print(render(job, format), end="")


def _carry_out(
    output: Output, memory: Memory, config: Config, scope: Scope, name: str, workers: int
) -> Report:
    """Plan and run, with progress on standard error."""
    from memkit.bank.owners import Owner
    from memkit.recompile.executors import create_executor
    from memkit.recompile.run import expire_and_plan, recompile

    done = list[Any]()
    with showing(output) as report:

        def compiling(task: Task) -> Progress:
            label = f"{Owner.of(task.user).words}: {task.title or task.memory_id}"
            return lambda step: report(
                label, f"{step.phase} {state_of(step)}".rstrip(), step.step, step.steps
            )

        chosen = create_executor(name, config, memory, workers, compiling)
        report("plan", "looking for what changed", 0, 0)
        planned, expired = expire_and_plan(memory, scope, datetime.now(UTC))

        def outcome(each: Outcome) -> None:
            done.append(each)
            report(
                "recompile", f"{each.status} {each.title or each.memory_id}", len(done), len(planned.tasks)
            )

        try:
            return replace(recompile(planned, scope, chosen, outcome), expired=expired)
        except KeyboardInterrupt:
            raise InterruptError(
                f"interrupted after {len(done)} of {len(planned.tasks)}; what was compiled is published, and "
                "the next run goes on"
            ) from None


def _show_plan(output: Output, plan: Plan) -> None:
    def show() -> None:
        columns = ("tenant", "user", "id", "title", "why", "tokens", "seconds", "FLOPs", "bytes")
        rows: list[tuple[Any, ...]] = [
            (*users_option(t.user), t.memory_id, t.title, t.reason, t.tokens, t.seconds, t.flops, t.nbytes)
            for t in plan.tasks
        ]
        rows.append(("all", "", len(plan.tasks), "", "", "", plan.seconds, plan.flops, plan.nbytes))
        output.table(columns, rows)
        _show_skipped(output, plan.skipped, plan.unchanged)

    output.result({**vars(plan), "tasks": _owned(plan.tasks), "skipped": _owned(plan.skipped)}, show)


def _show_report(output: Output, report: Report) -> None:
    from memkit.bank.owners import Owner

    def show() -> None:
        columns = ("tenant", "user", "id", "title", "outcome", "version", "seconds", "bytes", "reason")
        output.table(
            columns,
            [
                (
                    *users_option(o.user),
                    o.memory_id,
                    o.title,
                    o.status,
                    o.version or None,
                    o.seconds,
                    o.nbytes,
                    o.reason,
                )
                for o in report.outcomes
            ],
        )
        for user, receipts in report.expired.items():
            output.say(f"forgotten for its age: of {Owner.of(user).words}, in {len(receipts)} memories")
        _show_skipped(output, report.skipped, report.unchanged)
        counts = Counter(outcome.status for outcome in report.outcomes)
        words = ", ".join(f"{count} {status}" for status, count in counts.items()) or "nothing was due"
        output.say(f"{words}; {report.seconds:.0f} s")

    expired = [{**owner_document(name), "receipts": each} for name, each in report.expired.items()]
    rows = {"outcomes": _owned(report.outcomes), "skipped": _owned(report.skipped), "expired": expired}
    output.result({**vars(report), **rows}, show)


def _owned(rows: Iterable[Task | Outcome | Skipped]) -> list[dict[str, Any]]:
    """Rows for JSON, with their tenants and users apart."""
    return [{**vars(row), **owner_document(row.user)} for row in rows]


def _show_skipped(output: Output, skipped: Any, unchanged: int) -> None:
    from memkit.bank.owners import Owner

    for each in skipped:
        whom = Owner.of(each.user).words
        output.say(f"left as it is: {each.memory_id} {each.title} of {whom}: {each.reason}")
    output.say(f"unchanged: {unchanged}")


def _owners(memory: Memory, users: list[str] | None, tenant: str | None) -> tuple[str, ...] | None:
    """The owners that the options name, by their names in the bank; None: all."""
    from memkit.bank.owners import Owner

    if users:
        return tuple(owner_option(user, tenant).name for user in users)
    if tenant is None:
        return None
    names = [name for name in memory.bank.tenants() if Owner.of(name).tenant == tenant]
    if not names:
        raise NotFoundError(f"{Owner(tenant=tenant).words} has no memories")
    return tuple(names)


def _scope(
    since: str | None,
    budget: str | None,
    limit: int | None,
    retry: bool,
    keep: int,
    always: bool,
    idle_days: float,
) -> Scope:
    from memkit.recompile.advice import AdvisorConfig
    from memkit.recompile.plan import Scope

    try:
        return Scope(
            since=None if since is None else then(since, datetime.now(UTC)),
            limit=limit,
            budget=None if budget is None else duration(budget).total_seconds(),
            retry=retry,
            keep=keep,
            advisor=AdvisorConfig(enabled=not always, idle_days=idle_days),
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


def duration(text: str) -> timedelta:
    """A duration such as ``90s``, ``30m``, ``2h``, ``1h30m`` or ``7d``. Raises `ConfigError` for others."""
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ConfigError(f"a time is a number with s, m, h or d, as in 90s or 1h30m; got {text!r}")
    try:
        return timedelta(seconds=sum(float(number) * _UNITS[unit] for number, unit in parts))
    except OverflowError:
        raise ConfigError(f"{text!r:.40} is longer than a duration can be; give a shorter one") from None


def then(text: str, now: datetime) -> datetime:
    """A time as `memkit.text.dates.parse_time` reads it, or a time ago, as in 2d."""
    if re.fullmatch(r"[\d.smhd]+", text) and not text.isdigit():
        try:
            return now - duration(text)
        except OverflowError:
            raise ConfigError(f"{text} ago is before the first year; give a shorter time") from None
    return parse_time(text)
