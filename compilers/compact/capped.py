"""The capped form: the same number of rows in every head, without biases, for servers with stock attention.

A bias is folded into its key by a change along the direction whose product with all reference queries is one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from memkit.engine.transformers.ragged import Rows

RIDGE = 1e-4  # of the direction, as a share of the queries' mean square


def uniform_direction(queries: Tensor) -> Tensor:
    """The direction ``[head_dim]`` whose product with all ``queries`` ``[query, head_dim]`` is about one."""
    queries = queries.double()
    system = queries.T @ queries
    system.diagonal().add_(RIDGE * system.diagonal().mean() + 1e-12)
    solution: Tensor = torch.linalg.solve(system, queries.sum(0))
    return solution.float()


def capped(rows: Rows, direction: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Keys and values ``[length, head_dim]`` that read like ``rows``, which are at least one and at most
    ``length``.

    ``direction`` is that of `uniform_direction`. Where rows are missing, the last one is there several times,
    and shares its attention.
    """
    copies = torch.ones(len(rows), dtype=torch.int64, device=rows.keys.device)
    copies[-1] += length - len(rows)
    bias = (rows.bias - copies.log()).repeat_interleave(copies)
    keys = rows.keys.float().repeat_interleave(copies, 0) + bias[:, None] * direction
    return keys.to(rows.keys.dtype), rows.values.repeat_interleave(copies, 0)
