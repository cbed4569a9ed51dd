"""User code in tests/typing/ passes both type checkers, against the package as it is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
USER_CODE = Path(__file__).with_name("typing")
PYRIGHT = Path(sys.prefix) / "npm" / "node_modules" / "pyright" / "index.js"


@pytest.mark.slow
def test_mypy() -> None:
    command = [sys.executable, "-m", "mypy", "--strict", "--enable-error-code", "deprecated", str(USER_CODE)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@pytest.mark.skipif(not PYRIGHT.exists(), reason=f"no pyright: npm install --prefix {sys.prefix}/npm pyright")
def test_pyright(tmp_path: Path) -> None:
    settings = {"include": [str(USER_CODE)], "typeCheckingMode": "strict", "extraPaths": [str(ROOT)]}
    project = tmp_path / "pyrightconfig.json"
    project.write_text(json.dumps(settings))
    command = [
        "node",
        str(PYRIGHT),
        "--project",
        str(project),
        "--pythonpath",
        sys.executable,
        "--outputjson",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    found = [
        f"{e['file']}:{e['range']['start']['line'] + 1}: {e['message']}"
        for e in json.loads(done.stdout)["generalDiagnostics"]
        if e["severity"] == "error"
    ]
    assert found == []


def test_a_mistake_is_found(tmp_path: Path) -> None:
    """So that the tests above can fail."""
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import memkit\n\nmemkit.Memory(usr='mira').ask(1)\n")
    command = [sys.executable, "-m", "mypy", "--strict", str(wrong)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert done.returncode == 1
    assert "usr" in done.stdout
