"""What it costs to import memkit and to start its command: ``memkit bench start``."""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from memkit.errors import ConfigError
from memkit.evals.timing import interleaved, stamp

Progress = Callable[[str, int, int], None]
ROWS = {
    "python": ["-c", "pass"],
    "import memkit": ["-c", "import memkit"],
    "memkit --version": ["-c", "from memkit.cli import main; main(['--version'])"],
    "memkit --help": ["-c", "from memkit.cli import main; main(['--help'])"],
    "import torch": ["-c", "import torch"],
}


@dataclass(frozen=True)
class StartConfig:
    repeats: int = 15

    def __post_init__(self) -> None:
        if self.repeats < 1:
            raise ConfigError(f"repeats must be at least 1, got {self.repeats}")


def bench(config: StartConfig, progress: Progress = lambda label, done, total: None) -> dict[str, Any]:
    """Measure; ``extra_ms`` is the median over bare Python's of the same round."""
    progress("processes", 0, 1)
    calls = [lambda words=words: _run(words) for words in ROWS.values()]
    times = interleaved(calls, config.repeats)
    rows = [
        {
            "row": name,
            "ms": statistics.median(each),
            "ms_range": [min(each), max(each)],
            "extra_ms": statistics.median(a - b for a, b in zip(each, times[0], strict=True)),
        }
        for name, each in zip(ROWS, times, strict=True)
    ]
    return {
        "bench": "start",
        **stamp(),
        "rows": rows,
    }


def _run(words: list[str]) -> None:
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
