"""The cells of the evaluation table (one method at one ratio on one record), and a journal of them.

An interrupted evaluation resumes from the journal: cells in it are not measured again.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from memkit import text_metrics
from memkit.errors import ConfigError
from memkit.evals.records import Record

BOUNDS = ("none", "full")
PER_QUESTION = ("em", "f1", "contains", "rouge_l", "agreement", "agreement_f1", "kl", "judge", "answers")
SHARES = ("em", "contains")  # binary for each question
OF_CATEGORY = "n metric score score_ci95 f1 f1_ci95 retention retention_ci95".split()


@dataclass(frozen=True)
class Cell:
    """The figures of one method at one ratio on one record: in each tuple a value for each question.

    ``drift_kl`` and ``general`` have a value for each general question, ``ttft_ms`` for each repetition.
    """

    method: str
    ratio: float | None
    record: str
    em: tuple[float, ...] = ()
    f1: tuple[float, ...] = ()
    contains: tuple[float, ...] = ()
    rouge_l: tuple[float, ...] = ()
    agreement: tuple[float, ...] = ()  # whether the answer contains the full context's own
    agreement_f1: tuple[float, ...] = ()  # token F1 with the full context's own answer
    kl: tuple[float, ...] = ()  # from the full context, in nats per token
    drift_kl: tuple[float, ...] = ()  # on general questions
    general: tuple[float, ...] = ()  # score of general questions with this memory
    judge: tuple[float, ...] = ()  # 0 to 5
    ttft_ms: tuple[float, ...] = ()
    prompt_tokens: float | None = None
    compile_s: float | None = None
    compile_flops: float | None = None
    compile_steps: int | None = None
    artifact_bytes: int | None = None
    reason: str = ""  # why the record could not be compiled; all else is then empty
    answers: tuple[str, ...] = ()
    metric: str = "contains"  # the score that counts for this record
    categories: tuple[str, ...] = ()
    admission: Mapping[str, Any] | None = None
    curve: tuple[tuple[str, int, float], ...] = field(default=(), repr=False)

    @property
    def key(self) -> tuple[str, float | None, str]:
        return self.method, self.ratio, self.record

    @property
    def scores(self) -> tuple[float, ...]:
        """The score that counts, question by question."""
        values: tuple[float, ...] = getattr(self, self.metric)
        return values

    def of_category(self, category: str) -> Cell:
        """The cell restricted to the questions of one category."""
        indices = [i for i, each in enumerate(self.categories) if each == category]
        values = {name: getattr(self, name) for name in PER_QUESTION}
        chosen: dict[str, Any] = {n: tuple(all_[i] for i in indices) for n, all_ in values.items() if all_}
        return replace(self, categories=(category,) * len(indices), **chosen)


class Journal:
    """The cells of one evaluation as JSON lines; the first line is a digest of its settings, ``about``.

    Without a ``path`` they are only in memory. Raises `ConfigError` for the file of another evaluation.
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
            except (ValueError, TypeError):  # truncated by an interruption: measured again
                continue
            self.cells[cell.key] = cell

    def add(self, cell: Cell) -> None:
        """Add a cell; it is on disk when this returns."""
        self.cells[cell.key] = cell
        if self._path is not None:
            with self._path.open("a") as file:
                file.write(json.dumps(asdict(cell)) + "\n")

    def remove_file(self) -> None:
        """Remove the file at the end of the evaluation."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _cell(row: dict[str, Any]) -> Cell:
    names = {f.name for f in fields(Cell)}
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items() if k in names}
    values["curve"] = tuple((p, s, v) for p, s, v in values.get("curve", ()))
    return Cell(**values)


def table(cells: Sequence[Cell], general: float | None) -> list[dict[str, Any]]:
    """One row for each method and ratio, in order of appearance.

    Figures in `SHARES` have Wilson's interval over questions, all other means a bootstrap over records, as
    have ``retention`` and ``retention_f1``, which compare the score that counts, and token F1, with ``full``
    and ``none`` on the same records. ``general`` is the score of general questions without any memory.
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
    measured = [cell for cell in group if not cell.reason]

    def pooled(name: str) -> list[float]:
        return [value for cell in measured for value in getattr(cell, name)]

    def average(name: str) -> float | None:
        return text_metrics.mean([value for c in measured if (value := getattr(c, name)) is not None])

    def interval(name: str) -> tuple[float, float] | None:
        if name in SHARES:
            return text_metrics.wilson(sum(values), len(values)) if (values := pooled(name)) else None
        return text_metrics.pooled_interval([getattr(cell, name) for cell in measured])

    with_memory = text_metrics.mean(pooled("general"))
    row: dict[str, Any] = {"method": method, "ratio": ratio, "n": len(pooled("em"))}
    for name in ("em", "f1", "contains", "rouge_l", "agreement", "agreement_f1", "judge", "kl", "drift_kl"):
        row |= {name: text_metrics.mean(pooled(name)), f"{name}_ci95": interval(name)}
    metrics = sorted({cell.metric for cell in group})
    row |= {
        "metric": ", ".join(metrics),
        "score": text_metrics.mean(pooled("scores")),
        "score_ci95": interval(metrics[0] if len(metrics) == 1 else "scores"),
        **_retentions(measured, bounds),
        "drift_points": None if general is None or with_memory is None else 100 * (general - with_memory),
    }
    row |= {name: average(name) for name in ("compile_s", "compile_flops", "compile_steps", "artifact_bytes")}
    row |= {
        "prompt_tokens": average("prompt_tokens"),
        "ttft_ms": statistics.median(pooled("ttft_ms")) if pooled("ttft_ms") else None,
        "failed": len(group) - len(measured),
        "reasons": sorted({cell.reason for cell in group if cell.reason}),
        "records": [_of_record(cell, bounds) for cell in measured],
    }
    curve = _mean_curve([cell.curve for cell in measured])
    return row | ({"curve": curve} if curve else {})


