"""What is shipped: the package list, the wheel's contents, and the limits that every file keeps."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

import memkit
from memkit import registry
from memkit._version import DISTRIBUTION

ROOT = Path(__file__).resolve().parents[1]
CHECKOUT = (ROOT / "memkit").is_dir()
FILES = DISTRIBUTION.replace("-", "_")  # how its files are called
MAPPED = ("compilers", "router", "integrations")
MAX_LINES, MAX_FUNCTION = 400, 60
MAX_WEIGHTS, MAX_REST = 9_700_000, 2**20  # bytes in the wheel: of nano, and of everything else


# --- as installed ----------------------------------------------------------------------------
@pytest.mark.wheel
def test_the_package_under_test_is_the_one_meant() -> None:
    """In a checkout that checkout; away from it the installed wheel."""
    place = ROOT if CHECKOUT else Path(sys.prefix)
    assert Path(memkit.__file__).resolve().is_relative_to(place.resolve())
    for name in MAPPED:
        module = __import__(f"memkit.{name}", fromlist=["_"])
        assert Path(str(module.__file__)).resolve().is_relative_to(place.resolve())


@pytest.mark.wheel
def test_version() -> None:
    assert version(DISTRIBUTION) == memkit.__version__


@pytest.mark.wheel
def test_every_export_is_there() -> None:
    assert sorted(memkit.__all__) == memkit.__all__
    assert all(getattr(memkit, name) is not None for name in memkit.__all__)
    with pytest.raises(AttributeError, match="nonsense"):
        _ = memkit.nonsense


@pytest.mark.wheel
def test_lcc_comes_through_its_entry_point() -> None:
    (point,) = entry_points(group=registry.GROUP, name="lcc")
    assert point.load() is type(registry.compiler("lcc"))
    (script,) = entry_points(group="console_scripts", name="memkit")
    assert script.value == "memkit.cli:main"


@pytest.mark.wheel
def test_sglang_finds_the_plugin_by_its_entry_point() -> None:
    (point,) = entry_points(group="sglang.srt.plugins", name="memkit")
    assert point.value == "memkit.engine.sglang.plugin.plugin:install"
    assert callable(point.load())


@pytest.mark.wheel
def test_mapped_folders_refuse_their_bare_names() -> None:
    for name in MAPPED:
        package = Path(str(__import__(f"memkit.{name}", fromlist=["_"]).__file__)).parent
        script = f"import sys; sys.path.insert(0, {str(package.parent)!r}); import {name}"
        done = subprocess.run([sys.executable, "-S", "-c", script], capture_output=True, text=True)
        assert f"import this package as 'memkit.{name}'" in done.stderr


# --- the checkout ----------------------------------------------------------------------------
def project() -> dict[str, dict[str, dict[str, list[str]]]]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def sources() -> Iterator[Path]:
    for folder in ("memkit", *MAPPED, "tests", "examples"):
        yield from (path for path in (ROOT / folder).rglob("*.py") if not linked(path))


def linked(path: Path) -> bool:
    """Whether a symlink leads to it, so that it is seen under its own name as well."""
    return any(parent.is_symlink() for parent in path.parents)


def test_every_package_is_listed() -> None:
    found = set[str]()
    for top in ("memkit", *MAPPED):
        prefix = "" if top == "memkit" else "memkit."
        for file in (ROOT / top).rglob("__init__.py"):
            if not linked(file):
                found.add(prefix + ".".join(file.parent.relative_to(ROOT).parts))
    assert set(project()["tool"]["setuptools"]["packages"]) == found


def test_symlinks_show_the_mapped_folders() -> None:
    for name in MAPPED:
        assert (ROOT / "memkit" / name).readlink() == Path("..", name)


def test_newest_entry_of_the_changelog_is_this_version() -> None:
    entries = re.findall(r"^## \[?([\d.]+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert entries[0] == memkit.__version__


def test_every_development_dependency_is_pinned() -> None:
    text = (ROOT / "constraints.txt").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    pinned = {line.split("==")[0] for line in lines}
    assert all(re.fullmatch(r"[a-z0-9-]+==[\w.]+", line) for line in lines)
    about = project()["project"]
    extras = [name for extra in about["optional-dependencies"].values() for name in extra]
    for requirement in [*about["dependencies"], *extras]:
        assert re.split(r"[^\w-]", requirement)[0] in {*pinned, DISTRIBUTION}  # its own extras


def code_lines(text: str) -> int:
    """Lines of a file without blank ones and docstrings, which may be as long as they need to be."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    told = set[int]()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, documented) and ast.get_docstring(node, clean=False) is not None:
            told |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return sum(bool(line.strip()) and at not in told for at, line in enumerate(text.splitlines(), 1))


def test_files_and_functions_are_short() -> None:
    long = list[str]()
    for path in sources():
        text, name = path.read_text(), path.relative_to(ROOT)
        lines = code_lines(text)
        long += [f"{name}: {lines} lines"] * (lines > MAX_LINES)
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                long += [f"{name}: {node.name} has {lines} lines"] * (lines > MAX_FUNCTION)
    assert long == []


def test_no_file_mentions_the_machine_it_was_written_on() -> None:
    places = re.compile(r"(?<![\w.])/(?:work|root|home/\w+)(?![\w-])|\.\./sha" + "red")
    texts = [*sources(), ROOT / "Makefile", ROOT / ".ci" / "run"]
    for pattern in ("*.md", "*.toml", "*.txt", "results/*.json", "memkit/models/**/*.md"):
        texts += ROOT.glob(pattern)
    found = [(path.name, match.group()) for path in texts for match in places.finditer(path.read_text())]
    assert found == []


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: setuptools writes beside what it builds."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "copy"
    copy.mkdir()
    for name in ("memkit", *MAPPED):
        skipped = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=skipped)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(folder), str(copy)], check=True, timeout=300)
    (made,) = folder.glob(f"{FILES}-*.whl")
    return made


def test_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        sizes = {info.filename: info.compress_size for info in archive.infolist()}
    heavy = sum(size for name, size in sizes.items() if name.endswith(".safetensors"))
    assert heavy <= MAX_WEIGHTS
    assert wheel.stat().st_size - heavy <= MAX_REST
    for path in sources():
        top, *rest = path.relative_to(ROOT).parts
        if top not in ("tests", "examples"):
            inside = "/".join([top, *rest] if top == "memkit" else ["memkit", top, *rest])
            assert inside in names
    assert "memkit/py.typed" in names
    for file in (ROOT / "memkit" / "server" / "pages").iterdir():
        assert f"memkit/server/pages/{file.name}" in names
    tops = {name.split("/")[0] for name in names}
    assert tops == {"memkit", f"{FILES}-{memkit.__version__}.dist-info"}
    weights = ROOT / "memkit" / "models" / "nano" / "weights"
    for file in weights.glob("*"):
        assert f"memkit/models/nano/weights/{file.name}" in names
    if weights.is_dir():
        assert (weights / "model.safetensors").exists()
