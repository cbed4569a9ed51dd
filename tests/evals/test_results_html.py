"""Intervals, categories of questions, other metrics, drift on a file of one's own, and the page of it all."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memkit import text_metrics
from memkit.engine.transformers.engine import TransformersEngine
from memkit.evals.formats.base import Question, Record
from memkit.evals.journal import Cell, by_category, table, transcript
from memkit.evals.reports.markdown import render
from memkit.evals.reports.results_html import results_page
from memkit.evals.run import EvalConfig, evaluate
from memkit.testing import TEXT

RECORD = Record(
    "<a>", TEXT, (Question("Where?", ("Keldor",), "place"), Question("Who?", ("Mira",), "person"))
)


def cell(
    method: str, record: str, *right: float, ratio: float | None = None, metric: str = "contains"
) -> Cell:
    said = tuple("yes & <b>" if value else "no" for value in right)
    return Cell(
        method,
        ratio,
        record,
        right,
        right,
        right,
        rouge_l=right,
        kl=right,
        answers=said,
        metric=metric,
        categories=("place", "person")[: len(right)],
    )


CELLS = [
    cell("full", "<a>", 1, 1),
    cell("full", "b", 1, 0),
    cell("none", "<a>", 0, 0),
    cell("none", "b", 0, 0),
    cell("lcc", "<a>", 1, 0, ratio=4.0),
    cell("lcc", "b", 1, 0, ratio=4.0),
]


def test_bootstrap() -> None:
    values = [float(i % 2) for i in range(100)]
    low, high = text_metrics.bootstrap(values, text_metrics.mean) or (0, 0)
    assert 0.38 < low < 0.5 < high < 0.62
    assert text_metrics.bootstrap(values, text_metrics.mean) == (low, high)
    assert text_metrics.bootstrap(values, text_metrics.mean, seed=1) != (low, high)
    assert text_metrics.bootstrap([1.0], text_metrics.mean) is None
    assert text_metrics.bootstrap([1.0, 2.0], lambda drawn: None) is None
    assert text_metrics.pooled_interval([[1.0, 1.0], [], [0.0]]) == (0.0, 1.0)


def test_every_figure_has_an_interval() -> None:
    for row in table(CELLS, None):
        for name in ("em", "f1", "contains", "rouge_l", "kl", "score"):
            low, high = row[f"{name}_ci95"]
            assert low <= row[name] <= high
    assert table([Cell("full", None, "a", reason="too long")], None)[0]["em_ci95"] is None


def test_categories_are_rows_of_their_own() -> None:
    rows = {(row["category"], row["method"]): row for row in by_category(CELLS)}
    assert list(rows)[:3] == [("place", "full"), ("place", "none"), ("place", "lcc")]
    assert rows["place", "lcc"]["retention"] == 1.0
    assert rows["person", "lcc"]["retention"] == 0.0
    assert rows["person", "full"]["score"] == 0.5
    assert rows["person", "full"]["n"] == 2
    assert by_category([Cell("full", None, "a", (1.0,), (1.0,), (1.0,), categories=("",))]) == []


def test_retention_is_of_the_metric_that_counts() -> None:
    cells = [cell(m, "s", v, metric="rouge_l") for m, v in (("full", 0.4), ("none", 0.2), ("lcc", 0.3))]
    row = table(cells, None)[2]
    assert (row["metric"], row["score"]) == ("rouge_l", 0.3)
    assert row["retention"] == pytest.approx(0.5)


def test_the_page_shows_failures_beside_successes() -> None:
    pytest.importorskip("matplotlib")
    report = {
        "rows": table(CELLS, 1.0),
        "categories": by_category(CELLS),
        "asked": transcript([RECORD], CELLS),
        "model": "nano",
        "source": "<s>",
        "records": 1,
        "seed": 0,
        "general_without_memory": 1.0,
        "machine": "m",
        "date": "d",
    }
    text = results_page(report)
    assert "nano on &lt;s&gt;" in text
    assert "Lost by a memory (1)" in text
    assert "Kept by every memory (1)" in text
    assert text.index("Who?") < text.index("Where?")
    assert "✓ yes &amp; &lt;b&gt;" in text
    assert "✗ no" in text
    assert "<td>place: lcc 4×</td>" in text
    assert "<b>" not in text
    assert not re.search(r'(src|href)="(?!#)', text)


def test_drift_on_a_file(engine: TransformersEngine, tmp_path: Path) -> None:
    file, general = tmp_path / "r.jsonl", tmp_path / "general.jsonl"
    asked = [{"q": "Where does Mira live?", "answers": ["Keldor"], "category": "place"}]
    file.write_text(json.dumps({"id": "a", "context": TEXT, "questions": asked}))
    general.write_text("\n".join(json.dumps({"q": f"Explain number {i}."}) for i in range(40)))
    config = EvalConfig(str(file), compilers=(), drift=str(general))
    with_file, without = (
        evaluate(config, engine=engine),
        evaluate(EvalConfig(str(file), compilers=(), drift="general"), engine=engine),
    )
    assert without["drift"] is None
    assert with_file["drift"] == "general.jsonl"
    none, usual = with_file["rows"][1], without["rows"][1]
    assert none["drift_kl"] != usual["drift_kl"]
    assert none["drift_points"] == usual["drift_points"] == 0  # instructions have no answers
    assert [row["category"] for row in with_file["categories"]] == ["place", "place"]
    assert with_file["asked"][0]["said"][0]["method"] == "full"


def test_drift_can_be_left_out(engine: TransformersEngine, tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    asked = [{"q": "Where does Mira live?", "answers": ["Keldor"]}]
    file.write_text(json.dumps({"id": "a", "context": TEXT, "questions": asked}))
    report = evaluate(EvalConfig(str(file), compilers=()), engine=engine)
    assert [(row["drift_kl"], row["drift_points"]) for row in report["rows"]] == [(None, None)] * 2
    assert report["general_without_memory"] is None
    (tmp_path / "1-r.json").write_text(json.dumps(report))
    assert "Drift was not measured." in render(tmp_path)


def test_the_command_keeps_questions_out_of_its_json(cli: Callable[..., Any], tmp_path: Path) -> None:
    file, result = tmp_path / "r.jsonl", tmp_path / "1-r.json"
    asked = [{"q": "Where does Mira live?", "answers": ["Keldor"], "category": "place"}]
    row = {"context": TEXT, "metric": "f1", "questions": asked}
    file.write_text(f"{json.dumps(row)}\n{json.dumps(row)}")
    done = cli("eval", file, "--compilers", "", "--json", result)
    assert done.code == 0, done.err
    assert "place" in done.out
    assert "Mira" not in result.read_text()
    text = render(tmp_path)
    assert "| metric | score | 95 % CI |" in text
    assert "| place | full | – | 2 |" in text
