"""Keys and values of which every layer and head has its own number of rows, and the attention over them.

A model attends to them through transformers' `AttentionInterface`: `with_ragged_attention` gives a copy that
shares its weights, and the forward pass takes the rows as its argument `MEMORY`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from memkit.engine.transformers.kv_cache import KVCache, KVPrefix
from memkit.engine.transformers.lora import shared_copy
from memkit.models.kv_shape import sliding

NAME = "memkit_ragged"
MEMORY, OBSERVER = "ragged_memory", "attention_observer"  # arguments of the model's forward pass
HIDDEN = -1e30  # added to hidden scores; finite, so that padding, which sees nothing, gets no NaN
MAX_SCORES = 1 << 25  # attention scores that are in memory at once; a longer query is read in blocks


@dataclass(frozen=True)
class Rows:
    """The keys and values of one head, ``[row, head_dim]``, and the ``bias`` of its scores, ``[row]``.

    The keys are rotated (RoPE) to their positions. A bias b, in nats, makes a row count exp(b) times.
    """

    keys: Tensor
    values: Tensor
    bias: Tensor

    def __len__(self) -> int:
        return len(self.keys)

    def join(self, other: Rows) -> Rows:
        """These rows followed by the ``other`` ones."""
        pairs = (self.keys, other.keys), (self.values, other.values), (self.bias, other.bias)
        return Rows(*(torch.cat(pair) for pair in pairs))


@dataclass(frozen=True)
class RaggedKV:
    """The keys and values of a memory that occupies ``tokens`` positions: ``layers[layer][kv_head]``."""

    layers: tuple[tuple[Rows, ...], ...]
    tokens: int

    @classmethod
    def of(cls, dense: KVPrefix) -> RaggedKV:
        """The same rows in every head of a layer, if it is not ragged already.

        Raises `ValueError` for a batch of several.
        """
        if isinstance(dense, RaggedKV):
            return dense
        if not isinstance(dense, KVCache):
            raise ValueError(f"a {type(dense).__name__} has no rows to read")
        if any(len(layer) != 1 for layer in dense.keys):
            raise ValueError("a ragged memory is made of one row of a batch")
        pairs = zip(dense.keys, dense.values, strict=True)
        layers = tuple(
            tuple(
                Rows(k, v, k.new_zeros(len(k), dtype=torch.float32))
                for k, v in zip(keys[0], values[0], strict=True)
            )
            for keys, values in pairs
        )
        return cls(layers, dense.tokens)

    def empty(self) -> RaggedKV:
        """A memory for the same model without any rows."""
        layers = tuple(
            tuple(Rows(head.keys[:0], head.values[:0], head.bias[:0]) for head in heads)
            for heads in self.layers
        )
        return RaggedKV(layers, 0)

    def join(self, other: KVPrefix) -> RaggedKV:
        """These rows followed by the ``other`` ones, whose keys are rotated to their positions already."""
        following = RaggedKV.of(other)
        layers = tuple(
            tuple(first.join(second) for first, second in zip(*heads, strict=True))
            for heads in zip(self.layers, following.layers, strict=True)
        )
        return RaggedKV(layers, self.tokens + other.tokens)

    def after(self, other: KVPrefix | None) -> RaggedKV:
        """The ``other`` rows, if any, followed by these."""
        return self if other is None else RaggedKV.of(other).join(self)

    # -- as the prefix of a forward pass; see `kv_cache.KVPrefix` ---------------------------------------
    @property
    def cached(self) -> int:
        """Tokens that a cache of transformers holds: none, the attention reads the rows."""
        return 0

    def cache(self, batch: int = 1) -> DynamicCache:
        return DynamicCache()

    def inputs(self) -> Mapping[str, Any]:
        return {MEMORY: RaggedBatch((self,))}


class RaggedBatch:
    """The memories of a batch: one that all its rows share, or one for each row."""

    def __init__(self, memories: Sequence[RaggedKV]) -> None:
        self._memories = tuple(memories)

    def rows(self, layer: int, head: int) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values ``[memory, row, head_dim]`` and bias ``[memory, row]`` of a head, padded to the
        longest by rows with a bias of -inf."""
        return self._padded[layer][head]

    @cached_property
    def _padded(self) -> list[list[tuple[Tensor, Tensor, Tensor]]]:
        return [
            [_padded(heads) for heads in zip(*layers, strict=True)]
            for layers in zip(*(memory.layers for memory in self._memories), strict=True)
        ]


def _padded(heads: Sequence[Rows]) -> tuple[Tensor, Tensor, Tensor]:
    longest = max(map(len, heads))
    if len(heads) == 1:
        return heads[0].keys[None], heads[0].values[None], heads[0].bias[None]
    missing = [longest - len(head) for head in heads]
    return (
        torch.stack([pad(head.keys, (0, 0, 0, n)) for head, n in zip(heads, missing, strict=True)]),
        torch.stack([pad(head.values, (0, 0, 0, n)) for head, n in zip(heads, missing, strict=True)]),
        torch.stack(
            [pad(head.bias, (0, n), value=-torch.inf) for head, n in zip(heads, missing, strict=True)]
        ),
    )


