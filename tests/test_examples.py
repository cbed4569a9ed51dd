"""What the documents and the examples show is true: their code runs, their commands exist."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from collections.abc import Callable
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
    """The tiny model, whatever model is named, compiled for in a second, in an empty folder."""

    def tiny(*args: Any, model: str = "", **more: Any) -> Memory:
        return Memory(*args, compiler="lcc", options=TINY_OPTIONS, **more)

    monkeypatch.setenv("MEMKIT_MODEL", str(tiny_model_folder))
    monkeypatch.setattr(memkit, "Memory", tiny, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("quick")
def test_quickstart(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / "quickstart.py"), run_name="__main__")
    first, asked, forgotten = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"\d+ characters became an artifact of \d+ bytes", first)
    assert "by the latent route" in asked
    assert forgotten == "forgotten: now by the none route"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("example", "said"),
    [
        ("assistant", r"Where does Simsem spend the summer\? (.|\n)*\(text; said \d{4}"),
        ("documents", r"from staff\.txt, characters 0-\d+: .*KD-417"),
        ("langchain_agent", r"remembered: \['Simsem lives in Lasces\.'"),
        ("on_device", r"\d+ bytes, \d+ tokens\nWhere does Simsem live\?"),
        ("nightly", r"0 3 \* \* \* (.|\n)*2 compiled(.|\n)*nothing was due"),
    ],
)
def test_examples(example: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    if example == "langchain_agent":
        pytest.importorskip("langchain")
    runpy.run_path(str(ROOT / "examples" / f"{example}.py"), run_name="__main__")
    assert re.search(said, capsys.readouterr().out)


def test_every_example_is_run() -> None:
    tested = {"quickstart", "assistant", "documents", "langchain_agent", "on_device", "nightly"}
    assert {file.stem for file in (ROOT / "examples").glob("*.py")} == tested


DOCUMENTS = sorted(str(p.relative_to(ROOT)) for p in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")))
PYTHON = [name for name in DOCUMENTS if "```python\n" in (ROOT / name).read_text()]
NEEDS = {"docs/howto/langchain.md": "langchain", "docs/howto/server.md": "openai"}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("document", PYTHON)
def test_python_in_documents(document: str, capsys: pytest.CaptureFixture[str]) -> None:
    if document in NEEDS:
        pytest.importorskip(NEEDS[document])
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / document).read_text(), re.DOTALL):
        exec(compile(block, document, "exec"), names)
    said = capsys.readouterr().out
    assert said.strip()
    if document == "README.md":
        assert " latent\n" in said


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_in_documents(document: str, cli: Callable[..., Any]) -> None:
    text = (ROOT / document).read_text()
    shown = re.findall(r"(?:^    |`)memkit ([a-z-]+)((?: [^`#\n]*)?)", text, re.MULTILINE)
    assert shown or document not in ("README.md", "CONTRIBUTING.md")
    for command, rest in shown:
        words = rest.split()[:1] if command in GROUPS else []
        described = cli(command, *words, "--help")
        assert described.code == 0
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in described.out


@pytest.mark.parametrize("document", DOCUMENTS)
def test_make_targets_and_files_in_documents(document: str) -> None:
    text = (ROOT / document).read_text()
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^    )make ([a-z]+)\b", text, re.MULTILINE)) <= targets
    for path in re.findall(r"`((?:compilers|memkit|tests|examples)/[\w./]+)`", text):
        assert (ROOT / path.replace("NAME", "lcc")).exists(), path
    for link in re.findall(r"\]\((?!http)([^)#]+)", text):
        assert (ROOT / document).parent.joinpath(link).exists(), link


def test_figures_in_the_readme_are_results() -> None:
    results = (ROOT / "RESULTS.md").read_text().split("\n## ")
    rows = re.findall(r"^\| (.*?) \| ([\d., ]+) \| \[(.*?)\]", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert rows
    for claim, figures, section in rows:
        claim = re.sub(r"Qwen[\w.-]+", "", claim)  # its name has numbers, too
        (text,) = [each for each in results if each.startswith(f"{section}\n")]
        for figure in [*figures.split(", "), *re.findall(r"\d\.\d+", claim)]:
            assert f"| {figure} |" in text, (section, figure)


def test_the_pages_build(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "reference" / "index.html").read_text()
    assert "remember" in page
    assert "fonts.googleapis.com" not in page
