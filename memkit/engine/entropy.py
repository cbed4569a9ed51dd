"""Estimate the entropy of a distribution from its most likely tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence

from memkit.errors import EngineError

NOISE = 1e-6  # rounding error of a sum of float32 probabilities


def entropy_of_top(logprobs: Sequence[float], vocabulary: int) -> tuple[float, float]:
    """Entropy in nats, estimated from the log-probabilities of the most likely tokens, and its maximal error.

    The other tokens of the ``vocabulary`` share the remaining mass r. Each of them has at most the
    probability c of the least likely token given, and at most r, so their part of the entropy is at least
    -r · log min(c, r), and at most, spread evenly, r · log(others / r). The estimate is the middle of the two
    bounds. Raises `EngineError` without any finite log-probability.
    """
    finite = sorted((value for value in logprobs if value > -math.inf), reverse=True)
    if not finite:
        raise EngineError("the server returned no log-probabilities of the likeliest tokens")
    entropy = -sum(math.exp(value) * value for value in finite)
    rest, others = 1.0 - math.fsum(math.exp(value) for value in finite), vocabulary - len(finite)
    if rest <= NOISE or others < 1:
        return max(entropy, 0.0), 0.0
    most = rest * math.log(others / rest)
    least = min(-rest * min(finite[-1], math.log(rest)), most)
    return entropy + (least + most) / 2, (most - least) / 2
