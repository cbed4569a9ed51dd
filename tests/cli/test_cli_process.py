"""The command as a process of its own: what it imports, and what Ctrl-C leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memkit._version import __version__

pytestmark = pytest.mark.wheel

HEAVY = ("torch", "transformers", "peft", "faiss", "matplotlib")


@pytest.fixture
def environment(home: Path, tiny_model_folder: Path) -> dict[str, str]:
    return {**os.environ, "MEMKIT_HOME": str(home), "MEMKIT_MODEL": str(tiny_model_folder)}


def memkit(
    environment: dict[str, str], *words: str, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "memkit", *words]
    return subprocess.run(command, env=environment, input=stdin, capture_output=True, timeout=120)


def test_version_and_usage(environment: dict[str, str]) -> None:
    done = memkit(environment, "--version")
    assert (done.returncode, done.stdout.decode()) == (0, f"memkit {__version__}\n")
    wrong = memkit(environment, "list", "--nonsense")
    assert (wrong.returncode, wrong.stdout) == (2, b"")
    assert wrong.stderr.startswith(b"error: ")


@pytest.mark.parametrize(
    "script",
    [
        "import memkit; memkit.__version__",
        "from memkit.cli import main; assert main(['--help']) == 0",
        "from memkit.cli import main; assert main(['remember', '--help']) == 0",
        "from memkit.cli import main; assert main(['list']) == 0",
        "from memkit.cli import main; assert main(['forget', 'abc', '--yes']) == 3",
    ],
)
def test_nothing_heavy_is_imported_early(script: str, environment: dict[str, str]) -> None:
    check = f"; import sys; found = [m for m in {HEAVY!r} if m in sys.modules]; assert not found, found"
    done = subprocess.run([sys.executable, "-c", script + check], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_bytes_in_and_out(environment: dict[str, str]) -> None:
    """A pipe, without a terminal and whatever the locale says."""
    plain = {**environment, "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
    done = memkit(plain, "remember", "-", "--title", "café", "--json", stdin="Zoë 😀".encode())
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["memory"]["characters"] == 5
    listed = memkit(plain, "list")
    assert (listed.returncode, b"caf?" in listed.stdout) == (0, True)


def test_interrupted_compilation_leaves_the_memory_on_its_text(
    environment: dict[str, str], document: Path, home: Path, cli: Callable[..., Any]
) -> None:
    endless = [word for key in ("steps", "patience") for word in ("--option", f"{key}=1000000")]
    # Where the tests run in the background of a shell, processes would be deaf to Ctrl-C.
    listening = "import runpy, signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    started = f"{listening}; runpy.run_module('memkit', run_name='__main__', alter_sys=True)"
    process = subprocess.Popen(
        [sys.executable, "-c", started, "remember", str(document), "--wait", "--always", *endless],
        env={**environment, "MEMKIT_COMPILER": "lcc"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    seen = ""
    while "lora: " not in seen:  # it is in the middle of the compilation
        line = process.stderr.readline()
        assert line, seen
        seen += line
    process.send_signal(signal.SIGINT)
    try:
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert err.splitlines()[-1] == "interrupted: the memory stays answerable from its text"
    assert "Traceback" not in err
    assert out == ""
    left = [path for path in home.rglob("*") if path.suffix == ".mka" or ".tmp" in path.name]
    assert left == []
    (info,) = cli("list", "--json").json["memories"]
    assert (info["status"], info["version"], info["error"]) == ("text", 0, None)
    verified = cli("verify", "--all", "--json")
    assert (verified.code, verified.json["results"][0]["result"]) == (0, "none")
    assert cli("doctor").code == 0
    assert cli("ask", "Where does Mira live?", "--json").json["route"] == "text"
