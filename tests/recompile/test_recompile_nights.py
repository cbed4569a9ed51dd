"""Nights in which something goes wrong, or is forgotten, meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from memkit.bank import MemoryInfo, Message
from memkit.bank import leases as leases_module
from memkit.compilers.base import Step
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import BankBusyError
from memkit.memory import Memory
from memkit.pipeline import admission, compile
from memkit.pipeline.admission import AdmissionConfig
from memkit.pipeline.context import Context
from memkit.recompile.advice import AdvisorConfig
from memkit.recompile.executors import InProcess
from memkit.recompile.plan import Scope, Task, plan
from memkit.recompile.run import Report, recompile
from memkit.recompile.worker import run_task
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


@pytest.mark.parametrize("error", [RuntimeError("of a library"), ValueError("numpy's"), MemoryError()])
def test_one_unexpected_error_ends_no_night(
    memory: Memory, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    infos = [add(memory, user, f"{TEXT} {user} has a dog.") for user in ("mira", "jalo", "bo")]
    real = compile.publish

    def make(mine: Context, info: MemoryInfo, progress: Any) -> Any:
        if info.id == infos[1].id:
            raise error
        return real(mine, info, progress)

    monkeypatch.setattr(compile, "publish", make)
    outcomes = {outcome.memory_id: outcome for outcome in run(memory).outcomes}
    assert [outcomes[info.id].status for info in infos] == ["compiled", "failed", "compiled"]
    assert type(error).__name__ in outcomes[infos[1].id].reason
    failed = memory.bank.get("jalo", infos[1].id)
    assert (failed.status, type(error).__name__ in str(failed.error)) == ("failed", True)
    monkeypatch.setattr(compile, "publish", real)
    assert statuses(run(memory)) == ["compiled"]  # the next night tries it again


def test_a_lease_is_renewed_while_an_artifact_is_tested(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases_module, "LENGTH", timedelta(seconds=0.4))
    info, real, taken = add(memory, "mira"), admission.SelfTest.measure, list[str]()

    def slowly(self: Any, handle: Any) -> Any:
        time.sleep(1.0)  # longer than a lease
        with pytest.raises(BankBusyError):
            memory.bank.leases.take("mira", info.id)
        taken.append("held")
        return real(self, handle)

    monkeypatch.setattr(admission.SelfTest, "measure", slowly)
    assert memory.for_user("mira").compile(info.id).version == 1
    assert taken == ["held"]


def test_what_is_forgotten_while_it_is_compiled_is_said_to_be(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases_module, "LENGTH", timedelta(seconds=0))
    mine = memory.for_user("mira")
    info = mine.remember([Message(TEXT)], memory="profile")
    task = Task("mira", info.id, "", "", 0, None, None, None, "lcc")

    def forget(step: Step) -> None:
        if mine.list_memories():
            mine.bank.forget("mira", info.id)

    assert run_task(memory, task, 5, None, forget).status == "forgotten"
