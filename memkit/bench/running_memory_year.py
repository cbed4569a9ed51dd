"""Simulate a year of running memories: ``memkit bench year``.

Each user's log grows over the nights, and some facts change; changed memories are recompiled the same night.
At the end the current facts are asked: memkit's answers are compared with those of the model with the full
log, and outdated answers are counted.
"""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from memkit import text_metrics
from memkit.bank import Message
from memkit.engine.base import Request
from memkit.evals.reports.plots import figure_of
from memkit.evals.timing import nbytes, stamp
from memkit.memory import Memory
from memkit.recompile.advice import AdvisorConfig
from memkit.recompile.executors import InProcess
from memkit.recompile.plan import Scope, plan
from memkit.recompile.run import recompile

LOG = "profile"
START = datetime(2025, 1, 1, 20, tzinfo=UTC)
ANSWER = 32  # tokens
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class YearConfig:
    """What to simulate. Raises `ValueError` for invalid values."""

    users: int = 50
    nights: int = 365
    facts: int = 6  # in each user's log
    changes: int = 3  # later lines that change a fact
    keep: int = 3  # versions of each memory
    model: str = "nano"
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("users", "nights", "facts", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.changes < 0:
            raise ValueError(f"changes must not be negative, got {self.changes}")


@dataclass(frozen=True)
class _Life:
    """A user's lines by night, and the final questions: (question, value, earlier values)."""

    user: str
    lines: Mapping[int, list[str]]
    asked: list[tuple[str, str, tuple[str, ...]]]


def bench(config: YearConfig, progress: Progress = lambda label, done, total: None) -> dict[str, Any]:
    """Simulate; returns ``{"bench": "year", "rows": [...]}``. Bytes are the total size of the bank's
    files."""
    lives = [_life(config, number) for number in range(config.users)]
    storage, outcomes = list[dict[str, int]](), Counter[str]()
    scope = Scope(advisor=AdvisorConfig(enabled=False), keep=config.keep)
    with (
        tempfile.TemporaryDirectory(prefix="memkit-year-") as folder,
        Memory(Path(folder), config.model, compiler="lcc", options=config.options) as memory,
    ):
        for night in range(config.nights):
            progress("night", night, config.nights)
            at = START + timedelta(days=night)
            spoke = [life for life in lives if life.lines.get(night)]
            for life in spoke:
                messages = [Message(line, when=at) for line in life.lines[night]]
                memory.for_user(life.user).remember(messages, memory=LOG)
            if spoke:
                report = recompile(plan(memory, scope, at), scope, InProcess(memory))
                outcomes.update(outcome.status for outcome in report.outcomes)
                storage.append({"night": night, "bytes": nbytes(Path(folder))})
        rows = list(_rows(memory, lives))
    return {
        "bench": "year",
        **{name: getattr(config, name) for name in ("model", "users", "nights", "facts", "changes", "keep")},
        "seed": config.seed,
        **stamp(),
        "rows": [*rows, {"row": "nights", "compilations": dict(outcomes), **_growth(storage)}],
        "storage": storage,
    }


def _life(config: YearConfig, number: int) -> _Life:
    from memkit.models.nano.documents import Generator

    generator = Generator(config.seed + 9_000_000 + number, "eval")
    log, rng = generator.log(config.facts, 2, config.changes), random.Random(config.seed * 1000 + number)
    lines = [(generator.statement(fact), fact) for _, fact in log.sentences if fact is not None]
    nights = sorted(rng.choices(range(config.nights), k=len(lines)))
    by_night = dict[int, list[str]]()
    for night, (line, _) in zip(nights, lines, strict=True):
        by_night.setdefault(night, []).append(line)
    questions = []
    for fact in log.facts:
        same = [f for f in log.superseded if (f.person, f.attribute) == (fact.person, fact.attribute)]
        questions.append((generator.about(fact).text, fact.value, tuple(f.value for f in same)))
    return _Life(f"user {number}", by_night, questions)


def _rows(memory: Memory, lives: list[_Life]) -> Iterator[dict[str, Any]]:
    """A row each for the model with the full log, memkit, and the artifacts alone."""
    full = 0.0
    for name, answer in (("full log", _by_log), ("memkit", _by_memkit), ("artifact", _by_artifact)):
        current = stale = changed = current_changed = 0
        for life in lives:
            for (_, value, earlier), text in zip(life.asked, answer(memory, life), strict=True):
                right = bool(text_metrics.contains(text, [value]))
                current += right
                changed += bool(earlier)
                current_changed += right and bool(earlier)
                stale += not right and bool(text_metrics.contains(text, earlier))
        n = sum(len(life.asked) for life in lives)
        full = current / n if name == "full log" else full  # the first row
        yield {
            "row": name,
            "n": n,
            "current": current / n,
            "current_ci95": text_metrics.wilson(current, n),
            "stale": stale / n,
            "n_changed": changed,
            "current_changed": current_changed / changed if changed else None,
            "relative_to_full_log": current / n / full if full else None,
        }


def _by_memkit(memory: Memory, life: _Life) -> list[str]:
    user = memory.for_user(life.user)
    return [user.ask(question, max_tokens=ANSWER).text for question, _, _ in life.asked]


def _by_log(memory: Memory, life: _Life) -> list[str]:
    (info,) = memory.for_user(life.user).list_memories()
    text = memory.bank.source(life.user, info.id).text
    requests = [Request(question, context=text, max_tokens=ANSWER) for question, _, _ in life.asked]
    return [completion.text for completion in memory.engine.generate(requests)]


def _by_artifact(memory: Memory, life: _Life) -> list[str]:
    (info,) = memory.for_user(life.user).list_memories()
    if not info.version:
        return [""] * len(life.asked)
    with memory.bank.artifact(life.user, info.id) as artifact:
        handle = memory.engine.attach(artifact)
    requests = [Request(question, handle=handle, max_tokens=ANSWER) for question, _, _ in life.asked]
    answers = [completion.text for completion in memory.engine.generate(requests)]
    memory.engine.detach(handle)
    return answers


def _growth(storage: list[dict[str, int]]) -> dict[str, Any]:
    """The bank's size after the first half, and at the end."""
    if not storage:
        return {"bytes_half": 0, "bytes_end": 0}
    return {"bytes_half": storage[len(storage) // 2]["bytes"], "bytes_end": storage[-1]["bytes"]}


def plot(result: Mapping[str, Any], file: Path) -> None:
    """Plot the bank's size by night to an SVG file."""
    nights = [point["night"] for point in result["storage"]]

    def draw(axes: Any) -> None:
        axes.step(nights, [point["bytes"] / 1e6 for point in result["storage"]], where="post")
        axes.set(xlabel="night", ylabel="MB", title=f"The bank of {result['users']} running memories", ylim=0)

    file.write_text(figure_of(draw, (7, 3)), encoding="utf-8")
