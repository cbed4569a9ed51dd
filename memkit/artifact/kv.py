"""Artifacts of kind ``kv``: the same number of keys and values in every head.

Their tensors ``keys`` and ``values`` ``[layer, kv_head, token, head_dim]`` have one of the forms of
`memkit.artifact.quantization`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memkit.artifact.quantization import dequantized, reasonable
from memkit.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor

    from memkit.artifact.format import Artifact


def read_kv(artifact: Artifact) -> tuple[Tensor, Tensor]:
    """The keys and values ``[layer, kv_head, token, head_dim]`` of an artifact, restored up to rounding.

    Raises `ArtifactError` for missing or malformed tensors.
    """
    keys, values = dequantized(artifact, "keys"), dequantized(artifact, "values")
    for name, part in (("keys", keys), ("values", values)):
        if part.dim() != 4 or not part.numel() or not part.is_floating_point():
            raise ArtifactError(
                f"not a sound memory: {name} has the shape {list(part.shape)}, not [layer, kv_head, token, "
                "head_dim], or whole numbers"
            )
        if not reasonable(part):
            raise ArtifactError(f"not a sound memory: {name} has numbers that are huge or not finite")
    if keys.shape != values.shape or keys.shape[2] != artifact.manifest.tokens:
        raise ArtifactError(
            f"not a sound memory: keys {list(keys.shape)} and values {list(values.shape)} of "
            f"{artifact.manifest.tokens} tokens"
        )
    return keys, values
