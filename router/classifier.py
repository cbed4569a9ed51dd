"""The router's classifier: logistic regression over named features, stored as JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from memkit.errors import ConfigError

Matrix = NDArray[np.float64]
RIDGES = (0.3, 3.0, 30.0, 300.0)  # L2 penalties of the weights of standardized features
STEPS = 50  # at most; Newton's method needs about ten


@dataclass(frozen=True)
class Head:
    """A logistic regression over standardized features.

    ``names``, ``mean``, ``scale`` and ``weights`` have one entry a feature. Raises `ConfigError` if the
    sizes disagree, a number is not finite or a scale is not positive.
    """

    names: tuple[str, ...]
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...]
    bias: float

    def __post_init__(self) -> None:
        sizes = {len(self.names), len(self.mean), len(self.scale), len(self.weights)}
        numbers = (*self.mean, *self.scale, *self.weights, self.bias)
        if len(sizes) != 1 or not all(isinstance(x, int | float) and math.isfinite(x) for x in numbers):
            raise ConfigError("a classifier needs one finite mean, scale and weight for each of its features")
        if not all(x > 0 for x in self.scale):
            raise ConfigError("every scale of a classifier must be positive")

    def probability(self, features: Sequence[float]) -> float:
        """The probability, in (0, 1), for ``features [feature]``.

        Raises `ConfigError` unless there are as many features as it was trained on.
        """
        if len(features) != len(self.names):
            raise ConfigError(
                f"the classifier was trained on {len(self.names)} features, not {len(features)}: "
                "calibrate again"
            )
        standard = (np.asarray(features, dtype=np.float64) - self.mean) / self.scale
        return float(_sigmoid(standard @ np.asarray(self.weights) + self.bias))

    @classmethod
    def fit(
        cls, names: Sequence[str], rows: Sequence[Sequence[float]], labels: Sequence[bool], seed: int = 0
    ) -> Self:
        """Train on ``rows [row, feature]`` and ``labels [row]``; both classes have the same weight.

        ``names [feature]`` are the features' names. The ridge is the one of `RIDGES` with the best
        likelihood on a quarter of the rows, drawn with ``seed`` and held out. Rows of a single class, or
        no rows, give a constant probability.
        """
        x, y = np.asarray(rows, dtype=np.float64).reshape(len(rows), len(names)), np.asarray(labels, float)
        if not len(x):
            zeros = (0.0,) * len(names)
            return cls(tuple(names), zeros, (1.0,) * len(names), zeros, 0.0)
        mean, scale = x.mean(0), np.maximum(x.std(0), 1e-6)
        standard = (x - mean) / scale
        order = np.random.default_rng(seed).permutation(len(x))
        validation, training = order[: len(x) // 4], order[len(x) // 4 :]
        losses = []
        for ridge in RIDGES:
            weights, bias = _newton(standard[training], y[training], ridge)
            losses.append(_loss(standard[validation] @ weights + bias, y[validation]))
        weights, bias = _newton(standard, y, RIDGES[int(np.argmin(losses))])
        mean_, scale_, weights_ = (tuple(map(_rounded, v)) for v in (mean, scale, weights))
        return cls(tuple(names), mean_, scale_, weights_, _rounded(bias))

    @classmethod
    def parse(cls, row: Any) -> Self:
        """A head from parsed JSON. Raises `ConfigError` for anything else."""
        if not isinstance(row, dict) or set(row) != {"names", "mean", "scale", "weights", "bias"}:
            raise ConfigError("a classifier is an object with names, mean, scale, weights and bias")
        try:
            names, mean, scale, weights = (tuple(row[n]) for n in ("names", "mean", "scale", "weights"))
            return cls(names, mean, scale, weights, row["bias"])
        except TypeError as error:
            raise ConfigError(f"not a classifier: {error}") from error


def _rounded(value: float) -> float:
    """Six significant digits, which no decision depends on, keep a stored calibration small."""
    return float(f"{value:.6g}")


def _sigmoid(x: Any) -> Any:
    return 0.5 * (1 + np.tanh(0.5 * x))


def _loss(logits: Matrix, y: Matrix) -> float:
    return float(np.mean(np.logaddexp(0, logits) - y * logits)) if len(y) else 0.0


def _newton(x: Matrix, y: Matrix, ridge: float) -> tuple[Matrix, float]:
    """Ridge logistic regression with balanced classes; the bias is not penalized."""
    positive = float(y.sum())
    if not 0 < positive < len(y):
        share = (positive + 0.5) / (len(y) + 1)
        return np.zeros(x.shape[1]), math.log(share / (1 - share))
    balance = np.where(y > 0.5, 0.5 * len(y) / positive, 0.5 * len(y) / (len(y) - positive))
    ones = np.hstack([x, np.ones((len(x), 1))])
    penalty = np.full(ones.shape[1], ridge)
    penalty[-1] = 1e-6
    theta = np.zeros(ones.shape[1])
    for _ in range(STEPS):
        p = _sigmoid(ones @ theta)
        gradient = ones.T @ (balance * (p - y)) + penalty * theta
        curvature = (ones * (balance * p * (1 - p))[:, None]).T @ ones + np.diag(penalty)
        step = np.linalg.solve(curvature, gradient)
        theta -= step * min(1.0, 5.0 / (float(np.abs(step).max()) + 1e-12))
        if float(np.abs(step).max()) < 1e-6:
            break
    return theta[:-1], float(theta[-1])
