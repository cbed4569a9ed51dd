"""The bench of recompilation, small."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from memkit.bench.recompile import RecompileConfig, bench
from memkit.testing import TINY_OPTIONS


@pytest.mark.slow
def test_one_process_and_several(tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # which the tests of recompile start
    rows = bench(RecompileConfig(2, 2, str(tiny_model_folder), TINY_OPTIONS))["rows"]
    assert [(row["row"], row["workers"], row.get("compiled")) for row in rows] == [
        ("local", 1, 2),
        ("local", 2, 2),
        ("ray", 2, None),
    ]
    assert rows[0]["ratio_to_one"] == 1.0
    assert "memkit-llm[ray]" in rows[2]["absent"]


def test_numbers_must_be_positive() -> None:
    with pytest.raises(ValueError, match="workers"):
        RecompileConfig(workers=0)
