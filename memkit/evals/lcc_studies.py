"""Ablations of LCC: ``memkit eval --study lcc`` repeats the paper's, ``--study recipe`` those of the fast
recipe.

Each study varies one choice: gradient isolation (Table 3), the number of context-agnostic queries (Figure 2),
reconstruction and regularization (Figure 3), the ratio (Figure 4), the loss (Figure 5), and, beyond the
paper, self-study.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memkit.errors import ConfigError
from memkit.evals.run import Variant


@dataclass(frozen=True)
class Study:
    """One table and plot; ``axis`` names the choice that varies, whose values are the variants' labels."""

    key: str
    title: str
    axis: str
    variants: tuple[Variant, ...]


def _variants(key: str, ratio: float, options: Mapping[str, Mapping[str, Any]]) -> tuple[Variant, ...]:
    return tuple(Variant(f"{key}: {label}", "lcc", ratio, changed) for label, changed in options.items())


# The predicted effect of each choice of the fast recipe, written before it was measured. The first
# predictions were about another recipe, which is a row now: measured, it cost more and retained no more.
_RECIPE: dict[str, tuple[dict[str, Any], str]] = {
    "the fast recipe": ({}, ""),
    "two phases, reconstruction, twice the questions a step": (
        {
            "steps": 100,
            "kv_steps": 100,
            "self_study_batch": 16,
            "agnostic_batch": 4,
            "reconstruction_window": 256,
        },
        "no change at three times the FLOPs",
    ),
    "buffer from the vocabulary's mean": ({"init": "vocabulary_mean"}, "loses 5 points: a slower start"),
    "the paper's learning rate": ({"lr": 2e-5}, "loses everything: nothing is learned in 150 steps"),
    "no warm-up": ({"warmup": 0}, "no change"),
    "direct phase alone": ({"steps": 0, "kv_steps": 150}, "loses half"),
    "and a direct phase": ({"kv_steps": 50}, "no change"),
    "half the steps": ({"steps": 75}, "loses 10 points"),
    "half the questions a step": ({"self_study_batch": 4}, "loses 3 points, at two thirds of the FLOPs"),
    "half of the questions": ({"self_study": 128}, "loses 2 points: facts that nobody asks for"),
    "a fifth of the questions": ({"self_study": 48}, "loses 10 points: facts that nobody asks for"),
    "nothing asked again": ({"self_study_again": 0}, "loses 2 points, for the same reason"),
    "questions at temperature 0.3": (
        {"self_study_temperature": 0.3},
        "loses 2 points: fewer facts asked for",
    ),
    "with reconstruction": ({"reconstruction_window": 256}, "no change at half more FLOPs"),
    "no general queries": ({"agnostic": 0}, "no change in answers; drift of 5 points"),
    "the last state, not the best": ({"patience": 10_000}, "no change"),
}


def _recipe(ratio: float) -> Study:
    return Study(
        "recipe",
        "What each idea of the fast recipe buys",
        "recipe",
        tuple(
            Variant(f"recipe: {label}", "lcc", ratio, options, predicted)
            for label, (options, predicted) in _RECIPE.items()
        ),
    )


def _studies(ratio: float) -> dict[str, tuple[Study, ...]]:
    pure = {"preset": "pure"}
    return {
        "recipe": (_recipe(ratio),),
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
                        "self-study alone": {"agnostic": 0},
                        "self-study and regularization": {},
                        "all three": {"reconstruction_window": 256},
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
        ),
    }


def studies(name: str, ratio: float = 16.0) -> tuple[Study, ...]:
    """The studies with that name, at a ratio. Raises `ConfigError` for an unknown name."""
    studies = _studies(ratio)
    if name not in studies:
        raise ConfigError(f"there is no study {name!r}; there are: {', '.join(studies)}")
    return studies[name]
