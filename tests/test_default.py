"""The memories behind `memkit.remember` and `memkit.ask`: one bank, however many users there are."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

import memkit
from memkit import _default


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEMKIT_HOME", str(tmp_path / "bank"))
    return tmp_path / "bank"


def opened() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="only Linux tells")
def test_many_users_open_one_bank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_default, "memory", _default._Default().memory)
    memkit.remember([{"role": "user", "content": "I live in Lima."}], user="first")
    threads, files = threading.active_count(), opened()
    for number in range(100):
        memkit.remember([{"role": "user", "content": f"I have {number} dogs."}], user=f"user {number}")
    assert threading.active_count() == threads
    assert opened() <= files + 2
    assert len(memkit.forget_all(user="user 7")) == 1


def test_another_bank_closes_the_one_before(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    default = _default._Default()
    first = default.memory("mira")
    assert default.memory("mira").bank is first.bank
    first.remember("Mira lives in Lima.", compile=False)
    monkeypatch.setenv("MEMKIT_HOME", str(tmp_path / "other"))
    second = default.memory("mira")
    assert second.list_memories() == []
    assert vars(first.bank._catalog)["_engine"] is None  # closed
    assert [info.title for info in first.list_memories()] == [""]  # and opened again where somebody goes on
