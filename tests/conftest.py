"""Fixtures: tiny models built from a configuration, no network."""

from __future__ import annotations

from pathlib import Path

import pytest

from memkit.engine.transformers import TransformersEngine
from memkit.models.loading import LoadedModel, load
from memkit.testing import build_tiny_model


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny"), seed=0)


@pytest.fixture(scope="session")
def other_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same architecture and tokenizer with other weights."""
    return build_tiny_model(tmp_path_factory.mktemp("other"), seed=1)


@pytest.fixture(scope="session")
def tiny(tiny_model_folder: Path) -> LoadedModel:
    return load(str(tiny_model_folder))


@pytest.fixture(scope="session")
def engine(tiny: LoadedModel) -> TransformersEngine:
    return TransformersEngine(tiny)
