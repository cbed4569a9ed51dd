"""Check that a process does not grow with its users: ``memkit bench growth``.

Questions of many users with an artifact each are answered, some by recall, as in a long-lived server; memory,
threads, open files and attached artifacts are sampled meanwhile. They should stop growing once the engine has
as many artifacts attached as it keeps.
"""

from __future__ import annotations

import os
import random
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from memkit.artifact.format import Artifact
from memkit.engine.artifact_cache import CAPACITY
from memkit.errors import ConfigError
from memkit.evals import records
from memkit.evals.timing import stamp
from memkit.memory import Memory

Progress = Callable[[str, int, int], None]
SAMPLES = 10  # of the process during the run
SETTLED = 0.3  # share of the requests after which memory should be flat


@dataclass(frozen=True)
class GrowthConfig:
    """``requests`` of ``users``, one in ``recalls`` by recall. Raises `ConfigError` for values below 1."""

    users: int = 1000
    requests: int = 10_000
    recalls: int = 4
    model: str = "nano"
    compiler: str = "meanpool"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("users", "requests", "recalls"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")


def bench(config: GrowthConfig, progress: Progress = lambda label, done, total: None) -> dict[str, Any]:
    """Measure; ``growth_mb`` is the growth of the process after the first `SETTLED` of the requests."""
    rows = list[dict[str, Any]]()
    with (
        tempfile.TemporaryDirectory(prefix="memkit-growth-") as folder,
        Memory(folder, config.model, compiler=config.compiler) as root,
    ):
        question = _filled(root, config, progress)
        draw, every = random.Random(config.seed), max(config.requests // SAMPLES, 1)
        for number in range(1, config.requests + 1):
            user = root.for_user(f"user {draw.randrange(config.users)}")
            if number % config.recalls:
                user.ask(question, max_tokens=1)
            else:
                user.recall(question)
            if number % every == 0:
                rows.append({"row": f"{number} requests", **_sample(root)})
                progress("requests", number, config.requests)
    settled = [row["rss_mb"] for row in rows[int(SETTLED * len(rows)) :]]
    return {
        "bench": "growth",
        "model": config.model,
        "users": config.users,
        "requests": config.requests,
        "capacity": CAPACITY,
        "growth_mb": settled[-1] - settled[0] if settled else None,
        "seed": config.seed,
        **stamp(),
        "rows": rows,
    }


def _filled(root: Memory, config: GrowthConfig, progress: Progress) -> str:
    """Give every user a memory with the same artifact; returns a question about it."""
    (record,) = records.generated(1, config.seed)
    info = root.remember(record.context, compile=False)
    artifact = Artifact.decode(root.compile_with_cost(info.id)[1].data)
    for number in range(config.users):
        user = root.for_user(f"user {number}")
        data = artifact.with_manifest(replace(artifact.manifest, tenant=user.owner))
        root.bank.publish(user.owner, user.remember(record.context, compile=False).id, data)
        if number % 100 == 0:
            progress("users", number, config.users)
    return record.questions[0].text


def _sample(root: Memory) -> dict[str, Any]:
    """The current state of the process: resident megabytes, threads, open files, attached artifacts."""
    return {
        "rss_mb": _resident() / 2**20,
        "threads": threading.active_count(),
        "files": _opened(),
        "attached": len(root.local.holds),
    }


def _resident() -> int:
    """The resident memory of this process in bytes; 0 if the system does not report it."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _opened() -> int | None:
    """The number of open files; None if the system does not report it."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return None
