"""The nightly recompilation: what is due, what is left, and that nothing is done twice or lost."""

from __future__ import annotations

import logging
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from memkit.bank import MemoryInfo, Message
from memkit.bank import leases as leases_module
from memkit.compilers.base import Estimate, Step
from memkit.compilers.distillation import checkpoint
from memkit.config import Config
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import BankBusyError, CompileError, ConfigError, MissingExtraError, NotFoundError
from memkit.memory import Memory
from memkit.pipeline import admission, compile_job
from memkit.pipeline.admission import AdmissionConfig
from memkit.recompile import run as run_module
from memkit.recompile.advice import AdvisorConfig, advise, tabular
from memkit.recompile.executors import InProcess, create_executor
from memkit.recompile.plan import Plan, Scope, Task, plan
from memkit.recompile.run import Report, recompile
from memkit.recompile.worker import Outcome, run_task
from memkit.testing import TEXT, TINY_LCC

ALWAYS = AdvisorConfig(enabled=False)
NOW = datetime.now(UTC)


@pytest.fixture
def memory(tmp_path: Path, engine: TransformersEngine) -> Iterator[Memory]:
    few = AdmissionConfig(questions=4, pieces=1)
    with Memory(tmp_path / "bank", engine=engine, **TINY_LCC, admission=few) as made:
        yield made


def add(memory: Memory, user: str, text: str = TEXT) -> MemoryInfo:
    return memory.of(user).remember(text, compile=False)


def run(memory: Memory, **scope: Any) -> Report:
    chosen = Scope(**{"advisor": ALWAYS, **scope})
    return recompile(plan(memory, chosen), chosen, InProcess(memory))


def statuses(report: Report) -> list[str]:
    return [outcome.status for outcome in report.outcomes]


def test_what_changed_is_compiled_once_for_all_users(memory: Memory) -> None:
    infos = {user: add(memory, user) for user in ("mira", "jalo")}
    assert statuses(run(memory)) == ["compiled", "compiled"]
    for user, info in infos.items():
        assert memory.bank.get(user, info.id).version == 1
    again = run(memory)
    assert (again.outcomes, again.unchanged) == ((), 2)
    memory.for_user("mira").remember("Mira lives in Lima.", memory="profile")
    assert statuses(run(memory)) == ["compiled"]
    memory.for_user("mira").remember("Mira moved to Oslo.", memory="profile")
    (due,) = plan(memory, Scope(advisor=ALWAYS)).tasks
    assert (due.user, due.reason) == ("mira", "1 new entry")
    (outcome,) = run(memory).outcomes
    assert outcome.version == 2
    assert len(memory.bank.versions.history("mira", outcome.memory_id)) == 2  # the old one stays


def test_only_the_users_that_are_named(memory: Memory) -> None:
    for user in ("mira", "jalo"):
        add(memory, user)
    assert [o.user for o in run(memory, users=("jalo",)).outcomes] == ["jalo"]
    with pytest.raises(NotFoundError, match="nobody"):
        plan(memory, Scope(users=("nobody",)))


def test_a_plan_changes_nothing_and_tells_what_it_costs(memory: Memory) -> None:
    add(memory, "mira")
    made = plan(memory, Scope(advisor=ALWAYS))
    (task,) = made.tasks
    assert task.reason == "not compiled yet"
    assert task.seconds
    assert task.flops
    assert task.nbytes
    assert (made.seconds, made.flops, made.nbytes) == (task.seconds, task.flops, task.nbytes)
    assert memory.bank.list("mira")[0].version == 0
    (outcome,) = run(memory).outcomes
    assert outcome.flops / 3 < (task.flops or 0) < outcome.flops * 3
    memory.for_user("mira").remember("Jalo works at Brimtek.", memory="profile")
    (next_,) = plan(memory, Scope(advisor=ALWAYS)).tasks  # now from experience
    assert next_.seconds == pytest.approx((next_.flops or 0) / (outcome.flops / outcome.seconds), rel=0.01)


