"""``memkit serve`` as a process: it starts, answers, and ends in order."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx2")

import httpx2

import memkit
import memkit.server
from memkit.bank import Bank


def start(home: Path, model: Path, *words: str) -> tuple[subprocess.Popen[str], str]:
    command = [
        sys.executable,
        "-m",
        "memkit",
        "serve",
        "--port",
        "0",
        "--bank",
        str(home),
        "--model",
        str(model),
    ]
    process = subprocess.Popen([*command, *words], stderr=subprocess.PIPE, text=True, env=os.environ.copy())
    assert process.stderr is not None
    for line in process.stderr:
        if found := re.search(r"http://[\d.:]+", line):
            return process, found.group()
    raise AssertionError(f"it ended with {process.wait()}")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_server_starts_and_ends(home: Path, tiny_model_folder: Path, how: signal.Signals) -> None:
    with Bank(home) as bank:
        _, secret = bank.keys.create("acme")
    process, url = start(home, tiny_model_folder)
    try:
        with httpx2.Client(base_url=url, headers={"Authorization": f"Bearer {secret}"}, timeout=60) as client:
            assert client.get("/status").json()["model"] == tiny_model_folder.name
    finally:
        process.send_signal(how)
    assert process.wait(30) in (0, -how)
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()


def test_a_port_that_is_taken(cli: Callable[..., Any], free: int) -> None:
    done = cli("serve", "--port", free)
    assert done.code == 2
    assert "choose another --port" in done.err


@pytest.fixture
def free() -> Any:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        yield taken.getsockname()[1]


@pytest.mark.parametrize(
    "words", [("--rate", 0), ("--gate", "x"), ("--compiler", "x"), ("--upstream", "x"), ("--option", "x=1")]
)
def test_wrong_settings(cli: Callable[..., Any], words: tuple[object, ...]) -> None:
    assert cli("serve", *words).code == 2


def test_without_the_extra(cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memkit, "server", memkit.server)  # importing it again replaces it
    for name in [name for name in sys.modules if name.startswith("memkit.server")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    done = cli("serve")
    assert done.code == 1
    assert "pip install 'memkit-llm[server]'" in done.err
