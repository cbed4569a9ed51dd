"""Studies, their page, the cost bench and pruned caches, on a tiny model."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memkit.bench.compile import BenchConfig, bench
from memkit.compilers.base import configure
from memkit.compilers.lcc.compiler import LCC, train_coupled
from memkit.compilers.lcc.config import LCCConfig
from memkit.document import Document
from memkit.engine.transformers import kv_cache
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import CompileError, ConfigError
from memkit.evals.journal import Cell, table
from memkit.evals.lcc_studies import studies
from memkit.evals.reports.markdown import answers, render
from memkit.evals.reports.study_html import page
from memkit.evals.run import EvalConfig, Variant, evaluate
from memkit.testing import TEXT, TINY_OPTIONS


@pytest.fixture
def records_file(tmp_path: Path) -> Path:
    row = {"id": "a", "context": TEXT, "questions": [{"q": "Where does Mira live?", "answers": ["Keldor"]}]}
    file = tmp_path / "r.jsonl"
    file.write_text(json.dumps(row) + "\n" + json.dumps({**row, "id": "b"}))
    return file


def test_variants_with_equal_options_are_compiled_once(
    engine: TransformersEngine, records_file: Path
) -> None:
    variants = (
        Variant("a", "lcc", 8, {"agnostic": 1}),
        Variant("b", "lcc", 8, {"agnostic": 1}),
        Variant("c", "lcc", 8, {"agnostic": 2}),
        Variant("d", "lcc", 8, {"coupled": True}),
    )
    seen = set[tuple[str, ...]]()
    config = EvalConfig(
        str(records_file), compilers=(), variants=variants, options={**TINY_OPTIONS, "self_study": 0}
    )
    report = evaluate(config, lambda label, done, total: seen.add(tuple(label.split()[:2])), engine)
    rows = {row["method"]: row for row in report["rows"]}
    assert set(rows) == {"full", "none", "a", "b", "c", "d"}
    assert {("a", "a"), ("a", "c"), ("b", "a"), ("b", "c")} <= seen
    assert not {("a", "b"), ("b", "b")} & seen
    assert rows["a"]["kl"] == rows["b"]["kl"] != rows["c"]["kl"]
    assert rows["d"]["n"] == 2


def test_the_coupled_ablation_answers_with_its_lora(engine: TransformersEngine) -> None:
    config = configure(LCCConfig, {}, {**TINY_OPTIONS, "steps": 8, "kv_steps": 0, "lr": 0.05})
    student, memory = train_coupled(Document(TEXT), engine.base, config)
    header = kv_cache.prefill(engine.base.model, list(engine.base.chat.header))
    query = engine.base.chat.query(engine.base.tokenizer, "Where does Mira live?", True)
    prefix = header.join(memory)
    batch = kv_cache.AnswerBatch.of([(query, [5])], prefix, engine.base.model.device)
    coupled, frozen = (kv_cache.answer_logits(m.model, prefix, batch) for m in (student, engine.base))
    assert (coupled - frozen).abs().max() > 1e-3
    with pytest.raises(CompileError, match="ablation"):
        LCC({"coupled": True}).compile(Document(TEXT), engine.base, tenant="t")


def test_accumulation_averages_the_draws(engine: TransformersEngine) -> None:
    made = LCC({**TINY_OPTIONS, "accumulate": 2}).compile(Document(TEXT), engine.base, tenant="t")
    assert made.steps == TINY_OPTIONS["steps"] + TINY_OPTIONS["kv_steps"]
    with pytest.raises(ConfigError, match="accumulate"):
        LCC({"accumulate": 0})


def test_every_study_is_of_valid_variants() -> None:
    found = studies("lcc")
    assert {s.key for s in found} == {"isolation", "queries", "objectives", "ratio", "loss"}
    (recipe,) = studies("recipe")
    assert [bool(v.predicted) for v in recipe.variants] == [False] + [True] * (len(recipe.variants) - 1)
    found = (*found, recipe)
    EvalConfig("generated", compilers=(), variants=tuple(v for s in found for v in s.variants))
    with pytest.raises(ConfigError, match="no study"):
        studies("x")


def test_a_page_shows_every_variant_and_needs_nothing_else() -> None:
    pytest.importorskip("matplotlib")
    cells = [
        Cell(label, ratio, record, contains=(float(label != "none"),))
        for label, ratio in [("full", None), ("none", None), ("loss: KL", 16.0), ("loss: MSE", 16.0)]
        for record in "ab"
    ]
    report = {
        "rows": table(cells, 1.0),
        "model": "<nano>",
        "source": "s",
        "records": 2,
        "seed": 0,
        "machine": "m",
        "date": "d",
    }
    text = page(report, studies("lcc"), "Studies & more")
    assert "Studies &amp; more" in text
    assert "&lt;nano&gt;" in text
    assert "<td>KL</td>" in text
    assert "<td>MSE</td>" in text
    assert text.count("<svg") == 1  # the other studies were not run
    assert not re.search(r'(src|href)="(?!#)', text)


def test_predictions_stand_beside_what_came(
    engine: TransformersEngine, records_file: Path, tmp_path: Path
) -> None:
    variants = (
        Variant("recipe: all", "lcc", 8, {}),
        Variant("recipe: less", "lcc", 8, {"steps": 1}, "costs less"),
    )
    config = EvalConfig(str(records_file), compilers=(), variants=variants, options=TINY_OPTIONS)
    table = evaluate(config, engine=engine)
    flops = [row["compile_flops"] for row in table["rows"][2:]]
    text = answers("r", table, tmp_path)
    assert f"| less | costs less | – | {flops[1] / flops[0]:.2f} |" in text
    assert "Against all:" in text


def test_processes_measure_what_one_does(tiny_model_folder: Path, records_file: Path, tmp_path: Path) -> None:
    config = EvalConfig(str(records_file), str(tiny_model_folder), options=TINY_OPTIONS)
    one, two = evaluate(config), evaluate(config, journal=tmp_path / "journal", workers=2)
    same = ("method", "n", "em", "kl", "drift_kl", "artifact_bytes", "compile_flops")
    for a, b in zip(one["rows"], two["rows"], strict=True):
        assert [a[name] for name in same] == [b[name] for name in same]
        assert [r["record"] for r in a["records"]] == [r["record"] for r in b["records"]]
    assert not (tmp_path / "journal").exists()


def test_bench_compares_with_the_whole_paper_preset(tiny_model_folder: Path, records_file: Path) -> None:
    config = BenchConfig(
        str(records_file), str(tiny_model_folder), paper_steps=2, lengths=(64,), length_steps=1
    )
    report = bench(config)
    fast, paper, length = report["rows"]
    assert (fast["row"], paper["row"], length["row"]) == ("fast", "paper", "64 tokens")
    assert paper["flops_ratio_vs_paper"] == 1
    assert 0 < fast["flops_ratio_vs_paper"] < 1
    assert paper["compile_steps"] == 2
    assert paper["steps_of_preset"] == 22_500
    assert length["compile_steps"] == 2
    assert min(row["peak_bytes"] for row in report["rows"]) > 1e6


@pytest.mark.parametrize("bad", [{"paper_steps": 0}, {"ratio": 0.5}, {"lengths": (0,)}])
def test_bad_bench_settings(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        BenchConfig(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("study", "option"),
    [("router", "--html"), ("router", "--drift"), ("meanpool", "--wording"), (None, "--unanswerable")],
)
def test_options_belong_to_studies(
    cli: Callable[..., Any], tmp_path: Path, study: str | None, option: str
) -> None:
    done = cli("eval", "generated:1", option, tmp_path / "x", *(("--study", study) if study else ()))
    assert done.code == 2
    assert f"--study {study or 'router'}" in done.err
    assert option in done.err


def test_the_report_shows_costs_and_the_gate(tmp_path: Path) -> None:
    fast = {
        "row": "fast",
        "retention": 0.5,
        "retention_ratio_vs_paper": None,
        "compile_steps": 200,
        "compile_s": 1.0,
        "compile_flops": 1e9,
        "flops_ratio_vs_paper": 0.0125,
        "peak_bytes": 1_000,
        "peak_bytes_over_model": 10,
    }
    about = {"model": "nano", "source": "s", "ratio": 16, "seed": 0, "machine": "m", "date": "d"}
    (tmp_path / "1-costs.json").write_text(json.dumps({"bench": "compile", **about, "rows": [fast]}))
    gate = {"min_fidelity": 0.7, "good": 12, "source": "s", "auc": {"fidelity": 0.9, "answer_nats": None}}
    (tmp_path / "2-gate.json").write_text(json.dumps(gate))
    text = render(tmp_path)
    assert "| fast | – | 0.500 | – | 200 | 1.0 | 1.00e+09 | – | 0.0125 | – | – | 1,000 | 10 |" in text
    assert "| min_fidelity | 0.7 |" in text
    assert "| AUC of fidelity | 0.900 |" in text
    assert "| AUC of answer_nats | – |" in text
