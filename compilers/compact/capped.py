"""The capped form: the same number of rows in every head, without biases, for servers with stock attention.

Heads with fewer rows are filled up with keys that no query attends to: they lie along a direction in which
all reference queries are negative. A bias is folded into its key by a change along the direction in which
all of them are one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from memkit.engine.transformers.ragged import Rows

FAR = 30.0  # nats below the attention's total at which a filling key lies for every reference query
RIDGE = 1e-4  # of the direction, as a share of the queries' mean square
_MAX_LENGTH = 1e4  # of a filling key: half-precision numbers hold it


def uniform_direction(queries: Tensor) -> Tensor:
    """The direction ``[head_dim]`` whose product with all ``queries`` ``[query, head_dim]`` is about one."""
    queries = queries.double()
    system = queries.T @ queries
    system.diagonal().add_(RIDGE * system.diagonal().mean() + 1e-12)
    solution: Tensor = torch.linalg.solve(system, queries.sum(0))
    return solution.float()


def capped(
    rows: Rows, direction: Tensor, total: Tensor, queries: Tensor, length: int
) -> tuple[Tensor, Tensor]:
    """Keys and values ``[length, head_dim]`` that read like ``rows``, which are at most ``length``.

    ``direction`` is that of `uniform_direction` for ``queries`` ``[query, head_dim]``, whose log attention
    mass is ``total`` ``[query]``. The filling rows' values are zeros, so that what little is read there is
    nothing.
    """
    keys = rows.keys.float() + rows.bias[:, None] * direction
    missing = length - len(rows)
    products = queries @ direction
    # The least multiple of the direction that is far below every query's total.
    needed = ((FAR - total) / products.clamp(min=1e-3)).max().clamp(min=0)
    longest = _MAX_LENGTH / direction.norm().clamp(min=1e-12)
    filling = -torch.minimum(needed, longest) * direction
    padded = torch.cat((keys, filling.expand(missing, -1)))
    values = torch.cat((rows.values, rows.values.new_zeros(missing, rows.values.shape[1])))
    return padded.to(rows.keys.dtype), values
