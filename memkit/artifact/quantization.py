"""Keys and values stored in fewer bits: symmetric integers with one scale for each head and token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

from memkit.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor

    from memkit.artifact.format import Artifact

Stored = Literal["model", "bfloat16", "int8", "int4"]
STORED: tuple[Stored, ...] = get_args(Stored)
Tensors: TypeAlias = "dict[str, tuple[Tensor, tuple[str, ...]]]"
AXES = ("layer", "kv_head", "token", "head_dim")
SCALE = ".scale"
_MOST = {"int8": 127, "int4": 7}


def quantized(parts: Mapping[str, Tensor], stored: Stored) -> Tensors:
    """What an artifact holds of tensors ``[layer, kv_head, token, head_dim]``.

    "model" leaves them as they are. For integers a tensor ``NAME.scale``, ``[layer, kv_head, token, 1]``,
    stands beside each; two values of "int4" share a byte, the first one in its low half. Raises `ValueError`
    for int4 of an odd head_dim.
    """
    import torch

    made: Tensors = {}
    for name, part in parts.items():
        if stored in ("model", "bfloat16"):
            kept = part if stored == "model" else part.bfloat16()
            made[name] = kept.contiguous(), AXES
            continue
        most = _MOST[stored]
        # As it will be read, so that rounding is to what the stored scale gives.
        scale = (part.float().abs().amax(-1, keepdim=True) / most).clamp(min=1e-12).bfloat16()
        whole = (part.float() / scale.float()).round().clamp(-most, most).to(torch.int8)
        if stored == "int4":
            if whole.shape[-1] % 2:
                raise ValueError(f"int4 needs an even head_dim, got {whole.shape[-1]}")
            low, high = (whole[..., i::2] + 8 for i in (0, 1))
            whole = (low + 16 * high.to(torch.int16)).to(torch.uint8)
        made[name] = whole.contiguous(), AXES
        made[name + SCALE] = scale.contiguous(), AXES
    return made


def dequantized(artifact: Artifact, name: str) -> Tensor:
    """The tensor ``[layer, kv_head, token, head_dim]`` of that name, as it was up to rounding.

    Raises `ArtifactError` where it has no scale, or an unsound one.
    """
    import torch

    part = artifact.tensor(name)
    if part.dtype not in (torch.int8, torch.uint8):
        return part
    scale = artifact.tensor(name + SCALE).float()
    if part.dim() != 4 or scale.shape != (*part.shape[:3], 1) or not bool(scale.isfinite().all()):
        raise ArtifactError(f"not a sound memory: {name} has no sound scale")
    if part.dtype == torch.uint8:
        part = torch.stack(((part & 15).to(torch.int8) - 8, (part >> 4).to(torch.int8) - 8), -1).flatten(-2)
    return part.float() * scale
