"""A bank's one queue of compilations: whatever happens to one, the others are done."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import EngineError, MemkitError
from memkit.memory import Memory
from memkit.models.loading import LoadedModel
from memkit.pipeline import compile
from memkit.pipeline.admission import AdmissionConfig
from memkit.pipeline.compile_queue import Job
from memkit.pipeline.context import Context
from memkit.testing import TEXT, TINY_LCC

TEXTS = [f"{TEXT} And {name} lives in Tarv." for name in ("Bo", "Cy", "Dee", "Ed", "Flo", "Gus")]

FEW = AdmissionConfig(questions=4, pieces=1)


@pytest.fixture
def engine(tiny: LoadedModel) -> TransformersEngine:
    return TransformersEngine(tiny)


@pytest.fixture
def memory(tmp_path: Path, engine: TransformersEngine) -> Iterator[Memory]:
    with Memory(tmp_path / "bank", engine=engine, **TINY_LCC, admission=FEW) as made:
        yield made


class Panic(BaseException):
    """As libraries in Rust raise it."""


@pytest.mark.parametrize("error", [Panic(), SystemExit(1), KeyboardInterrupt()])
def test_nothing_ends_the_worker(memory: Memory, error: BaseException) -> None:
    ran = list[str]()

    def work(job: Job) -> None:
        ran.append(job.id)
        raise error

    memory.queue._compile = work
    for text in TEXTS[:2]:
        memory.remember(text)
    memory.queue.wait()
    assert len(ran) == 2


@pytest.mark.parametrize("error", [OSError("full"), ValueError("odd"), MemkitError("ours")])
def test_a_catalog_that_cannot_be_told_ends_no_worker(
    memory: Memory, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def done(owner: str, memory_id: str) -> None:
        raise error

    monkeypatch.setattr(memory.bank.pending, "done", done)
    infos = [memory.remember(text) for text in TEXTS[:2]]
    memory.queue.wait()
    assert [memory.get(info.id).status for info in infos] == ["compiled", "compiled"]


def test_what_must_be_compiled_must_be_after_a_restart(tmp_path: Path, engine: TransformersEngine) -> None:
    with Memory(tmp_path / "bank", engine=engine, **TINY_LCC, admission=FEW) as first:
        first.queue.stop(at_once=True)  # nothing is begun any more
        short = first.remember("Simsem lives in Lasces.", always=True)
        assert first.bank.pending.all() == [("default", short.id, True)]
    with Memory(tmp_path / "bank", engine=engine, **TINY_LCC, admission=FEW) as second:
        second.wait()
        assert second.get(short.id).status == "compiled"


@pytest.mark.parametrize("error", [RuntimeError("a library's"), EngineError("ours"), MemoryError()])
def test_one_failure_ends_no_other_compilation(
    memory: Memory, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    make, made = compile.publish, list[str]()

    def sometimes(mine: Context, info: Any, progress: Any) -> Any:
        made.append(info.id)
        if len(made) == 1:
            raise error
        return make(mine, info, progress)

    monkeypatch.setattr(compile, "publish", sometimes)
    infos = [memory.remember(text) for text in TEXTS[:3]]
    memory.wait()
    assert made == [info.id for info in infos]
    assert [memory.get(info.id).status for info in infos] == ["failed", "compiled", "compiled"]
    assert memory.get(infos[0].id).error
    assert memory.bank.pending.all() == []


def test_many_users_share_one_worker(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    make, at_once, most = compile.publish, list[int](), list[int]()

    def counted(mine: Context, info: Any, progress: Any) -> Any:
        at_once.append(1)
        most.append(len(at_once))
        try:
            return make(mine, info, progress)
        finally:
            at_once.pop()

    monkeypatch.setattr(compile, "publish", counted)
    before = threading.active_count()
    users = [memory.for_user(f"user {number}") for number in range(12)]
    for user in users:
        user.remember(TEXT)
    assert threading.active_count() <= before + 2  # the worker, and its lease's heartbeat
    memory.wait()  # the root's: it knows them all
    assert max(most) == 1
    assert [user.list_memories()[0].status for user in users] == ["compiled"] * 12


def test_what_waits_is_taken_up_again(tmp_path: Path, engine: TransformersEngine) -> None:
    with Memory(tmp_path / "bank", engine=engine, **TINY_LCC, admission=FEW) as first:
        started, go_on = threading.Event(), threading.Event()
        compile_job = first.queue._compile

        def slowly(job: Any) -> None:
            started.set()
            go_on.wait(10)
            compile_job(job)

        first.queue._compile = slowly
        ids = [first.for_user("mira").remember(text).id for text in TEXTS[:3]]
        assert started.wait(10)
        threading.Timer(0.2, go_on.set).start()
    with Memory(tmp_path / "bank", engine=engine, **TINY_LCC, admission=FEW) as second:
        mira = second.for_user("mira")
        assert [mira.get(id).status for id in ids] == ["compiled", "text", "text"]
        assert second.bank.pending.all() == [("mira", ids[1], False), ("mira", ids[2], False)]
        second.wait()
        assert [mira.get(id).status for id in ids] == ["compiled"] * 3
        assert second.bank.pending.all() == []


def test_what_is_forgotten_waits_no_longer(memory: Memory) -> None:
    go_on = threading.Event()
    compile_job = memory.queue._compile

    def slowly(job: Any) -> None:
        go_on.wait(10)
        compile_job(job)

    memory.queue._compile = slowly
    ids = [memory.remember(text).id for text in TEXTS[:3]]
    memory.forget(ids[1])
    memory.for_user("nobody").forget_all()
    go_on.set()
    memory.wait()
    assert [info.id for info in memory.list_memories()] == [ids[0], ids[2]]
    assert {info.status for info in memory.list_memories()} == {"compiled"}


def test_the_advice_decides_in_the_background_too(memory: Memory) -> None:
    short = memory.remember("Simsem lives in Lasces.")
    memory.wait()
    assert memory.get(short.id).status == "text"
    assert memory.objection(short.id).startswith("short: ")
    assert memory.remember("Simsem lives in Lasces.", wait=True).status == "text"
    assert memory.remember("Simsem lives in Lasces.", wait=True, always=True).status == "compiled"
    assert memory.compile(memory.remember("Bo lives in Rome.", compile=False).id).status == "compiled"
