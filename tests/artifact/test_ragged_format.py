"""Artifacts of kind ``ragged_kv``: no padding, and nothing malformed is read."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from memkit.artifact.format import Artifact, Manifest
from memkit.artifact.quantization import STORED, Stored
from memkit.artifact.ragged import KIND, Head, ragged_tensors, read_ragged
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import ArtifactError, EngineError
from memkit.models.loading import LoadedModel

SIZE = 16


def heads_of(counts: list[list[int]], size: int = SIZE, seed: int = 0) -> list[list[Head]]:
    generator = torch.Generator().manual_seed(seed)

    def rows(n: int, *shape: int) -> Tensor:
        return torch.randn(n, *shape, generator=generator)

    return [[(rows(n, size), rows(n, size), rows(n)) for n in layer] for layer in counts]


def artifact_of(
    layers: list[list[Head]], stored: Stored = "model", changes: Mapping[str, Tensor | None] | None = None
) -> Artifact:
    """An artifact with these heads; ``changes`` replaces tensors, or leaves out those that are None."""
    tensors = ragged_tensors(layers, stored)
    for name, tensor in (changes or {}).items():
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor, tuple(f"axis{i}" for i in range(tensor.dim()))
    manifest = Manifest(KIND, "compact", "1", {}, 0, "f", 3, "mira", ())
    return Artifact.decode(Artifact.encode(manifest, tensors))


@given(st.lists(st.lists(st.integers(0, 9), min_size=2, max_size=2), min_size=1, max_size=4))
def test_what_is_written_is_read(counts: list[list[int]]) -> None:
    layers = heads_of(counts)
    read = read_ragged(artifact_of(layers))
    assert [[len(keys) for keys, _, _ in layer] for layer in read] == counts
    for ours, theirs in zip(layers, read, strict=True):
        for head, other in zip(ours, theirs, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(head, other, strict=True))


@pytest.mark.parametrize("stored", STORED)
def test_there_is_no_padding(stored: Stored) -> None:
    artifact = artifact_of(heads_of([[100, 0], [1, 3]]), stored)
    bits = {"model": 32, "bfloat16": 16, "int8": 8, "int4": 4}[stored]
    scales = 2 if stored in ("int8", "int4") else 0
    sizes = {spec.name: spec.nbytes for spec in artifact.manifest.tensors}
    assert sizes.pop("rows") == 4 * 8
    assert sum(sizes.values()) == 104 * (2 * (SIZE * bits // 8 + scales) + 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": None}, "no tensor 'rows'"),
        ({"bias": None}, "no tensor 'bias'"),
        ({"values": None}, "no tensor 'values'"),
        ({"rows": torch.tensor([[2, 3], [1, -1]])}, "count"),
        ({"rows": torch.tensor([[2, 3], [1, 2**62]])}, "rows that it declares"),
        ({"rows": torch.tensor([[2, 3], [1, 1]])}, "rows that it declares"),
        ({"rows": torch.tensor([2, 3, 1, 0])}, "count"),
        ({"rows": torch.zeros(0, 2, dtype=torch.int64)}, "count"),
        ({"rows": torch.tensor([[2.0, 3.0], [1.0, 0.0]])}, "count"),
        ({"bias": torch.zeros(5)}, "rows that it declares"),
        ({"bias": torch.zeros(6, dtype=torch.int64)}, "rows that it declares"),
        ({"bias": torch.full((6,), torch.nan)}, "finite"),
        ({"keys": torch.full((6, SIZE), torch.inf)}, "finite"),
        ({"keys": torch.full((6, SIZE), 3e38)}, "huge"),
        ({"keys": torch.zeros(7, SIZE)}, "rows that it declares"),
        ({"keys": torch.zeros(6, 2, SIZE)}, "rows that it declares"),
        ({"values": torch.zeros(6, SIZE + 1)}, "shape"),
        ({"keys": torch.zeros(6, SIZE, dtype=torch.int8)}, "no tensor 'keys.scale'"),
    ],
)
def test_malformed_tensors_are_refused(change: dict[str, Tensor | None], message: str) -> None:
    artifact = artifact_of(heads_of([[2, 3], [1, 0]]), changes=change)
    with pytest.raises(ArtifactError, match=message):
        read_ragged(artifact)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (lambda: heads_of([[2], [2], [2]]), "3 layers"),
        (lambda: heads_of([[2, 2, 2], [2, 2, 2]]), "heads"),
        (lambda: heads_of([[2], [2]], size=SIZE + 2), "heads"),
    ],
)
def test_an_engine_refuses_the_shapes_of_another_model(
    tiny: LoadedModel, engine: TransformersEngine, layers: Callable[[], list[list[Head]]], message: str
) -> None:
    manifest = Manifest(KIND, "compact", "1", {}, 0, tiny.fingerprint, 3, "mira", ())
    artifact = Artifact.decode(Artifact.encode(manifest, ragged_tensors(layers(), "model")))
    with pytest.raises(EngineError, match=message):
        engine.attach(artifact)