def _mean_curve(curves: Sequence[Sequence[tuple[str, int, float]]]) -> list[tuple[str, int, float]]:
    """The mean loss (nats) by phase and step, over the records that reached the step."""
    losses = dict[tuple[str, int], list[float]]()
    for curve in curves:
        for phase, step, loss in curve:
            losses.setdefault((phase, step), []).append(loss)
    return [(phase, step, round(statistics.mean(values), 5)) for (phase, step), values in losses.items()]


def _of_record(cell: Cell, bounds: Mapping[str, Mapping[str, Cell]]) -> dict[str, Any]:
    row: dict[str, Any] = {"record": cell.record, "contains": text_metrics.mean(cell.contains)}
    row["retention"] = _retention([cell], bounds)
    return row | ({"admission": dict(cell.admission)} if cell.admission else {})


def _retentions(cells: Sequence[Cell], bounds: Mapping[str, Mapping[str, Cell]]) -> dict[str, Any]:
    """Retention, of the score that counts and of token F1, with intervals."""
    row = dict[str, Any]()
    for title, name in (("retention", "scores"), ("retention_f1", "f1")):
        of = partial(_retention, bounds=bounds, name=name)
        row |= {title: of(cells), f"{title}_ci95": text_metrics.bootstrap(cells, of)}
    return row


def _retention(
    cells: Sequence[Cell], bounds: Mapping[str, Mapping[str, Cell]], name: str = "scores"
) -> float | None:
    """The retention over all questions of these records together."""
    paired = [c for c in cells if c.record in bounds["full"] and c.record in bounds["none"]]
    if not paired:
        return None
    score = text_metrics.mean([v for c in paired for v in getattr(c, name)])
    none, full = (
        text_metrics.mean([v for c in paired for v in getattr(bounds[bound][c.record], name)])
        for bound in BOUNDS
    )
    return text_metrics.retention(score, none, full)


def by_category(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Scores and retention for each category of questions, method and ratio; [] without categories."""
    rows = list[dict[str, Any]]()
    for category in dict.fromkeys(name for cell in cells for name in cell.categories if name):
        chosen = [cell.of_category(category) for cell in cells if category in cell.categories]
        rows += [
            {"category": category, "method": row["method"], "ratio": row["ratio"]}
            | {name: row[name] for name in OF_CATEGORY}
            for row in table(chosen, None)
        ]
    return rows


def transcript(records: Sequence[Record], cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Every question with its gold answers, and the answer and score of each method."""
    of_record = dict[str, list[Cell]]()
    for cell in cells:
        of_record.setdefault(cell.record, []).append(cell)
    return [
        {
            "record": record.id,
            "question": question.text,
            "gold": list(question.answers),
            "category": question.category,
            "metric": record.metric,
            "said": [
                {"method": c.method, "ratio": c.ratio, "answer": c.answers[i], "score": c.scores[i]}
                for c in of_record.get(record.id, ())
                if c.answers
            ],
        }
        for record in records
        for i, question in enumerate(record.questions)
    ]
