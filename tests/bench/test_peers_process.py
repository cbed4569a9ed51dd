"""The worker's loop and its environment, with a worker that needs no peer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from memkit.bench.peers import process
from memkit.bench.peers.process import Environment, Peer, PeerError
from memkit.errors import ConfigError

WORKER = """
import os, sys, time

class Worker:
    def __init__(self, start):
        self.total = start
        print("a library says hello")
        os.write(1, b"and so does its C code\\n")

    def add(self, number):
        self.total += number
        return self.total

    def fail(self):
        raise ValueError("of its own")

    def variable(self, name):
        return os.environ.get(name)

    def packages(self):
        return sorted(name for name in sys.modules if name.startswith("memkit"))

    def sleep(self):
        time.sleep(60)

    def die(self):
        print("its last words", file=sys.stderr)
        os._exit(3)
"""


@pytest.fixture
def peer(tmp_path: Path) -> Iterator[Peer]:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    made = Peer(Path(sys.executable), script, tmp_path / "peer", {"start": 40})
    yield made
    made.close()


def test_calls_are_answered_with_what_they_took(peer: Peer) -> None:
    called = peer.call("add", number=2)
    assert called.result == 42
    assert 0 <= called.took.ms < 1000
    assert 0 <= called.took.cpu_ms < 1000
    assert peer.call("add", number=1).result == 43


def test_what_a_worker_fails_at_is_told_and_it_goes_on(peer: Peer) -> None:
    with pytest.raises(PeerError, match="ValueError: of its own"):
        peer.call("fail")
    with pytest.raises(PeerError, match="AttributeError"):
        peer.call("no_such_method")
    assert peer.call("add", number=0).result == 40


def test_a_worker_has_a_home_of_its_own_and_none_of_our_keys(
    peer: Peer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    other = Peer(Path(sys.executable), tmp_path / "worker.py", tmp_path / "other", {"start": 0})
    found: dict[str, Any] = {
        name: other.call("variable", name=name).result for name in ("OPENAI_API_KEY", "PYTHONPATH", "HOME")
    }
    other.close()
    assert found == {"OPENAI_API_KEY": None, "PYTHONPATH": None, "HOME": str(tmp_path / "other")}
    assert peer.call("packages").result == []


def test_a_worker_that_ends_leaves_its_last_words(peer: Peer) -> None:
    with pytest.raises(PeerError, match="its last words"):
        peer.call("die")


def test_a_worker_that_hangs_is_ended(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "TIMEOUT", 0.3)
    with pytest.raises(PeerError, match=r"more than 0\.3 s"):
        peer.call("sleep")


def test_a_worker_that_cannot_be_made(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    with pytest.raises(PeerError, match="TypeError"):
        Peer(Path(sys.executable), script, tmp_path / "peer", {"end": 1})


def test_environments_are_found_by_what_made_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no environment of mem0: tests/peers_env\.sh makes it"):
        Environment.of("mem0", tmp_path)
    (tmp_path / "mem0").mkdir()
    (tmp_path / "mem0" / ".memkit").write_text("mem0ai==2.2.1 faiss-cpu==1.15.1\n")
    found = Environment.of("mem0", tmp_path)
    assert (found.version, found.python) == ("2.2.1", tmp_path / "mem0" / "bin" / "python")
