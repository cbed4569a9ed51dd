"""Hide keys of a prefix from attention, by layer and head."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import PreTrainedModel


@contextmanager
def keys_hidden(model: PreTrainedModel, kept: Tensor) -> Iterator[None]:
    """Within this context, queries attend only to the ``kept`` keys of the prefix and to all later keys.

    ``kept`` is a bool mask ``[layer, kv_head, token]`` over the first tokens of the cache. Positions do not
    change: a query stands as far behind the prefix as if all of its keys were there.
    """
    with ExitStack() as stack:
        layers: Any = model.base_model.layers
        for layer, module in enumerate(layers):
            attention = module.self_attn
            heads = kept[layer].to(model.device).repeat_interleave(attention.num_key_value_groups, 0)
            handle = attention.register_forward_pre_hook(_Hook(heads[None, :, None]), with_kwargs=True)
            stack.callback(handle.remove)
        yield


class _Hook:
    """Adds ``kept [1, head, 1, token]`` to the attention mask of a layer."""

    def __init__(self, kept: Tensor) -> None:
        self.kept = kept

    def __call__(self, module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        tokens = kwargs["hidden_states"].shape[1]
        cached = kwargs["past_key_values"].get_seq_length(module.layer_idx)
        kept = pad(self.kept, (0, cached + tokens - self.kept.shape[-1]), value=True)
        mask = kwargs.get("attention_mask")
        if mask is None:  # left out where it is all causal
            mask = kept.new_ones(tokens, cached + tokens).tril(cached)
        if mask.dtype == torch.bool:
            mask = mask & kept
        else:
            mask = mask.masked_fill(~kept, torch.finfo(mask.dtype).min)
        return args, kwargs | {"attention_mask": mask}
