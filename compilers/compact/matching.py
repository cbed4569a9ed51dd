"""Attention matching: weights and values with which the kept keys of a head stand for all of them.

Fast KV Compaction via Attention Matching (Zweiger et al., 2026), §3: the kept keys get biases, by
non-negative least squares on the attention mass, and values, by ridge regression on the attention's output.

Departure: the attention is over everything a query sees, the header and its own text included, and not over
the context alone. So a query that barely attends to the context has little weight in the fit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from memkit.errors import CompileError

MAX_BIAS = 3.0  # nats
NNLS_STEPS = 200
_TINY = 1e-30


@dataclass(frozen=True)
class Attention:
    """How reference queries attend to the keys of one head in the full context.

    ``scores`` ``[query, key]`` are scaled products in nats; ``rest`` ``[query]`` is the log of the mass that
    lies elsewhere and ``read`` ``[query, head_dim]`` what is read there.
    """

    scores: Tensor
    rest: Tensor
    read: Tensor

    @cached_property
    def weights(self) -> Tensor:
        """The share ``[query, key]`` of each key in a query's attention."""
        return (self.scores - self.total[:, None]).exp()

    @cached_property
    def total(self) -> Tensor:
        """The log ``[query]`` of all the attention mass of a query."""
        return torch.logaddexp(self.scores.logsumexp(1), self.rest)


def match(
    attention: Attention, values: Tensor, kept: Tensor, *, bias: bool, refit: bool, ridge: float
) -> tuple[Tensor, Tensor]:
    """Values ``[kept key, head_dim]`` and biases ``[kept key]`` for the keys ``kept``, which index those of
    ``attention`` and ``values`` ``[key, head_dim]``.

    Raises `CompileError` where the numbers are not finite.
    """
    own = values[kept]
    added = own.new_zeros(len(kept))
    if not len(kept) or len(kept) == len(values) or not len(attention.scores):
        return own, added
    share = attention.weights
    if bias:
        mass = nnls(share[:, kept].double(), share.sum(1).double())
        added = mass.clamp(math.exp(-MAX_BIAS), math.exp(MAX_BIAS)).log().to(added.dtype)
    fitted = fit_values(attention, values, attention.scores[:, kept] + added, own, ridge) if refit else own
    if not bool(fitted.isfinite().all()) or not bool(added.isfinite().all()):
        raise CompileError(
            "the least squares of the compact memory gave numbers that are not finite; raise the option "
            "ridge, or compile with preset=selected, which fits nothing"
        )
    return fitted, added


def fit_values(attention: Attention, values: Tensor, scores: Tensor, start: Tensor, ridge: float) -> Tensor:
    """The values ``[row, head_dim]`` with which rows of these ``scores`` ``[query, row]`` give the output of
    ``attention`` to all ``values`` ``[key, head_dim]``, by ridge towards ``start``."""
    before, total = attention.total, torch.logaddexp(scores.logsumexp(1), attention.rest)
    design = (scores - total[:, None]).exp().double()  # [query, row]
    elsewhere = (attention.rest - before).exp() - (attention.rest - total).exp()
    target = attention.weights @ values + elsewhere[:, None] * attention.read
    return ridge_regression(design, target.double(), start.double(), ridge).to(values.dtype)


def ridge_regression(design: Tensor, target: Tensor, start: Tensor, ridge: float) -> Tensor:
    """``W`` ``[column, output]`` that minimizes ``|design W - target|² + λ |W - start|²``.

    λ is ``ridge`` times the mean squared column. ``design`` is ``[row, column]``, ``target`` ``[row,
    output]``, all in float64. The smaller of the two equivalent systems is solved.
    """
    rows, columns = design.shape
    gap = target - design @ start
    penalty = ridge * design.square().sum() / columns + _TINY
    if columns <= rows:
        system = design.T @ design
        system.diagonal().add_(penalty)
        return start + _solve(system, design.T @ gap)
    system = design @ design.T
    system.diagonal().add_(penalty)
    return start + design.T @ _solve(system, gap)


def _solve(system: Tensor, right: Tensor) -> Tensor:
    """Solve a symmetric positive definite system; NaN where it is not one."""
    factor, info = torch.linalg.cholesky_ex(system)
    if int(info):
        return torch.full_like(right, torch.nan)
    return torch.cholesky_solve(right, factor)


def nnls(design: Tensor, target: Tensor) -> Tensor:
    """Non-negative ``w`` ``[column]`` that minimizes ``|design w - target|``.

    Accelerated projected gradient with restarts, from all ones.

    ``design`` is ``[row, column]``, ``target`` ``[row]``. Columns are scaled to unit length; one of zeros
    keeps its one.
    """
    length = design.norm(dim=0)
    scale = torch.where(length > _TINY, length, torch.ones_like(length))
    unit = design / scale
    gram, right = unit.T @ unit, unit.T @ target
    # The largest eigenvalue is at most the largest row sum, as all entries are non-negative.
    step = 1 / gram.sum(1).max().clamp(min=_TINY)
    w = y = scale.clone()
    momentum = 1.0
    for _ in range(NNLS_STEPS):
        updated = (y - step * (gram @ y - right)).clamp(min=0)
        following = (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        if torch.dot(y - updated, updated - w) > 0:  # overshoots: restart
            following, y = 1.0, updated
        else:
            y = updated + (momentum - 1) / following * (updated - w)
        w, momentum = updated, following
    return torch.where(length > _TINY, w / scale, torch.ones_like(w))
