"""The figure of the README is what ``make figures`` draws, and shows the figures of the measurements."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from memkit.evals.reports.why import ANSWERS, METHODS, SPEED, figure

ROOT = Path(__file__).resolve().parents[2]
IMAGE = ROOT / "docs" / "images" / "why.svg"


def rows(name: str) -> list[dict[str, Any]]:
    return list(json.loads((ROOT / "results" / name).read_text())["rows"])


def test_the_committed_figure_is_the_one_that_is_drawn() -> None:
    pytest.importorskip("matplotlib")
    assert IMAGE.read_text() == figure(ROOT / "results"), "draw it again: make figures"


def test_its_numbers_are_those_of_the_measurements() -> None:
    said = set(re.findall(r"<text [^>]*>([^<]*)</text>", IMAGE.read_text()))
    for row in rows(SPEED):
        expected = (f"{row['full_ms'] / 1e3:.3g} s", f"{row['cold_ms'] / 1e3:.3g} s", row["row"])
        assert {*expected, f"{row['ratio']:.0f}× faster"} <= said
    shown = [row for row in rows(ANSWERS) if (row["method"], row["ratio"]) in METHODS]
    assert len(shown) == len(METHODS)
    for row in shown:
        assert {f"{100 * row['contains']:.1f} %", f"{row['prompt_tokens']:.0f} tokens"} <= said
