"""Rotary positions (RoPE): move keys to other positions, and find out for which models that is right."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from memkit.models.kv_shape import kv_shape

PROBED = 4  # tokens that are read at two places
OFFSET = 24  # positions between the places
TOLERANCE = 0.1  # relative error; rounding of bfloat16 stays below, another rotation is above 1


def rotate(keys: Tensor, offsets: Tensor, inv_freq: Tensor) -> Tensor:
    """Move keys ``[..., token, head_dim]`` by ``offsets`` positions, which broadcast to ``[..., token]``.

    RoPE is a rotation, so a key moves by rotating it further by ``offset · inv_freq``.
    ``inv_freq`` is ``[head_dim / 2]``.
    """
    angles = offsets[..., None] * torch.cat((inv_freq, inv_freq)).float()
    half = keys.shape[-1] // 2
    across = torch.cat((-keys[..., half:], keys[..., :half]), -1)
    return (keys * angles.cos() + across * angles.sin()).to(keys.dtype)


def inv_freq_of(model: PreTrainedModel) -> Tensor:
    """RoPE inverse frequencies ``[head_dim / 2]`` of a Llama-like model.

    Raises `ValueError` for a model without rotary embeddings, with attention scaling, with frequencies that
    depend on the length, or that rotates only a part of each head.
    """
    rotary = getattr(model.base_model, "rotary_emb", None)
    if rotary is None or not hasattr(rotary, "inv_freq"):
        raise ValueError(f"{type(model).__name__} has no rotary position embeddings to re-rotate")
    if float(getattr(rotary, "attention_scaling", 1.0)) != 1.0:
        raise ValueError("rotary embeddings with attention scaling are not supported")
    if getattr(rotary, "rope_type", "") in ("dynamic", "longrope"):
        raise ValueError("rotary embeddings that depend on the text's length are not supported")
    inv_freq = torch.as_tensor(rotary.inv_freq)
    if 2 * len(inv_freq) != kv_shape(model.config).size:
        raise ValueError(f"{type(model).__name__} rotates only a part of each head, which is not supported")
    return inv_freq


@torch.no_grad()
def require_movable(model: PreTrainedModel) -> None:
    """Raise `ValueError` unless the model's keys can be moved with `rotate`.

    Some models rotate other pairs of numbers, or not in every layer, and nothing in their configuration says
    so: a few tokens are read at two places, and the keys of the one are moved to the other.
    """
    inv_freq, name = inv_freq_of(model), type(model).__name__
    try:
        here, there = (_keys(model, start) for start in (0, OFFSET))
    except Exception as error:  # of the model's own code
        raise ValueError(f"{name} keeps no keys that could be moved: {error}") from error
    shape = kv_shape(model.config)
    for layer, (before, after) in enumerate(zip(here, there, strict=True)):
        if before.shape[1] != shape.heads or before.shape[3] != shape.size:
            raise ValueError(f"{name} has other heads than its configuration says")
        moved = rotate(before, torch.tensor([OFFSET], device=before.device), inv_freq)
        if not float((moved - after).abs().max()) <= TOLERANCE * float(after.abs().max()):
            raise ValueError(f"{name} rotates the keys of layer {layer} in another way than Llama")


def _keys(model: PreTrainedModel, start: int) -> list[Tensor]:
    """The keys ``[1, kv_head, token, head_dim]`` of each layer for a few tokens from ``start`` on."""
    cache, device = DynamicCache(), model.device
    positions = torch.arange(start, start + PROBED, device=device)[None]
    ids = torch.arange(1, 1 + PROBED, device=device)[None]
    model.base_model(input_ids=ids, position_ids=positions, past_key_values=cache, use_cache=True)
    layers: list[Any] = list(cache.layers)
    return [layer.keys.float() for layer in layers]
