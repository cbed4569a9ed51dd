"""Memories that are kept ready, and the queue of compilations."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import NotFoundError
from memkit.memory import Memory
from memkit.models.loading import LoadedModel
from memkit.pipeline import compile_job
from memkit.pipeline.compile_job import try_compile
from memkit.pipeline.context import Context
from memkit.server.jobs import Jobs
from memkit.server.memory_pool import MemoryPool
from memkit.testing import TEXT, TINY_LCC


@pytest.fixture
def engine(tiny: LoadedModel) -> TransformersEngine:
    """One of its own: what other tests left attached would look like ours."""
    return TransformersEngine(tiny)


@pytest.fixture
def root(tmp_path: Path, engine: TransformersEngine) -> Iterator[Memory]:
    with Memory(tmp_path / "bank", engine=engine, **TINY_LCC) as made:
        yield made


def test_who_is_pushed_out_is_there_again(root: Memory) -> None:
    pool = MemoryPool(root, 1)
    with pool.of("acme/mira") as mira:
        mira.remember(TEXT, wait=True)
        assert mira.ask("Where does Mira live?", max_tokens=2).route == "latent"
        with pool.of("acme/jalo") as jalo:
            assert jalo.list_memories() == []
        assert len(pool) == 1
        assert mira.ask("Where does Mira live?", max_tokens=2).route == "latent"
    with pool.of("acme/mira") as mira:
        assert mira.ask("Where does Mira live?", max_tokens=2).route == "latent"


def test_tenants_take_turns(root: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    started, go_on, order = threading.Event(), threading.Event(), list[str]()

    def slowly(context: Context, memory_id: str, **rest: Any) -> Any:
        order.append(context.owner)
        started.set()
        go_on.wait(10)
        return try_compile(context, memory_id, **rest)

    monkeypatch.setattr(compile_job, "try_compile", slowly)
    jobs = Jobs(root, most=2)
    first = jobs.compile("a", "0" * 16, always=True)
    started.wait(10)
    waiting = [jobs.compile("a", f"{n:016x}", always=True) for n in (1, 2, 3)]
    assert waiting[2] is None  # the queue of this tenant is full
    assert jobs.compile("a", f"{1:016x}") is waiting[0]  # it waits already
    jobs.compile("b/mira", "1" * 16, always=True)
    jobs.forgotten("a", f"{2:016x}")
    go_on.set()
    while jobs.busy:
        time.sleep(0.01)
    assert order == ["a", "a", "b/mira"] or order == ["a", "b/mira", "a"]
    assert {job.state for job in jobs.list("a")} == {"done", "stopped"}
    assert first is not None
    assert first.outcomes[0].status == "forgotten"  # there is no such memory
    assert [job.now or job.outcomes[0].user for job in jobs.list("b/")] == ["mira"]
    jobs.stop()
    assert jobs.compile("a", "4" * 16) is None


def test_one_memory_may_be_left_to_choose(root: Memory) -> None:
    root.remember(TEXT, compile=False)
    bees = root.remember("Mira keeps bees in Tarv.", compile=False)
    answer = root.ask("Where does Mira live?", max_tokens=2, within=bees.id)
    assert [each.memory_id for each in answer.trace.candidates] == [bees.id]
    with pytest.raises(NotFoundError):
        root.ask("Where does Mira live?", within="0" * 16)


def test_a_temperature_near_zero_takes_the_likeliest(root: Memory) -> None:
    cold = [root.ask("Hello?", max_tokens=4, temperature=t).text for t in (0.0, 1e-49, 1e-5)]
    assert len(set(cold)) == 1
