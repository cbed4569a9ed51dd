"""The bench of forgetting, with a tiny model that knows nothing, and with a bank that forgets nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from memkit.bench.forgetting import ForgetConfig, bench
from memkit.memory import Memory
from memkit.pipeline.admission import AdmissionConfig
from memkit.testing import TINY_OPTIONS


@pytest.fixture
def config(tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> ForgetConfig:
    few = AdmissionConfig(questions=4, pieces=1)
    monkeypatch.setattr("memkit.memory.AdmissionConfig", lambda: few)
    return ForgetConfig(2, str(tiny_model_folder), TINY_OPTIONS)


def test_nothing_is_left(config: ForgetConfig) -> None:
    rows = {row["row"]: row for row in bench(config)["rows"]}
    assert rows["before"]["facts"] == 12  # 8 of a document, half of the other's
    for name in ("gate auto", "gate rule", "versions", "bank files", "exports", "backup"):
        assert rows[name]["answered"] == 0, name
    assert rows["backup"]["facts"] > 3


def test_what_is_left_is_found(config: ForgetConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Memory, "forget", lambda *_, **__: [])
    rows = {row["row"]: row for row in bench(config)["rows"]}
    assert rows["bank files"]["answered"] == rows["bank files"]["facts"] > 3
    assert rows["backup"]["answered"] == rows["backup"]["facts"]


def test_documents_must_be_some() -> None:
    with pytest.raises(ValueError, match="documents"):
        ForgetConfig(1)
