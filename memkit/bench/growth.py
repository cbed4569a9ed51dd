"""Whether a process grows with its users: ``memkit bench growth``.

Users with an artifact each are asked in turn, some questions by recall, as a long-lived server or agent does;
memory, threads, open files and attached artifacts are looked at on the way. Flat is what stops growing once
the engine holds as many artifacts as it keeps.
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
LOOKS = 10  # at the process, on the way
SETTLED = 0.3  # of the requests, after which memory should be flat


@dataclass(frozen=True)
class GrowthConfig:
    """``requests`` of ``users``, one in ``recalls`` by recall instead of an answer; ``options`` compile."""

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
    """Measure; ``growth_mb`` is what the process grew by after the first `SETTLED` of the requests."""
    rows = list[dict[str, Any]]()
    with (
        tempfile.TemporaryDirectory(prefix="memkit-growth-") as folder,
        Memory(folder, config.model, compiler=config.compiler) as root,
    ):
        question = _filled(root, config, progress)
        draw, every = random.Random(config.seed), max(config.requests // LOOKS, 1)
        for number in range(1, config.requests + 1):
            user = root.for_user(f"user {draw.randrange(config.users)}")
            if number % config.recalls:
                user.ask(question, max_tokens=1)
            else:
                user.recall(question)
            if number % every == 0:
                rows.append({"row": f"{number} requests", **_look(root)})
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
    """Give every user a memory with an artifact, the same but for its owner; a question about it."""
    (record,) = records.generated(1, config.seed)
    info = root.remember(record.context, compile=False)
    made = Artifact.decode(root.compile_with_cost(info.id)[1].data)
    for number in range(config.users):
        user = root.for_user(f"user {number}")
        data = made.with_manifest(replace(made.manifest, tenant=user.owner))
        root.bank.publish(user.owner, user.remember(record.context, compile=False).id, data)
        if number % 100 == 0:
            progress("users", number, config.users)
    return record.questions[0].text


def _look(root: Memory) -> dict[str, Any]:
    """The process as it is now: megabytes in memory, threads, open files, attached artifacts."""
    return {
        "rss_mb": _resident() / 2**20,
        "threads": threading.active_count(),
        "files": _opened(),
        "attached": len(root.local.holds),
    }


def _resident() -> int:
    """Bytes of this process in memory; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def _opened() -> int | None:
    """Files that are open; None where the system does not tell."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return None
