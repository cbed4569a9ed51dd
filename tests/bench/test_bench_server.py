"""The fuzz and the load, in small."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("schemathesis")

from memkit.bench.http_fuzz import FuzzConfig
from memkit.bench.http_fuzz import bench as fuzz
from memkit.bench.http_load import LoadConfig
from memkit.bench.http_load import bench as load
from memkit.errors import ConfigError


@pytest.mark.slow
def test_no_request_makes_the_server_fail() -> None:
    found = fuzz(FuzzConfig(cases=150))
    (row,) = found["rows"]
    assert row["cases"] >= 150
    assert not found["failures"], "\n".join(found["failures"])
    assert (row["server_errors"], row["not_as_described"]) == (0, 0)


@pytest.mark.slow
def test_clients_at_once_see_only_their_own(tiny_model_folder: Path) -> None:
    found = load(LoadConfig(clients=6, seconds=4, tenants=3, model=str(tiny_model_folder), samples=20))
    (row,) = found["rows"]
    assert row["answers"] > 0
    assert (row["errors"], row["cross_tenant"]) == (0, 0), row["first_errors"]
    assert row["overhead_ms_p50"] > 0


@pytest.mark.parametrize("wrong", [{"clients": 0}, {"seconds": 0}, {"remembers": 0.9, "forgets": 0.2}])
def test_settings_that_are_wrong(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        LoadConfig(**wrong)  # type: ignore[arg-type] # wrong values of any type
    with pytest.raises(ConfigError):
        FuzzConfig(cases=0)
