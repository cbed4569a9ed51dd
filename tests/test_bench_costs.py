"""The benches of first tokens and of starting: their rows are there, and the ratios are of this run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memkit.errors import ConfigError
from memkit.evals import bench_codec, bench_start, report, ttft

Cli = Callable[..., Any]


def test_first_tokens_stand_beside_what_flops_allow(tiny_model_folder: Path) -> None:
    result = ttft.bench(ttft.TtftConfig((60, 120), 8.0, 2, str(tiny_model_folder)))
    assert len(result["rows"]) == 2
    for row in result["rows"]:
        assert row["of_ideal"] == pytest.approx(row["ratio"] / row["ideal"])
        assert row["ratio_range"][0] <= row["ratio"] <= row["ratio_range"][1]
        assert row["ideal"] > 1
        assert 0 < row["buffer_tokens"] < 60
    shorter, longer = (row["ideal"] for row in result["rows"])
    assert longer > shorter
    with pytest.raises(ConfigError):
        ttft.TtftConfig(())


def test_starting_is_measured_beside_bare_python(cli: Cli, tmp_path: Path) -> None:
    done = cli("bench", "start", "--repeats", "1", "--json", tmp_path / "start.json")
    assert done.code == 0
    assert "memkit --help" in done.out
    assert "| memkit --help |" in report.render(tmp_path)
    result = bench_start.bench(bench_start.StartConfig(1))
    assert result["rows"][0] == {**result["rows"][0], "row": "python", "extra_ms": 0.0}
    with pytest.raises(ConfigError):
        bench_start.StartConfig(0)


def test_damaged_artifacts_are_refused(tmp_path: Path) -> None:
    (row,) = bench_codec.bench(bench_codec.CodecConfig(400, 1))["rows"]
    assert row["refused"] + row["unchanged"] == row["cases"] == 400
    assert (row["other_errors"], row["accepted"]) == (0, 0)
    with pytest.raises(ConfigError):
        bench_codec.CodecConfig(0)