def test_since_limit_and_order(memory: Memory) -> None:
    old, new = add(memory, "mira"), add(memory, "mira", "Jalo works at Brimtek.")
    ids = [t.memory_id for t in plan(memory, Scope(advisor=ALWAYS)).tasks]
    assert ids == [old.id, new.id]  # the longest waiting first
    memory.bank.count_asked("mira", {new.id: 3})
    assert [t.memory_id for t in plan(memory, Scope(advisor=ALWAYS)).tasks] == [new.id, old.id]
    report = run(memory, limit=1)
    assert [o.memory_id for o in report.outcomes] == [new.id]
    assert [(s.memory_id, s.reason) for s in report.skipped] == [(old.id, "the limit of 1 is reached")]
    assert not plan(memory, Scope(advisor=ALWAYS, since=NOW + timedelta(days=1))).tasks
    assert plan(memory, Scope(advisor=ALWAYS, since=NOW - timedelta(days=1))).tasks


def test_pinned_memories_are_left_alone_and_other_models_and_compilers_are_not(memory: Memory) -> None:
    info = add(memory, "mira")
    run(memory)
    other = Memory(memory.bank, engine=memory.engine, compiler="lora")
    assert [t.reason for t in plan(other, Scope(advisor=ALWAYS)).tasks] == ["compiled by lcc"]
    memory.bank.versions.pin("mira", info.id)
    assert not plan(other, Scope(advisor=ALWAYS)).tasks


def test_a_new_model_makes_artifacts_due(memory: Memory, other_model_folder: Path, tmp_path: Path) -> None:
    add(memory, "mira")
    run(memory)
    with Memory(tmp_path / "bank", str(other_model_folder), **TINY_LCC) as other:
        assert other.for_user("mira").ask("Where does Mira live?").route == "text"  # meanwhile
        assert [t.reason for t in plan(other, Scope(advisor=ALWAYS)).tasks] == ["compiled for another model"]
        assert statuses(run(other)) == ["compiled"]
        assert other.for_user("mira").ask("Where does Mira live?").route == "latent"


def test_old_versions_are_pruned(memory: Memory) -> None:
    for number in range(4):
        memory.for_user("mira").remember(f"Mira has {number} dogs.", memory="profile")
        run(memory, keep=2)
    (info,) = memory.bank.list("mira")
    assert [v.version for v in memory.bank.versions.history("mira", info.id)] == [3, 4]


