"""What the documents and the examples show is true: their code runs, their commands exist."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import memkit
from memkit.memory import Memory
from memkit.testing import TINY_OPTIONS

ROOT = Path(__file__).resolve().parents[1]
GROUPS = ("bench", "keys")  # commands that have commands


@pytest.fixture
def quick(tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model, compiled for in a second, in an empty folder."""
    monkeypatch.setenv("MEMKIT_MODEL", str(tiny_model_folder))
    monkeypatch.setattr(memkit, "Memory", partial(Memory, options=TINY_OPTIONS), raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("quick")
def test_quickstart(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / "quickstart.py"), run_name="__main__")
    first, asked, forgotten = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\d+ characters became an artifact of \d+ bytes", first)
    assert "by the latent route" in asked
    assert forgotten == "forgotten: now by the none route"


@pytest.mark.usefixtures("quick")
def test_python_in_the_readme(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL):
        exec(compile(block, "README.md", "exec"), names)
    assert " latent\n" in capsys.readouterr().out


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_commands_in_documents(document: str, cli: Callable[..., Any]) -> None:
    text = (ROOT / document).read_text()
    shown = re.findall(r"(?:^    |`)memkit ([a-z-]+)((?: [^`#\n]*)?)", text, re.MULTILINE)
    assert shown
    for command, rest in shown:
        words = rest.split()[:1] if command in GROUPS else []
        described = cli(command, *words, "--help")
        assert described.code == 0
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in described.out


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_make_targets_and_files_in_documents(document: str) -> None:
    text = (ROOT / document).read_text()
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+)\b(?= |`|\n)", text)) <= targets
    for path in re.findall(r"`((?:compilers|memkit|tests|examples)/[\w./]+)`", text):
        assert (ROOT / path.replace("NAME", "lcc")).exists(), path
