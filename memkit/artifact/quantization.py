"""Quantize keys and values: symmetric integers with one scale for each head and token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from memkit.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor

    from memkit.artifact.format import Artifact

Stored = Literal["model", "bfloat16", "int8", "int4"]
STORED: tuple[Stored, ...] = get_args(Stored)
Tensors: TypeAlias = "dict[str, tuple[Tensor, tuple[str, ...]]]"
AXES = ("layer", "kv_head", "token", "head_dim")
LARGEST = 1e6  # of a key or value; those of models are in the hundreds, and the largest numbers overflow
SCALE = ".scale"
_MAX = {"int8": 127, "int4": 7}


def quantized(parts: Mapping[str, Tensor], stored: Stored, axes: Sequence[str] = AXES) -> Tensors:
    """Tensors with these ``axes``, the last one ``head_dim``, in the form in which an artifact stores them.

    "model" leaves their dtype unchanged. The integer forms add a tensor ``NAME.scale`` for each, of the same
    shape but for a last axis of 1; "int4" packs two values into a byte, the first one in its low half. Raises
    `ValueError` for int4 with an odd head_dim.
    """
    import torch

    tensors: Tensors = {}
    named = tuple(axes)
    for name, part in parts.items():
        if stored in ("model", "bfloat16"):
            converted = part if stored == "model" else part.bfloat16()
            tensors[name] = converted.contiguous(), named
            continue
        limit = _MAX[stored]
        # Rounded to bfloat16 first, so that the integers fit the scale that will be read.
        scale = (part.float().abs().amax(-1, keepdim=True) / limit).clamp(min=1e-12).bfloat16()
        integers = (part.float() / scale.float()).round().clamp(-limit, limit).to(torch.int8)
        if stored == "int4":
            if integers.shape[-1] % 2:
                raise ValueError(f"int4 needs an even head_dim, got {integers.shape[-1]}")
            low, high = (integers[..., i::2] + 8 for i in (0, 1))
            integers = (low + 16 * high.to(torch.int16)).to(torch.uint8)
        tensors[name] = integers.contiguous(), named
        tensors[name + SCALE] = scale.contiguous(), named
    return tensors


def dequantized(artifact: Artifact, name: str) -> Tensor:
    """The tensor ``[…, head_dim]`` with that name, restored up to rounding.

    Raises `ArtifactError` for a missing or malformed tensor or scale.
    """
    import torch

    part = artifact.tensor(name)
    if part.dtype not in (torch.int8, torch.uint8):
        return part
    scale = artifact.tensor(name + SCALE).float()
    if part.dim() < 2 or scale.shape != (*part.shape[:-1], 1) or not bool(scale.isfinite().all()):
        raise ArtifactError(f"not a sound memory: {name} has no sound scale")
    if part.dtype == torch.uint8:
        part = torch.stack(((part & 15).to(torch.int8) - 8, (part >> 4).to(torch.int8) - 8), -1).flatten(-2)
    return part.float() * scale


def reasonable(part: Tensor) -> bool:
    """Whether all numbers are finite, and none so large that attention to it is not."""
    return bool((part.abs() <= LARGEST).all())
