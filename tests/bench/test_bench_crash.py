"""The bench that kills writers: it finds nothing in the bank, and finds what a worse bank loses."""

from __future__ import annotations

import random
from typing import Any

import pytest

from memkit.bank import Bank
from memkit.bench import crash
from memkit.bench.crash import CrashConfig, Operation, State, outcomes_after


def row(kills: int, seed: int = 0) -> dict[str, Any]:
    (found,) = crash.crash(CrashConfig(kills, seed))["rows"]
    return dict(found)


def test_kills_lose_damage_and_leave_nothing() -> None:
    found = row(30)
    assert (found["kills"], found["lost"], found["corrupt"], found["orphans"]) == (30, 0, 0, 0), found[
        "notes"
    ]
    assert found["acknowledged"] > 5


def test_writes_that_are_acknowledged_but_not_made_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    do = crash._do

    def forgetful(bank: Bank, operation: Operation) -> None:
        if operation[0] != "remember":
            do(bank, operation)

    monkeypatch.setattr(crash, "_do", forgetful)
    assert row(6)["lost"] > 0


def test_artifacts_that_go_bad_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    do = crash._do

    def careless(bank: Bank, operation: Operation) -> None:
        do(bank, operation)
        for file in bank.path.glob("artifacts/*/*.mka"):
            file.write_bytes(file.read_bytes()[:-1])

    monkeypatch.setattr(crash, "_do", careless)
    assert row(12)["corrupt"] > 0


def test_files_that_nobody_needs_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bank, "repair", lambda self: [])
    monkeypatch.setattr(Bank, "_discard", lambda self, tenant, ids: None)
    assert row(20)["orphans"] > 0


def test_the_world_after_an_operation() -> None:
    world = {"alice": State({"a": []}, ["x", "y"])}
    assert outcomes_after(world, ("publish", "alice", "a", "1"))["alice"].documents == {"a": ["1"]}
    assert outcomes_after(world, ("erase", "alice", "x"))["alice"].entries == ["y"]
    assert outcomes_after(world, ("forget", "alice", "a"))["alice"].documents == {}
    assert outcomes_after(world, ("repair", "alice")) == world
    rng = random.Random(0)
    full = {t: State({f"t{n}": [] for n in range(9)}, [f"e{n}" for n in range(9)]) for t in crash.TENANTS}
    kinds = {crash._choose(full, rng)[0] for _ in range(200)}
    assert kinds == {"publish", "compile", "recompile", "forget", "erase", "repair"}


def test_kills_must_be_some() -> None:
    with pytest.raises(ValueError, match="kills"):
        CrashConfig(0)