class AttentionObserver(Protocol):
    """Sees what every layer attends with, and attends in its place."""

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        memory: RaggedBatch | None,
        scaling: float,
    ) -> Tensor:
        """Returns what is read, shaped like ``query`` ``[batch, head, token, head_dim]``.

        ``key`` and ``value`` are ``[batch, kv_head, attended token, head_dim]``; all are rotated. The rows of
        ``memory``, if any, come before those keys. The last keys are those of the query's own tokens, each of
        which sees the ones up to itself.
        """


def ragged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention of a layer over a ragged memory, if the argument `MEMORY` holds one, and then over the cache.

    ``query`` is ``[batch, head, token, head_dim]``, ``key`` and ``value`` ``[batch, kv_head, attended token,
    head_dim]``; returns ``[batch, token, head, head_dim]``. Without a memory this is transformers' ``sdpa``.
    """
    memory: RaggedBatch | None = kwargs.pop(MEMORY, None)
    observer: AttentionObserver | None = kwargs.pop(OBSERVER, None)
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    layer = int(getattr(module, "layer_idx"))  # noqa: B009  # nn.Module types it as a tensor or module
    if observer is not None:
        seen = observer.attend(layer, query, key, value, memory, scale)
        return seen.to(query.dtype).transpose(1, 2).contiguous(), None
    if memory is None:
        out: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return out
    batch, heads, n, size = query.shape
    groups, attended = key.shape[1], key.shape[2]
    grouped = query.view(batch, groups, heads // groups, n, size)
    mask = _additive(attention_mask, n, attended, query)
    read = torch.stack(
        [
            _attend(grouped[:, g], key[:, g], value[:, g], memory.rows(layer, g), mask, scale)
            for g in range(groups)
        ],
        1,
    )
    return read.view(batch, heads, n, size).transpose(1, 2).contiguous(), None


def _additive(mask: Tensor | None, n: int, attended: int, like: Tensor) -> Tensor | None:
    """A mask ``[batch, 1, token, attended token]`` in float32, to add to scores; None hides nothing."""
    if mask is None:
        if n == 1:
            return None
        mask = torch.ones(n, attended, dtype=torch.bool, device=like.device).tril(attended - n)[None, None]
    mask = mask[..., :attended]
    if mask.dtype != torch.bool:
        return mask.float().clamp(min=HIDDEN)
    return torch.zeros(mask.shape, device=like.device).masked_fill(~mask, HIDDEN)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    memory: tuple[Tensor, Tensor, Tensor],
    mask: Tensor | None,
    scale: float,
) -> Tensor:
    """The attention ``[batch, head, token, head_dim]`` of the query heads of one KV head, in blocks."""
    per_token = query.shape[0] * query.shape[1] * (memory[0].shape[1] + key.shape[1])
    block = max(1, MAX_SCORES // max(per_token, 1))
    n = query.shape[2]
    blocks = [
        _attend_block(
            query[:, :, at : at + block],
            key,
            value,
            memory,
            mask if mask is None else mask[:, :, at : at + block],
            scale,
        )
        for at in range(0, n, block)
    ]
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, 2)


def _attend_block(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    memory: tuple[Tensor, Tensor, Tensor],
    mask: Tensor | None,
    scale: float,
) -> Tensor:
    keys, values, bias = memory
    rows = keys.shape[1]
    remembered = _product(query, keys.transpose(1, 2)).float() * scale + bias[:, None, None]
    own = _product(query, key.transpose(1, 2)).float() * scale
    if mask is not None:
        own = own + mask
    weights = torch.cat((remembered, own), -1).softmax(-1).to(query.dtype)
    return _product(weights[..., :rows], values) + _product(weights[..., rows:], value)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """``[batch, head, token, a] @ [batch or 1, a, b]``, without a copy of ``right`` for every head."""
    batch, heads, n, a = left.shape
    if right.shape[0] == 1:
        return (left.reshape(batch * heads * n, a) @ right[0]).view(batch, heads, n, right.shape[2])
    return torch.bmm(left.reshape(batch, heads * n, a), right).view(batch, heads, n, right.shape[2])


def with_ragged_attention(model: PreTrainedModel) -> PreTrainedModel:
    """A copy of a model that shares its weights and whose attention reads ragged memories.

    Raises `ValueError` for a model that it would not be right for; see `unsupported`.
    """
    if reason := unsupported(model):
        raise ValueError(reason)
    AttentionInterface.register(NAME, ragged_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    copied: PreTrainedModel = shared_copy(model)
    copied.set_attn_implementation(NAME)
    return copied


def unsupported(model: PreTrainedModel) -> str | None:
    """Why a model cannot attend to ragged memories; None if it can."""
    config, name = model.config, type(model).__name__
    if not getattr(model, "_supports_attention_backend", False):
        return f"{name} does not take its attention from transformers' AttentionInterface"
    if sliding(config):
        return f"{name} has layers with a sliding window, which would not reach the whole memory"
    if getattr(config, "attn_logit_softcapping", None):
        return f"{name} caps its attention scores"
    return None
