"""The simulated year, short and with a tiny model."""

from __future__ import annotations

from pathlib import Path

import pytest

from memkit.bench.running_memory_year import YearConfig, _life, bench, plot
from memkit.pipeline.admission import AdmissionConfig
from memkit.testing import TINY_OPTIONS


def test_a_short_year(tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = AdmissionConfig(questions=4, pieces=1)
    monkeypatch.setattr("memkit.memory.AdmissionConfig", lambda: few)
    config = YearConfig(2, 4, 3, 1, 1, str(tiny_model_folder), TINY_OPTIONS)
    result = bench(config)
    rows = {row["row"]: row for row in result["rows"]}
    assert set(rows) == {"full log", "memkit", "artifact", "nights"}
    assert (rows["memkit"]["n"], rows["memkit"]["n_changed"]) == (6, 2)
    assert rows["nights"]["compilations"]["compiled"] >= 2
    assert rows["nights"]["bytes_end"] > 0
    plot(result, tmp_path / "year.svg")
    assert (tmp_path / "year.svg").read_text().startswith("<?xml")


def test_a_life_tells_its_changes_in_order() -> None:
    life = _life(YearConfig(users=1, nights=50, facts=4, changes=3), 0)
    lines = [line for night in sorted(life.lines) for line in life.lines[night]]
    assert len(lines) == 7
    assert len(life.asked) == 4
    for _, value, earlier in life.asked:
        where = [max(i for i, line in enumerate(lines) if each in line) for each in (*earlier, value)]
        assert where[-1] == max(where)  # the current value is the last one told
    assert sum(len(earlier) for _, _, earlier in life.asked) == 3


@pytest.mark.parametrize("bad", [{"users": 0}, {"nights": 0}, {"changes": -1}, {"keep": 0}])
def test_bad_numbers(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        YearConfig(**bad)  # type: ignore[arg-type] # numbers of each
