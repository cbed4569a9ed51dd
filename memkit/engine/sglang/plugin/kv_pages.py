"""Keys and values in the layout of a server's KV pool: one rank's layers and heads, in the pool's dtype."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from memkit.artifact.format import Artifact
from memkit.artifact.kv import read_kv
from memkit.engine.sglang.plugin.header import Header
from memkit.errors import ArtifactError, EngineError

POOLED = ("float32", "bfloat16", "float16")  # dtypes of a pool that memkit supports


@dataclass(frozen=True)
class Share:
    """The part of a model on one rank: slices of its ``layers`` and KV ``heads``."""

    layers: slice
    heads: slice


def heads_of(total: int, size: int, rank: int) -> slice:
    """The KV heads of one of ``size`` tensor-parallel ranks, as SGLang assigns them.

    With fewer heads than ranks, neighbouring ranks share one. Raises `EngineError` when ``total`` heads
    cannot be divided evenly.
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
    """Raise `EngineError` for a pool with an unsupported dtype, such as scaled FP8."""
    name = str(dtype).removeprefix("torch.")
    if name not in POOLED:
        raise EngineError(
            f"the KV cache holds {name}; memkit writes {', '.join(POOLED)}: start the server without "
            "--kv-cache-dtype"
        )


class Pages:
    """The keys and values of the header and one artifact, ``tokens`` positions, for one rank's pool.

    Raises `ArtifactError` when the artifact's tensors do not have the header's shape.
    """

    def __init__(self, prefix: Header, artifact: Artifact, share: Share) -> None:
        self._header = prefix.keys, prefix.values
        self._memory, self._share = read_kv(artifact), share
        found, wanted = list(self._memory[0].shape), list(prefix.keys.shape)
        wanted[2] = artifact.manifest.tokens
        if found != wanted:
            raise ArtifactError(f"not a sound memory: its keys have the shape {found}, not {wanted}")
        self.tokens = len(prefix.ids) + artifact.manifest.tokens

    def rows(self, layer: int, start: int, stop: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Keys and values of the rank's ``layer`` for tokens ``[start, stop)``.

        Each is ``[token, kv_head, head_dim]``, converted to ``dtype`` directly from the artifact's numbers.
        """
        rows = list[Tensor]()
        number = self._share.layers.start + layer
        for header, memory in zip(self._header, self._memory, strict=True):
            parts = [part[number, self._share.heads] for part in (header, memory)]
            split = parts[0].shape[1]
            cut = (
                parts[0][:, start : max(split, start)][:, : stop - start],
                parts[1][:, max(start - split, 0) : max(stop - split, 0)],
            )
            rows.append(torch.cat([part.to(dtype) for part in cut], 1).transpose(0, 1))
        return rows[0], rows[1]
