"""The LCC paper's studies at our scale: ``memkit eval --study lcc``.

Each study varies one thing and keeps the rest of the recipe: gradient isolation (Table 3), the
number of context-agnostic queries (Figure 2), reconstruction and regularization (Figure 3), the
ratio (Figure 4), the loss (Figure 5), and, beyond the paper, what self-study adds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memkit.errors import ConfigError
from memkit.evals.run import Variant


@dataclass(frozen=True)
class Study:
    """One table and plot. ``axis`` names what varies; its values are the variants' labels."""

    key: str
    title: str
    axis: str
    variants: tuple[Variant, ...]


def _variants(key: str, ratio: float, options: Mapping[str, Mapping[str, Any]]) -> tuple[Variant, ...]:
    return tuple(Variant(f"{key}: {label}", "lcc", ratio, changed) for label, changed in options.items())


def _studies(ratio: float) -> dict[str, tuple[Study, ...]]:
    pure = {"preset": "pure"}
    return {
        "lcc": (
            Study(
                "isolation",
                "Gradient isolation against a coupled LoRA (Table 3)",
                "answers by",
                _variants("isolation", ratio, {"frozen model": {}, "coupled LoRA": {"coupled": True}}),
            ),
            Study(
                "queries",
                "Number of context-agnostic queries (Figure 2)",
                "queries",
                _variants("queries", ratio, {str(n): {"agnostic": n} for n in (0, 4, 16, 63)}),
            ),
            Study(
                "objectives",
                "Reconstruction and regularization, without and with self-study (Figure 3)",
                "objective",
                _variants(
                    "objectives",
                    ratio,
                    {
                        "reconstruction": {**pure, "agnostic": 0},
                        "regularization": {**pure, "reconstruction_window": 0},
                        "both (the paper's)": pure,
                        "self-study alone": {"agnostic": 0, "reconstruction_window": 0},
                        "all three": {},
                    },
                ),
            ),
            Study(
                "ratio",
                "Compression ratio (Figure 4)",
                "ratio",
                tuple(Variant(f"ratio: {r:g}", "lcc", r) for r in (2.0, 4.0, 8.0, 16.0, 32.0)),
            ),
            Study(
                "loss",
                "KL against squared error (Figure 5)",
                "loss",
                _variants("loss", ratio, {"KL": {}, "MSE": {"loss": "mse"}}),
            ),
        )
    }


def studies(name: str, ratio: float = 16.0) -> tuple[Study, ...]:
    """The studies of a compiler. Raises `ConfigError` for one that has none."""
    known = _studies(ratio)
    if name not in known:
        raise ConfigError(f"there is no study {name!r}; there are: {', '.join(known)}")
    return known[name]
