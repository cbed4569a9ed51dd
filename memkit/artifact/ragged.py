"""Keys and values with a different number of rows in every layer and head, without padding.

An artifact of kind ``ragged_kv`` holds ``rows`` ``[layer, kv_head]`` (int64), the number of rows of each
head, and, for all heads one after the other, ``keys`` and ``values`` ``[row, head_dim]`` in the forms of
`memkit.artifact.quantization` and ``bias`` ``[row]`` (float32), which is added to a key's attention scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import TYPE_CHECKING, Final, TypeAlias

from memkit.artifact.quantization import Stored, Tensors, dequantized, quantized, reasonable
from memkit.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor

    from memkit.artifact.format import Artifact

KIND: Final = "ragged_kv"
ROW_AXES = ("row", "head_dim")
Head: TypeAlias = "tuple[Tensor, Tensor, Tensor]"  # keys and values [row, head_dim], bias [row]


def ragged_tensors(layers: Sequence[Sequence[Head]], stored: Stored) -> Tensors:
    """The tensors of an artifact with the heads ``layers[layer][kv_head]``; see the module."""
    import torch

    heads = list(chain.from_iterable(layers))
    keys, values, bias = (torch.cat([head[part].detach().cpu() for head in heads]) for part in range(3))
    counts = torch.tensor([[len(head[0]) for head in layer] for layer in layers])
    return {
        **quantized({"keys": keys, "values": values}, stored, ROW_AXES),
        "bias": (bias.float(), ("row",)),
        "rows": (counts, ("layer", "kv_head")),
    }


def read_ragged(artifact: Artifact) -> list[list[Head]]:
    """The heads of an artifact, ``[layer][kv_head]``, restored up to rounding.

    Raises `ArtifactError` for missing or malformed tensors.
    """
    import torch

    counts, bias = artifact.tensor("rows"), artifact.tensor("bias")
    keys, values = dequantized(artifact, "keys"), dequantized(artifact, "values")
    if counts.dim() != 2 or counts.dtype != torch.int64 or not counts.numel() or int(counts.min()) < 0:
        raise ArtifactError("not a sound memory: rows does not count the rows of layers and heads")
    # In Python's integers, which do not overflow.
    sizes: list[list[int]] = counts.tolist()
    total = sum(map(sum, sizes))
    if bias.dtype != torch.float32 or bias.shape != (total,) or keys.dim() != 2 or len(keys) != total:
        raise ArtifactError(f"not a sound memory: its tensors do not have the {total} rows that it declares")
    if values.shape != keys.shape or not all(reasonable(part) for part in (keys, values, bias)):
        raise ArtifactError(
            "not a sound memory: its keys and values differ in shape, or are huge or not finite"
        )
    if artifact.manifest.tokens < 1 or not keys.is_floating_point() or not values.is_floating_point():
        raise ArtifactError("not a sound memory: it occupies no positions, or its numbers are whole")
    flat = list(chain.from_iterable(sizes))
    split = iter(zip(keys.split(flat), values.split(flat), bias.split(flat), strict=True))
    return [[next(split) for _ in layer] for layer in sizes]
