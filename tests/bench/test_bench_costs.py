"""The benches of first tokens and of starting: their rows are there, and the ratios are of this run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memkit.bench import artifact_corruption, compact, plots, startup, training_step, ttft
from memkit.bench.compile import BenchConfig, bench
from memkit.compilers.compact.compiler import Compact
from memkit.compilers.distillation.flops import FlopMeter
from memkit.errors import ConfigError, ModelError
from memkit.evals.reports import markdown
from memkit.models import shapes
from memkit.models.loading import load

Cli = Callable[..., Any]


def test_first_tokens_stand_beside_what_flops_allow(tiny_model_folder: Path) -> None:
    result = ttft.bench(ttft.TtftConfig((60, 120), 8.0, 2, str(tiny_model_folder)))
    assert len(result["rows"]) == 2
    for row in result["rows"]:
        assert row["of_ideal"] == pytest.approx(row["ratio"] / row["ideal"])
        assert row["ratio_range"][0] <= row["ratio"] <= row["ratio_range"][1]
        assert row["ideal"] > 1
        assert row["floor_ms"] == max(row["flops_ms"], row["bytes_ms"])
        assert 0 < row["buffer_tokens"] < 60
    shorter, longer = (row["ideal"] for row in result["rows"])
    assert longer > shorter
    with pytest.raises(ConfigError):
        ttft.TtftConfig(())


def test_compact_memories_stand_beside_the_prefilled_text(tiny_model_folder: Path) -> None:
    config = compact.CompactBenchConfig((40, 120), 4.0, answer=3, repeats=1, model=str(tiny_model_folder))
    base, compiler = load(str(tiny_model_folder)), Compact({"ratio": 4.0})
    shorter, longer = compact.bench(config)["rows"]
    for row in (shorter, longer):
        tokens = row["context_tokens"]
        prefill = FlopMeter(base.model).forward_flops(tokens, 0)
        assert row["flops_ratio"] >= 2
        assert row["flops_ratio"] == pytest.approx(compiler.estimate(tokens, base).flops / prefill, rel=0.2)
        assert row["memory_tokens"] == -(-tokens // 4)
        assert row["peak_bytes"] >= row["model_bytes"] > 0
        assert row["first_ratio"] == row["full_first_ms"] / row["first_ms"]
    assert longer["artifact_bytes"] > 2 * shorter["artifact_bytes"]
    with pytest.raises(ConfigError):
        compact.CompactBenchConfig(())


def test_a_training_step_stands_beside_a_matrix_product(tiny_model_folder: Path) -> None:
    config = training_step.StepBenchConfig(60, 4.0, examples=6, repeats=1, model=str(tiny_model_folder))
    result = training_step.bench(config)
    apart, filled = result["rows"]
    assert apart["tokens"] == filled["tokens"] <= filled["batch_tokens"] < apart["batch_tokens"]
    for row in (apart, filled):
        assert 0 < row["of_rate"] < 2
    with pytest.raises(ConfigError):
        training_step.StepBenchConfig(examples=0)


@pytest.mark.slow
def test_starting_is_measured_beside_bare_python(cli: Cli, tmp_path: Path) -> None:
    done = cli("bench", "start", "--repeats", "1", "--json", tmp_path / "start.json")
    assert done.code == 0
    assert "memkit --help" in done.out
    assert "| memkit --help |" in markdown.render(tmp_path)
    result = json.loads((tmp_path / "start.json").read_text())
    assert result["rows"][0] == {
        **result["rows"][0],
        "row": "python",
        "extra_ms": 0.0,
        "n": 1,
        "within": None,
    }
    rows = {row["row"]: row for row in result["rows"] if row["within"] is not None}
    assert list(rows) == ["memkit remember -", "memkit list", "memkit search", "memkit forget"]
    for row in rows.values():  # none needs a model
        assert row["within"] == (row["extra_ms"] <= result["allowed_ms"] == 600.0)
        assert row["ms"] > row["extra_ms"] > 0
    with pytest.raises(ConfigError):
        startup.StartConfig(0)


def test_damaged_artifacts_are_refused(tmp_path: Path) -> None:
    (row,) = artifact_corruption.bench(artifact_corruption.CodecConfig(400, 1))["rows"]
    assert row["refused"] + row["unchanged"] == row["cases"] == 400
    assert (row["other_errors"], row["accepted"]) == (0, 0)
    with pytest.raises(ConfigError):
        artifact_corruption.CodecConfig(0)


def test_a_shape_is_compiled_at_a_share_of_the_matrix_rate() -> None:
    result = bench(BenchConfig(model="shape:tiny", ratio=8.0, paper_steps=0, lengths=(60,), length_steps=1))
    (row,) = result["rows"]
    assert row["floor_s"] == pytest.approx(row["of_rate"] * row["compile_s"])
    assert 0 < row["of_rate"] < 1
    assert row["step_of_rate"] is None or row["step_of_rate"] > 0
    with pytest.raises(ConfigError, match="paper_steps"):
        BenchConfig(paper_steps=0)


def test_shapes_have_the_sizes_of_their_models() -> None:
    assert load("shape:tiny").fingerprint == load("shape:tiny").fingerprint
    with pytest.raises(ModelError, match=r"shape:qwen2\.5-7b"):
        load("shape:none")
    sizes = {name: sum(p.numel() for p in _meta(name).parameters()) for name in shapes.SHAPES}
    assert 7.6e9 < sizes["qwen2.5-7b"] < 7.7e9
    assert 1.34e8 < sizes["smollm2-135m"] < 1.35e8


def _meta(name: str) -> Any:
    """Without the memory for its weights."""
    import torch

    return shapes.build(name, "meta", torch.bfloat16)


def test_ratios_are_drawn(cli: Cli, tmp_path: Path) -> None:
    plot = tmp_path / "route.svg"
    assert cli("bench", "route", "--memories", "30", "--queries", "3", "--plot", plot).code == 0
    drawn = plot.read_text()
    assert drawn.startswith("<?xml")
    assert all(words in drawn for words in ("raw FAISS = 1", "recall", "memkit bench route"))
    with pytest.raises(ConfigError, match="--plot"):
        plots.bars({"bench": "crash", "rows": [{"row": "crash", "lost": 0}]})
    assert cli("bench", "start", "--repeats", "1", "--plot", tmp_path / "none" / "x.svg").code == 2


def test_without_a_gpu(cli: Cli) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is one")
    for name in ("ttft", "compile"):
        done = cli("bench", name, "--gpu")
        assert done.code == 2
        assert "needs a GPU" in done.err
