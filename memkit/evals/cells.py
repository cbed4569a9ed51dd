"""Cells of the evaluation table: one method at one ratio on one record, kept in a journal.

The journal lets an interrupted evaluation go on: a cell that is in it is not measured again.
"""

from __future__ import annotations

import hashlib
import json
import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from memkit.errors import ConfigError
from memkit.evals import metrics

BOOTSTRAP = 1000  # resamplings of the records
BOUNDS = ("none", "full")


@dataclass(frozen=True)
class Cell:
    """One value per question in ``em`` to ``agreement``, and in ``kl`` (nats a token).

    ``general`` scores general questions asked with this memory in place; ``reason`` says why a
    record could not be compiled, all else is then empty.
    """

    method: str
    ratio: float | None
    record: str
    em: tuple[float, ...] = ()
    f1: tuple[float, ...] = ()
    contains: tuple[float, ...] = ()
    rouge_l: tuple[float, ...] = ()
    agreement: tuple[float, ...] = ()  # with the full context's own answer
    kl: tuple[float, ...] = ()
    drift_kl: tuple[float, ...] = ()
    general: tuple[float, ...] = ()
    judge: tuple[float, ...] = ()  # 0 to 5
    ttft_ms: tuple[float, ...] = ()
    prompt_tokens: float | None = None
    compile_s: float | None = None
    compile_flops: float | None = None
    compile_steps: int | None = None
    artifact_bytes: int | None = None
    reason: str = ""
    answers: tuple[str, ...] = ()
    admission: Mapping[str, Any] | None = None
    curve: tuple[tuple[str, int, float], ...] = field(default=(), repr=False)

    @property
    def key(self) -> tuple[str, float | None, str]:
        return self.method, self.ratio, self.record


class Journal:
    """Cells of one evaluation as JSON lines; the first line is a digest of what is evaluated.

    Raises `ConfigError` when the file belongs to another evaluation.
    """

    def __init__(self, path: Path | None, about: Mapping[str, Any]) -> None:
        self._path = path
        self.cells = dict[tuple[str, float | None, str], Cell]()
        digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()
        if path is None:
            return
        if path.exists():
            self._read(path, digest)
        else:
            path.write_text(json.dumps({"evaluation": digest}) + "\n")

    def _read(self, path: Path, digest: str) -> None:
        first, *rest = path.read_text().splitlines() or [""]
        if first != json.dumps({"evaluation": digest}):
            raise ConfigError(f"{path} holds another evaluation's progress; remove it, or write elsewhere")
        for line in rest:
            try:
                cell = _cell(json.loads(line))
            except (ValueError, TypeError):  # cut off by an interruption: measured again
                continue
            self.cells[cell.key] = cell

    def add(self, cell: Cell) -> None:
        """Keep a cell, on disk before returning."""
        self.cells[cell.key] = cell
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(asdict(cell)) + "\n")

    def done(self) -> None:
        """Remove the file: the table holds everything now."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _cell(row: dict[str, Any]) -> Cell:
    names = {f.name for f in fields(Cell)}
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items() if k in names}
    values["curve"] = tuple((p, s, v) for p, s, v in values.get("curve", ()))
    return Cell(**values)


def table(cells: Sequence[Cell], general: float | None) -> list[dict[str, Any]]:
    """One row per method and ratio, in order of appearance.

    Retention compares with ``full`` and ``none`` on the records that the method has; its interval is
    a bootstrap over records. ``general`` is the score of general questions without any memory.
    """
    groups = dict[tuple[str, float | None], list[Cell]]()
    for cell in cells:
        groups.setdefault((cell.method, cell.ratio), []).append(cell)
    bounds = {name: {c.record: c for c in groups.get((name, None), ())} for name in BOUNDS}
    return [_row(method, ratio, group, bounds, general) for (method, ratio), group in groups.items()]


def _row(
    method: str,
    ratio: float | None,
    group: Sequence[Cell],
    bounds: Mapping[str, Mapping[str, Cell]],
    general: float | None,
) -> dict[str, Any]:
    done = [cell for cell in group if not cell.reason]

    def pooled(name: str) -> list[float]:
        return [value for cell in done for value in getattr(cell, name)]

    def average(name: str) -> float | None:
        return metrics.mean([value for c in done if (value := getattr(c, name)) is not None])

    with_memory = metrics.mean(pooled("general"))
    low, high = _interval(done, bounds)
    row: dict[str, Any] = {"method": method, "ratio": ratio, "n": len(pooled("em"))}
    row |= {name: metrics.mean(pooled(name)) for name in ("em", "f1", "contains", "rouge_l", "agreement")}
    row |= {
        "contains_ci95": metrics.wilson(sum(pooled("contains")), len(pooled("contains"))),
        "judge": metrics.mean(pooled("judge")),
        "retention": _retention(done, bounds),
        "retention_ci95": None if low is None else (low, high),
        "kl": metrics.mean(pooled("kl")),
        "drift_kl": metrics.mean(pooled("drift_kl")),
        "drift_points": None if general is None or with_memory is None else 100 * (general - with_memory),
    }
    row |= {name: average(name) for name in ("compile_s", "compile_flops", "compile_steps", "artifact_bytes")}
    row |= {
        "prompt_tokens": average("prompt_tokens"),
        "ttft_ms": statistics.median(pooled("ttft_ms")) if pooled("ttft_ms") else None,
        "failed": len(group) - len(done),
        "reasons": sorted({cell.reason for cell in group if cell.reason}),
        "records": [_of_record(cell, bounds) for cell in done],
    }
    curve = _mean_curve([cell.curve for cell in done])
    return row | ({"curve": curve} if curve else {})


def _mean_curve(curves: Sequence[Sequence[tuple[str, int, float]]]) -> list[tuple[str, int, float]]:
    """Mean loss (nats) by phase and step, over the records that reached the step."""
    losses = dict[tuple[str, int], list[float]]()
    for curve in curves:
        for phase, step, loss in curve:
            losses.setdefault((phase, step), []).append(loss)
    return [(phase, step, round(statistics.mean(seen), 5)) for (phase, step), seen in losses.items()]


def _of_record(cell: Cell, bounds: Mapping[str, Mapping[str, Cell]]) -> dict[str, Any]:
    row: dict[str, Any] = {"record": cell.record, "contains": metrics.mean(cell.contains)}
    row["retention"] = _retention([cell], bounds)
    return row | ({"admission": dict(cell.admission)} if cell.admission else {})


def _retention(cells: Sequence[Cell], bounds: Mapping[str, Mapping[str, Cell]]) -> float | None:
    """Of all questions of these records together."""
    paired = [c for c in cells if c.record in bounds["full"] and c.record in bounds["none"]]
    if not paired:
        return None
    score = metrics.mean([v for c in paired for v in c.contains])
    none, full = (
        metrics.mean([v for c in paired for v in bounds[name][c.record].contains]) for name in BOUNDS
    )
    return metrics.retention(score, none, full)


def _interval(
    cells: Sequence[Cell], bounds: Mapping[str, Mapping[str, Cell]]
) -> tuple[float | None, float | None]:
    """Bootstrapped 95 % interval of the retention; (None, None) with fewer than two records."""
    if len(cells) < 2:
        return None, None
    rng = random.Random(0)
    drawn = [_retention(rng.choices(cells, k=len(cells)), bounds) for _ in range(BOOTSTRAP)]
    values = sorted(value for value in drawn if value is not None)
    if len(values) < BOOTSTRAP // 2:
        return None, None
    return values[int(0.025 * len(values))], values[int(0.975 * len(values)) - 1]
