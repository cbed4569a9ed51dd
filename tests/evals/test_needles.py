"""Needles in haystacks: the same for a seed, where they should be, found or not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkit import text_metrics
from memkit.errors import ConfigError
from memkit.evals import records
from memkit.evals.formats.niah import DEPTHS, LENGTHS, Grid, category, place


@pytest.fixture(scope="module")
def essays(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("essays") / "essays.txt"
    lines = [f"Thought {i} is about the weather of day {i}, and of no other day." for i in range(200)]
    file.write_text("\n\n".join(" ".join(lines[i : i + 5]) for i in range(0, 200, 5)))
    return file


def test_the_same_seed_makes_the_same_haystacks(essays: Path) -> None:
    source = f"niah:{essays}:100,300:0,50:2"
    made = records.load(source, None, 3)
    assert made == records.load(source, None, 3)
    assert made != records.load(source, None, 4)
    assert len({record.id for record in made}) == 8
    assert made[:4] == records.load(f"niah:{essays}:100:0,50:2", None, 3)  # whatever else the grid holds
    assert len(records.load(f"niah:{essays}", None, 0)) == len(LENGTHS) * len(DEPTHS)


def test_a_needle_lies_at_its_depth(essays: Path) -> None:
    for record in records.load(f"niah:{essays}:100,300:0,25,50,100", None, 0):
        (asked,) = record.questions
        where = place(asked.category)
        assert where is not None
        length, depth = where
        (answer,) = asked.answers
        assert record.context.count(answer) == 1
        assert text_metrics.contains(record.context, asked.answers)
        before = len(record.context[: record.context.index(answer)].split())
        assert before / length == pytest.approx(depth / 100, abs=0.2)
        assert length < len(record.context.split()) < length + 15


@pytest.mark.parametrize("grid", [":10", ":100:120", ":100:50:0", ":100:", ":a,b:1:2:3:4"])
def test_bad_grids(essays: Path, grid: str) -> None:
    with pytest.raises(ConfigError):
        records.load(f"niah:{essays}{grid}", None, 0)


def test_the_text_must_be_there_and_long_enough(essays: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no file"):
        records.load(f"niah:{tmp_path / 'absent'}", None, 0)
    with pytest.raises(ConfigError, match="2,800 words; the longest haystack needs 9,000"):
        records.load(f"niah:{essays}:9000", None, 0)


@given(st.integers(50, 10**7), st.integers(0, 1000).map(lambda tenths: tenths / 10))
def test_places_are_read_from_categories(length: int, depth: float) -> None:
    assert place(category(length, depth)) == (length, depth)
    assert Grid.of(f"niah:a b.txt:{length}:{depth:g}") == Grid(Path("a b.txt"), (length,), (depth,))
    assert place("temporal") is None


def test_the_command_draws_a_map(cli: Callable[..., Any], essays: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    page, result = tmp_path / "needles.html", tmp_path / "needles.json"
    wanted = ("--compilers", "", "--baselines", "full,none,rag", "--ratio", "4")
    done = cli("eval", f"niah:{essays}:50,60:0,100", *wanted, "--html", page, "--json", result)
    assert done.code == 0, done.err
    categories = json.loads(result.read_text())["categories"]
    assert {(row["category"], row["method"]) for row in categories} == {
        (category(length, depth), method)
        for length in (50, 60)
        for depth in (0.0, 100.0)
        for method in ("full", "none", "rag")
    }
    text = page.read_text()
    assert "Needles found, by depth and length" in text
    assert text.count("<svg") == 4  # the scores, and a map for each method
