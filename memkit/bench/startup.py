"""The start-up time of memkit's commands, in particular those that need no model: ``memkit bench start``."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memkit.errors import ConfigError
from memkit.evals.timing import interleaved, stamp

Progress = Callable[[str, int, int], None]
MEMORIES = 20  # in the bank
ALLOWED = 600.0  # milliseconds over bare Python for a command that needs no model


@dataclass(frozen=True)
class Row:
    """A process to measure."""

    name: str
    arguments: tuple[str, ...]
    stdin: str = ""
    light: bool = False  # needs no model


_MEMKIT = ("-c", "import sys; from memkit.cli import main; sys.exit(main(sys.argv[1:]))")
SENTENCE = "Mira lives in Keldor, and her dog is called Tovin."
ROWS = (
    Row("python", ("-c", "pass")),
    Row("import memkit", ("-c", "import memkit")),
    Row("memkit --version", (*_MEMKIT, "--version")),
    Row("memkit --help", (*_MEMKIT, "--help")),
    Row("memkit remember -", (*_MEMKIT, "remember", "-", "--title", "a sentence"), SENTENCE, light=True),
    Row("memkit list", (*_MEMKIT, "list"), light=True),
    Row("memkit search", (*_MEMKIT, "search", "Where does Mira live?"), light=True),
    Row("memkit forget", (*_MEMKIT, "forget", "--user", "default", "--yes"), light=True),
    Row("import torch", ("-c", "import torch")),
)


@dataclass(frozen=True)
class StartConfig:
    repeats: int = 15

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ConfigError(f"repeats must be at least 1, got {self.repeats}")


def bench(config: StartConfig, progress: Progress = lambda label, done, total: None) -> dict[str, Any]:
    """Measure; in each round a text is remembered, listed, found and forgotten.

    ``extra_ms`` is the median difference to bare Python in the same round; ``within`` tells whether that is
    at most `ALLOWED`, for commands that need no model.
    """
    progress("processes", 0, 1)
    with tempfile.TemporaryDirectory(prefix="memkit-start-") as folder:
        environment = _environment(Path(folder))
        _fill(environment)
        calls = [lambda row=row: _run(row, environment) for row in ROWS]
        times = interleaved(calls, config.repeats)
    rows = [_measured(row, each, times[0]) for row, each in zip(ROWS, times, strict=True)]
    return {"bench": "start", **stamp(), "memories": MEMORIES, "allowed_ms": ALLOWED, "rows": rows}


def _measured(row: Row, times: list[float], bare: list[float]) -> dict[str, Any]:
    extra = statistics.median(a - b for a, b in zip(times, bare, strict=True))
    return {
        "row": row.name,
        "n": len(times),
        "ms": statistics.median(times),
        "ms_range": [min(times), max(times)],
        "extra_ms": extra,
        "within": extra <= ALLOWED if row.light else None,
    }


def _environment(folder: Path) -> dict[str, str]:
    """Environment variables with a separate bank and without the user's settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MEMKIT_")}
    return {**environment, "MEMKIT_HOME": str(folder / "bank"), "XDG_CONFIG_HOME": str(folder / "settings")}


def _fill(environment: Mapping[str, str]) -> None:
    """Fill the bank with memories of another user."""
    script = (
        "import io, sys; from memkit.cli import main\n"
        f"for n in range({MEMORIES}):\n"
        "    said = f'Note {n}: Jalo works at Brimtek since 19{n:02}.'\n"
        "    sys.stdin = io.TextIOWrapper(io.BytesIO(said.encode()))\n"
        "    if code := main(['remember', '-', '--user', 'other']): sys.exit(code)"
    )
    _run(Row("filling the bank", ("-c", script)), environment)


def _run(row: Row, environment: Mapping[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, *row.arguments],
        env=environment,
        input=row.stdin.encode(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        raise ConfigError(
            f"{row.name} ended with {done.returncode}: {done.stderr.decode(errors='replace')[-300:]}"
        )
