"""The throughput of recompilation: ``memkit bench recompile``.

The same memories are compiled by one process, by several and on Ray, each in its own bank, one after the
other. The time includes starting workers and loading their models, as in a nightly run.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memkit.config import Config
from memkit.errors import MissingExtraError
from memkit.evals import records
from memkit.evals.timing import stamp
from memkit.recompile.advice import AdvisorConfig
from memkit.recompile.executors import create_executor
from memkit.recompile.plan import Scope, plan
from memkit.recompile.run import recompile
from memkit.recompile.worker import open_memory

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class RecompileConfig:
    """``memories`` of as many users; ``options`` are the compiler's. Raises `ValueError` for values below
    1."""

    memories: int = 8
    workers: int = 2
    model: str = "nano"
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("memories", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def bench(config: RecompileConfig, progress: Progress = lambda label, done, total: None) -> dict[str, Any]:
    """Measure; returns ``{"bench": "recompile", "rows": [...]}``; without Ray its row says so."""
    ways = (("local", 1), ("local", config.workers), ("ray", config.workers))
    rows = list[dict[str, Any]]()
    for done, (name, workers) in enumerate(ways):
        progress(f"{name}, {workers} workers", done, len(ways))
        rows.append(_row(config, name, workers))
    one = rows[0]["memories_per_hour"]
    for row in rows:
        row["ratio_to_one"] = row["memories_per_hour"] / one if row.get("memories_per_hour") and one else None
    return {
        "bench": "recompile",
        "model": config.model,
        "seed": config.seed,
        **stamp(),
        "rows": rows,
    }


def _row(config: RecompileConfig, name: str, workers: int) -> dict[str, Any]:
    row: dict[str, Any] = {"row": name, "workers": workers}
    scope = Scope(advisor=AdvisorConfig(enabled=False))
    with tempfile.TemporaryDirectory(prefix="memkit-recompile-") as folder:
        settings = Config(Path(folder), config.model, compiler="lcc", options=dict(config.options))
        with open_memory(settings) as memory:
            for number, record in enumerate(records.generated(config.memories, config.seed)):
                memory.for_user(f"user {number}").remember(record.context, compile=False)
            try:
                doing = create_executor(name, settings, memory, workers)
            except MissingExtraError as error:
                return row | {"absent": str(error)}
            report = recompile(plan(memory, scope), scope, doing)
    compiled = sum(outcome.status == "compiled" for outcome in report.outcomes)
    return row | {
        "memories": len(report.outcomes),
        "compiled": compiled,
        "seconds": report.seconds,
        "memories_per_hour": 3600 * compiled / report.seconds,
    }
