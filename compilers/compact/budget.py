"""Share one budget of rows over all heads of all layers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def share_budget(importance: Sequence[Tensor], total: int, floor: int, cap: int) -> list[Tensor]:
    """Which keys are kept: masks ``[kv_head, key]`` for each layer, with ``total`` kept in all.

    ``importance`` ``[kv_head, key]`` is comparable over heads and layers. Each head keeps its ``floor`` most
    important keys and at most ``cap``, and the rest of the budget goes to the most important ones anywhere.
    ``total`` is limited by the caps. Equal importance prefers earlier layers, heads and keys.
    """
    stacked = torch.stack([layer.float() for layer in importance])
    keys = stacked.shape[-1]
    order = torch.sort(stacked, dim=-1, descending=True, stable=True).indices
    rank = torch.empty_like(order).scatter_(
        -1, order, torch.arange(keys, device=order.device).expand_as(order)
    )
    must, may = rank < min(floor, keys), rank < min(cap, keys)
    left = min(total, int(may.sum())) - int(must.sum())
    if left > 0:
        free = stacked.masked_fill(must | ~may, -torch.inf).flatten()
        chosen = torch.sort(free, descending=True, stable=True).indices[:left]
        must = must.flatten().index_fill(0, chosen, True).view_as(must)
    return list(must)
