"""Artifacts of fewer bits: what is rounded, what is refused, what it costs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memkit.artifact.format import Artifact, Manifest
from memkit.artifact.quantization import STORED, Stored, dequantized, quantized
from memkit.bench import quantization
from memkit.compilers.lcc.compiler import LCC
from memkit.document import Document
from memkit.engine.base import Request
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import ArtifactError, ConfigError
from memkit.models.loading import LoadedModel
from memkit.testing import TEXT, TINY_OPTIONS

MANIFEST = Manifest("kv", "lcc", "1", {}, 0, "f", 0, "mira", ())
STEPS = {"model": 0.0, "bfloat16": 1 / 128, "int8": 1 / 127, "int4": 1 / 7}


def file_of(tensor: torch.Tensor, form: Stored) -> Artifact:
    return Artifact.decode(Artifact.encode(MANIFEST, quantized({"keys": tensor}, form)))


@given(seed=st.integers(0, 1000), size=st.sampled_from([1e-6, 1.0, 1e4]), form=st.sampled_from(STORED))
def test_no_number_moves_by_more_than_a_step(seed: int, size: float, form: Stored) -> None:
    torch.manual_seed(seed)
    tensor = torch.randn(2, 3, 4, 6) * size
    read = dequantized(file_of(tensor, form), "keys").float()
    most = tensor.abs().amax(-1, keepdim=True)
    assert read.shape == tensor.shape
    assert bool(((read - tensor).abs() <= STEPS[form] * most * 1.01 + 1e-12).all())


def test_nothing_but_zeros() -> None:
    for form in STORED:
        assert dequantized(file_of(torch.zeros(1, 1, 2, 4), form), "keys").abs().max() == 0


@pytest.mark.parametrize("form", STORED)
def test_it_is_compiled_attached_and_answered_from(
    form: Stored, tiny: LoadedModel, engine: TransformersEngine
) -> None:
    data = LCC({**TINY_OPTIONS, "stored": form}).compile(Document(TEXT), tiny, tenant="mira").data
    handle = engine.attach(Artifact.decode(data))
    (answer,) = engine.generate([Request("Where does Mira live?", handle=handle, max_tokens=4)])
    assert answer.tokens > 0
    engine.detach(handle)


def test_fewer_bits_are_fewer_bytes() -> None:
    parts = {name: torch.randn(6, 4, 15, 48) for name in ("keys", "values")}
    data = Artifact.encode(MANIFEST, quantized(parts, "model"))
    sizes = [len(quantization.stored(data, form)) for form in STORED]
    assert sizes == sorted(sizes, reverse=True)


def test_what_is_not_sound_is_refused(engine: TransformersEngine, tiny: LoadedModel) -> None:
    with pytest.raises(ConfigError, match="stored"):
        LCC({"stored": "int2"})
    with pytest.raises(ValueError, match="even head_dim"):
        quantized({"keys": torch.ones(1, 1, 1, 3)}, "int4")
    good = LCC({**TINY_OPTIONS, "stored": "int8"}).compile(Document(TEXT), tiny, tenant="mira").data
    artifact = Artifact.decode(good)
    parts = {spec.name: (artifact.tensor(spec.name), spec.axes) for spec in artifact.manifest.tensors}
    manifest = replace(artifact.manifest, tensors=())
    alone = {name: part for name, part in parts.items() if name != "keys.scale"}
    with pytest.raises(ArtifactError, match=r"keys\.scale"):
        engine.attach(Artifact.decode(Artifact.encode(manifest, alone)))
    scale, axes = parts["keys.scale"]
    infinite = {**parts, "keys.scale": (torch.full_like(scale, torch.inf), axes)}
    with pytest.raises(ArtifactError, match="sound scale"):
        engine.attach(Artifact.decode(Artifact.encode(manifest, infinite)))


def test_the_bench_has_a_row_for_every_form(tiny_model_folder: Path) -> None:
    config = quantization.BytesConfig("generated:1", 4.0, str(tiny_model_folder), {**TINY_OPTIONS})
    result = quantization.bench(config)
    assert [row["row"] for row in result["rows"]][:4] == list(STORED)
    assert result["rows"][0]["loss_points"] in (0.0, None)
    assert all(row["saving"] > 0 for row in result["rows"])
    with pytest.raises(ConfigError):
        quantization.BytesConfig(options={"stored": "int8"})
