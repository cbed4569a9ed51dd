"""What a key's value writes into the hidden states, relative to what is there already."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from memkit.compilers.compact.reading import Reading

# Of the hidden states. In a model whose embeddings are small, values of the first layer write fifty times as
# much, and would take the whole budget.
MAX_WRITTEN = 1.0


def write_weights(model: PreTrainedModel, reading: Reading, power: float) -> list[Tensor]:
    """A weight ``[kv_head, query head, key]`` of each context key in every layer.

    It is the norm of the value, projected by the query head's part of the output projection, as a share of
    the norm of the hidden states that enter the layer, at most `MAX_WRITTEN`, to the ``power``. One
    everywhere for a model whose projection is not found, whose keys then count by attention alone.
    """
    cache, heads = reading.cache, int(model.config.num_attention_heads)
    if cache is None:
        return []
    layers: Any = getattr(model.base_model, "layers", ())
    weights = list[Tensor]()
    for layer, value in enumerate(cache.values):
        values = value[0, :, reading.start :].float()  # [kv_head, key, head_dim]
        groups, size = values.shape[0], values.shape[2]
        attention = getattr(layers[layer], "self_attn", None) if layer < len(layers) else None
        projection = getattr(getattr(attention, "o_proj", None), "weight", None)
        shape = (groups, heads // groups, values.shape[1])
        if not power or reading.norms is None or not isinstance(projection, Tensor):
            weights.append(values.new_ones(shape))
            continue
        per_head = projection.float().unflatten(
            1, (groups, -1, size)
        )  # [hidden, kv_head, query head, head_dim]
        gram = torch.einsum("oghd,oghe->ghde", per_head, per_head)
        squares = torch.einsum("gnd,ghde,gne->ghn", values, gram, values)
        written = squares.clamp(min=0).sqrt() / reading.norms[layer].clamp(min=1e-6)
        weights.append(written.clamp(max=MAX_WRITTEN).pow(power))
    return weights
