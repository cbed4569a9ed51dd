"""Keys and values as a server's pool wants them: one rank's layers and heads, in the pool's numbers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from memkit.artifact.format import Artifact
from memkit.artifact.quantization import dequantized
from memkit.engine.sglang.plugin.header import Header
from memkit.errors import ArtifactError, EngineError

POOLED = ("float32", "bfloat16", "float16")  # numbers of a pool that memkit writes


@dataclass(frozen=True)
class Share:
    """What one rank holds of a model: ``layers`` and ``heads``, slices of the whole."""

    layers: slice
    heads: slice


def heads_of(total: int, size: int, rank: int) -> slice:
    """The KV heads of one of ``size`` tensor-parallel ranks, as SGLang deals them out.

    With fewer heads than ranks, neighbouring ranks hold the same one. Raises `EngineError` where they
    cannot be dealt out evenly.
    """
    if not 0 <= rank < size:
        raise EngineError(f"there is no rank {rank} among {size}")
    if total >= size:
        if total % size:
            raise EngineError(f"{total} KV heads cannot be split over {size} ranks")
        each = total // size
        return slice(rank * each, (rank + 1) * each)
    if size % total:
        raise EngineError(f"{total} KV heads cannot be repeated over {size} ranks")
    head = rank // (size // total)
    return slice(head, head + 1)


def require_pooled(dtype: torch.dtype) -> None:
    """Raise `EngineError` for a pool whose numbers memkit does not write, such as scaled FP8."""
    name = str(dtype).removeprefix("torch.")
    if name not in POOLED:
        raise EngineError(
            f"the KV cache holds {name}; memkit writes {', '.join(POOLED)}: start the server without "
            "--kv-cache-dtype"
        )


class Pages:
    """The header's and one artifact's keys and values: ``tokens`` positions, for one rank's pool."""

    def __init__(self, prefix: Header, artifact: Artifact, share: Share) -> None:
        self._header = prefix.keys, prefix.values
        memory = dequantized(artifact, "keys"), dequantized(artifact, "values")
        self._memory, self._share = memory, share
        wanted = list(prefix.keys.shape)
        wanted[2] = artifact.manifest.tokens
        for name, part in zip(("keys", "values"), memory, strict=True):
            if list(part.shape) != wanted or not part.is_floating_point():
                raise ArtifactError(
                    f"not a sound memory: {name} has the shape {list(part.shape)}, not {wanted}"
                )
        self.tokens = len(prefix.ids) + artifact.manifest.tokens

    def rows(self, layer: int, start: int, stop: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values of the rank's ``layer``, each ``[token, kv_head, head_dim]``, tokens start to stop.

        Numbers of another type are rounded to ``dtype``, once, from what the artifact holds.
        """
        made = list[Tensor]()
        number = self._share.layers.start + layer
        for header, memory in zip(self._header, self._memory, strict=True):
            parts = [part[number, self._share.heads] for part in (header, memory)]
            split = parts[0].shape[1]
            cut = (
                parts[0][:, start : max(split, start)][:, : stop - start],
                parts[1][:, max(start - split, 0) : max(stop - split, 0)],
            )
            made.append(torch.cat([part.to(dtype) for part in cut], 1).transpose(0, 1))
        return made[0], made[1]
