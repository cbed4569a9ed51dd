"""Artifacts of kind ``kv``: what is malformed is refused before a model reads it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from memkit.artifact.format import Artifact, Manifest
from memkit.artifact.kv import read_kv
from memkit.artifact.quantization import AXES
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import ArtifactError, EngineError
from memkit.models.kv_shape import kv_shape

TOKENS = 3
SOUND = torch.ones(2, 1, TOKENS, 4)


def artifact_of(keys: Tensor, values: Tensor, fingerprint: str = "model") -> Artifact:
    manifest = Manifest("kv", "lcc", "1", {}, 0, fingerprint, TOKENS, "mira", ())
    tensors = {name: (part, AXES[-part.dim() :]) for name, part in (("keys", keys), ("values", values))}
    return Artifact.decode(Artifact.encode(manifest, tensors))


def test_what_is_stored_is_read() -> None:
    keys, values = read_kv(artifact_of(SOUND, 2 * SOUND))
    assert torch.equal(keys, SOUND)
    assert torch.equal(values, 2 * SOUND)


@pytest.mark.parametrize("part", ["keys", "values"])
@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.ones(2, TOKENS, 4), "has the shape"),
        (torch.ones(2, 1, TOKENS, 4, dtype=torch.int64), "whole numbers"),
        (torch.zeros(2, 1, 0, 4), "has the shape"),
        (SOUND * torch.nan, "not finite"),
        (SOUND * torch.inf, "not finite"),
        (SOUND * 3e38, "huge"),
        (torch.ones(2, 1, TOKENS, 6), "of 3 tokens"),
        (torch.ones(2, 1, TOKENS + 1, 4), "of 3 tokens"),
    ],
)
def test_malformed_tensors_are_refused(part: str, tensor: Tensor, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        read_kv(artifact_of(*(tensor, SOUND) if part == "keys" else (SOUND, tensor)))


def test_another_number_of_tokens_is_refused() -> None:
    with pytest.raises(ArtifactError, match="of 3 tokens"):
        read_kv(artifact_of(SOUND[:, :, :2], SOUND[:, :, :2]))


@pytest.mark.parametrize(("axis", "more"), [(0, 1), (1, 1), (3, 2)])
def test_an_engine_refuses_the_shape_of_another_model(
    engine: TransformersEngine, axis: int, more: int
) -> None:
    config = engine.base.model.config
    shape = [
        config.num_hidden_layers,
        config.num_key_value_heads,
        TOKENS,
        kv_shape(engine.base.model.config).size,
    ]
    shape[axis] += more
    with pytest.raises(EngineError, match="heads of"):
        engine.attach(artifact_of(torch.ones(shape), torch.ones(shape), engine.fingerprint))
