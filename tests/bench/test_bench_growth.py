"""The benchmark of what many users leave behind in a process."""

from __future__ import annotations

from pathlib import Path

import pytest

from memkit.bench.growth import GrowthConfig, bench
from memkit.errors import ConfigError
from memkit.models.loading import LoadedModel


def test_it_looks_at_the_process_on_the_way(tiny: LoadedModel, tiny_model_folder: Path) -> None:
    found = bench(GrowthConfig(users=3, requests=20, model=str(tiny_model_folder)))
    assert [row["row"] for row in found["rows"]][:2] == ["2 requests", "4 requests"]
    assert len(found["rows"]) == 10
    assert found["rows"][-1]["attached"] == 3
    assert found["rows"][-1]["rss_mb"] > 0
    assert found["growth_mb"] == pytest.approx(found["rows"][-1]["rss_mb"] - found["rows"][3]["rss_mb"])


def test_settings_are_checked() -> None:
    for users, requests, recalls in ((0, 1, 1), (1, 0, 1), (1, 1, 0)):
        with pytest.raises(ConfigError, match="at least 1"):
            GrowthConfig(users, requests, recalls)
