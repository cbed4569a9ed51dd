"""Refine the rows of a head: move its keys, biases and values together to where they read most like the text.

KVSculpt (arXiv 2603.27819) moves keys by L-BFGS. Kept keys are the text's own, so a row can only stand for
keys that look like it; a moved one stands for several. Nothing is run through the model: a head is fitted to
its recorded queries alone, and more iterations than `STEPS` fit them better and unseen questions worse.
"""

from __future__ import annotations

import torch
from torch import Tensor

from memkit.compilers.compact.matching import Attention
from memkit.engine.transformers.ragged import Rows

QUERIES = 1500  # of a head that the refinement uses
EVALUATIONS = 1.25  # of the error in an iteration, about
MAX_WEIGHT = 20.0  # of a query that was unlikely to be drawn, relative to the mean
_EVEN = 1e-4  # added to a query's squared attention to the text, by which it is drawn
_LEAST_SPREAD = 1e-3  # of the keys in a dimension, the unit in which they are moved there


def refined(
    queries: Tensor,
    attention: Attention,
    keys: Tensor,
    values: Tensor,
    rows: Rows,
    steps: int,
    generator: torch.Generator,
) -> Rows:
    """``rows`` after at most ``steps`` iterations of L-BFGS on the squared error of the attention's output.

    ``queries`` ``[query, head_dim]`` attend to the full ``keys`` and ``values`` ``[key, head_dim]`` with
    ``attention``; all are float32, and so are the rows.
    """
    if not steps or not 0 < len(rows) < len(keys) or not len(queries):
        return rows
    share = attention.weights
    drawn, weight = _drawn(share.sum(1), generator)
    elsewhere = (attention.rest - attention.total)[drawn].exp()[:, None]
    rest, read = attention.rest[drawn], attention.read[drawn]
    target = share[drawn] @ values + elsewhere * read
    some, unit = queries[drawn], keys.std(0).clamp(min=_LEAST_SPREAD)
    size = (weight[:, None] * (target - read).square()).sum().clamp(min=torch.finfo(target.dtype).tiny)
    moved = torch.zeros_like(rows.keys).requires_grad_()
    bias, value = rows.bias.clone().requires_grad_(), rows.values.clone().requires_grad_()

    optimizer = torch.optim.LBFGS(
        [moved, bias, value], max_iter=steps, history_size=10, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        scores = some @ (rows.keys + moved * unit).T + bias
        total = torch.logaddexp(scores.logsumexp(1), rest)
        output = (scores - total[:, None]).exp() @ value + (rest - total).exp()[:, None] * read
        error = (weight[:, None] * (output - target).square()).sum() / size
        error.backward()
        return error

    with torch.enable_grad():
        before = float(loss().detach())
        optimizer.step(loss)
        after = float(loss().detach())
    if not after < before:  # numbers that are not finite, too
        return rows
    return Rows((rows.keys + moved * unit).detach(), value.detach(), bias.detach())


def refine_flops(queries: int, rows: int, size: int, steps: int) -> float:
    """Operations to refine ``rows`` rows of so many dimensions for that many queries."""
    products = 12.0 * min(queries, QUERIES) * rows * size  # two, and their gradients
    return EVALUATIONS * steps * products


def _drawn(mass: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Which queries are used, more likely those that attend to the text with much ``mass`` ``[query]``, and
    the weights that make up for it."""
    if len(mass) <= QUERIES:
        return torch.arange(len(mass), device=mass.device), torch.ones_like(mass)
    odds = (mass.square() + _EVEN).cpu()
    drawn = torch.multinomial(odds, QUERIES, generator=generator)
    weight = 1 / odds[drawn]
    return drawn.to(mass.device), (weight / weight.mean()).clamp(max=MAX_WEIGHT).to(mass.device)