def test_a_refused_artifact_changes_nothing_and_is_not_tried_again(
    memory: Memory, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    mine = memory.for_user("mira")
    mine.remember("Mira lives in Lima.", memory="profile")
    run(memory)
    mine.remember("Mira moved to Oslo.", memory="profile")
    strict = admission.Thresholds(1.0, -9.0, -9.0, "a test")
    monkeypatch.setattr(admission, "thresholds", lambda fingerprint, compiler: strict)
    with caplog.at_level(logging.INFO, logger="memkit.recompile"):
        (outcome,) = run(memory).outcomes
    assert outcome.status == "refused"
    assert "not published" in outcome.reason
    assert outcome.memory_id in caplog.text
    assert "Oslo" not in caplog.text  # logs hold no content
    info = memory.bank.get("mira", outcome.memory_id)
    assert (info.version, info.status, info.behind) == (1, "compiled", 1)
    report = run(memory)
    assert not report.outcomes
    assert "failed before and is the same" in report.skipped[0].reason
    monkeypatch.undo()
    assert statuses(run(memory, retry=True)) == ["compiled"]
    mine.remember("Mira has a cat.", memory="profile")  # something new is tried
    assert statuses(run(memory)) == ["compiled"]


def test_a_budget_ends_in_the_middle_and_the_next_run_goes_on(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SAVE_INTERVAL", 0.0)
    add(memory, "mira"), add(memory, "mira", "Jalo works at Brimtek.")
    steps = list[tuple[str, int]]()

    def look(task: Task) -> Callable[[Step], None]:
        def seen(done: Step) -> None:
            if done.phase not in ("questions", "answers"):
                steps.append((done.phase, done.step))

        return seen

    clock = count()  # a second passes whenever somebody looks
    ticking = SimpleNamespace(time=clock.__next__, monotonic=time.monotonic)
    for module in (run_module, compile_job):
        monkeypatch.setattr(module, "time", ticking)
    scope = Scope(advisor=ALWAYS, budget=7.5)  # three seconds of them for the study set
    report = recompile(plan(memory, scope), scope, InProcess(memory, look))
    assert statuses(report) == ["unfinished", "left"]
    assert not any(info.version or info.error for info in memory.bank.list("mira"))
    assert steps == [("lora", 1), ("lora", 2), ("kv", 1)]
    steps.clear()
    scope = Scope(advisor=ALWAYS)
    assert statuses(recompile(plan(memory, scope), scope, InProcess(memory, look))) == [
        "compiled",
        "compiled",
    ]
    assert steps[0] == ("kv", 1)  # where it was, not from the start


def test_two_never_compile_the_same_memory(memory: Memory) -> None:
    info = add(memory, "mira")
    with memory.bank.leases.take("mira", info.id):
        (outcome,) = run(memory).outcomes
        assert outcome.status == "busy"
        with pytest.raises(BankBusyError, match="being compiled"):
            memory.for_user("mira").compile(info.id)
        assert memory.bank.get("mira", info.id).error is None
        memory.bank.leases.take("jalo", add(memory, "jalo").id)  # another tenant's, the same text
    assert statuses(run(memory, users=("mira",))) == ["compiled"]


def test_a_lease_ends_with_its_process_and_is_renewed_meanwhile(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = add(memory, "mira")
    monkeypatch.setattr(leases_module, "LENGTH", timedelta(seconds=0.2))
    lease = memory.bank.leases.take("mira", info.id)  # and never ended
    for _ in range(3):
        time.sleep(0.1)
        lease.renew()
    with pytest.raises(BankBusyError):
        memory.bank.leases.take("mira", info.id)
    time.sleep(0.25)
    with memory.bank.leases.take("mira", info.id), pytest.raises(BankBusyError, match="took this"):
        lease.renew()
    with pytest.raises(NotFoundError):
        memory.bank.leases.take("mira", "0" * 16)


def test_a_killed_process_of_this_machine_holds_no_lease(memory: Memory, tmp_path: Path) -> None:
    info = add(memory, "mira")
    code = (
        "import os, signal, sys; from memkit.bank import Bank; "
        "Bank(sys.argv[1]).leases.take('mira', sys.argv[2]); os.kill(os.getpid(), signal.SIGKILL)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "bank"), info.id]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    with memory.bank.leases.take("mira", info.id), pytest.raises(BankBusyError):
        memory.bank.leases.take("mira", info.id)  # of a process that lives


def test_forgotten_meanwhile_and_failed(memory: Memory) -> None:
    info = add(memory, "mira")
    (task,) = plan(memory, Scope(advisor=ALWAYS)).tasks
    memory.bank.forget("mira", info.id)
    assert run_task(memory, task, 5, None).status == "forgotten"
    long = add(memory, "mira", "Mira lives in Keldor. " * 2000)  # far more than the tiny model's window
    (outcome,) = run(memory).outcomes
    assert (outcome.status, outcome.memory_id) == ("failed", long.id)
    assert "too many to compile" in outcome.reason


def test_the_advisor_leaves_short_tabular_and_seldom_asked_memories(memory: Memory) -> None:
    base = memory.local.base
    short = add(memory, "mira", "Short.")
    table = add(memory, "mira", "name, age, town\nMira, 31, Lima\nJalo, 40, Oslo\nTovin, 3, Keldor\n" * 3)
    prose = add(memory, "mira", TEXT * 2)
    made = plan(memory, Scope())
    reasons = {s.memory_id: s.reason for s in made.skipped}
    assert reasons[short.id].startswith("short")
    assert reasons[table.id].startswith("tabular")
    assert [t.memory_id for t in made.tasks] == [prose.id]
    later = plan(memory, Scope(), now=NOW + timedelta(days=90))
    assert "not once in 60 days" in {s.memory_id: s.reason for s in later.skipped}[prose.id]
    seldom = Scope(advisor=AdvisorConfig(min_questions=2))
    assert not plan(memory, seldom).tasks
    memory.bank.count_asked("mira", {prose.id: 2})
    assert plan(memory, seldom).tasks
    info = memory.bank.get("mira", prose.id)
    tokens = len(base.tokenizer.encode(TEXT * 2, add_special_tokens=False))
    found = advise(info, TEXT * 2, tokens, base, Estimate(1e9, 1e4), AdvisorConfig(), NOW)
    assert found.break_even == pytest.approx(1e9 / (found.text_flops - found.latent_flops))
    assert advise(info, "a", 1, base, None, ALWAYS, NOW).break_even is None


def test_tables_are_told_from_prose() -> None:
    assert tabular("a | b | c\n1 | 2 | 3\n") == 1.0
    assert tabular(TEXT) == 0.0
    assert tabular("Mira, who lives in Lima, has a dog, a cat, and a very old parrot.") == 0.0
    assert tabular("") == 0.0


def test_questions_are_counted_by_tenant(memory: Memory) -> None:
    mine, theirs = add(memory, "mira"), add(memory, "jalo")
    memory.for_user("mira").ask("Where does Mira live?")
    memory.close()
    assert memory.bank.get("mira", mine.id).asked == 1
    assert memory.bank.get("mira", mine.id).last_asked is not None
    assert memory.bank.get("jalo", theirs.id).asked == 0
    memory.bank.count_asked("jalo", {mine.id: 5, "0" * 16: 1})
    assert memory.bank.get("mira", mine.id).asked == 1


@pytest.mark.parametrize(
    "bad",
    [{"limit": 0}, {"budget": 0.0}, {"budget": float("nan")}, {"keep": 0}],
)
def test_bad_scopes_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Scope(**bad)


@pytest.mark.parametrize("bad", [{"min_tokens": -1}, {"idle_days": 0.0}, {"max_tabular": 2.0}])
def test_bad_advisors_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        AdvisorConfig(**bad)


def test_unknown_executors_are_refused(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Config(Path("bank"))
    with pytest.raises(ConfigError, match="executor must be"):
        create_executor("magic", settings, memory)
    with pytest.raises(ConfigError, match="workers"):
        create_executor("local", settings, memory, 0)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"memkit-llm\[ray\]"):
        create_executor("ray", settings, memory)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["local", "ray"])
def test_several_workers_do_what_one_does(
    name: str, memory: Memory, tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real processes, and a real Ray, each with a model of its own."""
    monkeypatch.setenv("RAY_worker_niceness", "0")  # Ray's workers are polite, and tests wait for them
    for number in range(3):
        add(memory, f"user {number}", f"{TEXT} Her cat is called Bo{number}.")
    settings = Config(tmp_path / "bank", str(tiny_model_folder), **TINY_LCC)
    scope = Scope(advisor=ALWAYS)
    planned: Plan = plan(memory, scope)
    seen = list[Outcome]()
    report = recompile(planned, scope, create_executor(name, settings, memory, 2), seen.append)
    assert statuses(report) == ["compiled"] * 3
    assert sorted(o.user for o in seen) == [f"user {n}" for n in range(3)]
    ids = {o.user: memory.bank.get(o.user, o.memory_id).artifact_id for o in report.outcomes}
    for user, artifact_id in ids.items():  # the bytes that one process makes
        (info,) = memory.bank.list(user)
        memory.bank.publish(user, info.id, memory.for_user(user).compile_with_cost(info.id)[1].data)
        with memory.bank.artifact(user, info.id, 1) as first:
            assert first.id == artifact_id


@pytest.mark.slow
def test_a_worker_that_is_killed_is_an_error_and_loses_nothing(
    memory: Memory, tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(memory, "mira")
    settings = Config(tmp_path / "bank", str(tiny_model_folder), **TINY_LCC)
    scope = Scope(advisor=ALWAYS)
    monkeypatch.setattr("memkit.recompile.executors.run_task_in_worker", _die)
    with pytest.raises(CompileError, match="worker process was killed"):
        recompile(plan(memory, scope), scope, create_executor("local", settings, memory, 2))
    assert statuses(run(memory)) == ["compiled"]


def _die(*_: object) -> Outcome:
    import os
    import signal

    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def test_entries_said_keep_their_dates_in_what_is_planned(memory: Memory) -> None:
    memory.for_user("mira").remember(
        [Message("Mira lives in Lima.", when=datetime(2026, 1, 2, tzinfo=UTC))], memory="log"
    )
    assert not plan(memory, Scope(advisor=ALWAYS, since=datetime(2100, 1, 1, tzinfo=UTC))).tasks
