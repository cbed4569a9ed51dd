"""The self-gate: latent, text or none. This version is one documented rule, not calibrated.

1. No candidate whose similarity reaches ``min_similarity``: **none**, the model answers alone.
2. The best candidate has an artifact for this model: **latent**.
3. Otherwise **text**: its best chunks go into the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from memkit.router.candidates import Candidate

Route = Literal["latent", "text", "none"]


@dataclass(frozen=True)
class GateConfig:
    """``min_similarity`` is in [0, 1]: the share of the question that a memory must cover."""

    min_similarity: float = 0.3

    def __post_init__(self) -> None:
        if not 0.0 <= self.min_similarity <= 1.0:
            raise ValueError(f"min_similarity must be in [0, 1], got {self.min_similarity}")


@dataclass(frozen=True)
class Decision:
    """What was decided, for which candidate and why (a sentence for people)."""

    route: Route
    candidate: Candidate | None
    reason: str
    calibrated: bool = False


def decide(
    ranked: Sequence[Candidate], obstacle_of: Callable[[Candidate], str], config: GateConfig | None = None
) -> Decision:
    """Apply the rule. ``obstacle_of`` says why a candidate's artifact cannot be used, or ""."""
    config = config or GateConfig()
    if not ranked:
        return Decision("none", None, "the bank holds no memory that shares a word with the question")
    best = ranked[0]
    if best.similarity < config.min_similarity:
        return Decision(
            "none", None, f"best similarity {best.similarity:.2f} is below {config.min_similarity:.2f}"
        )
    if obstacle := obstacle_of(best):
        return Decision("text", best, f"similarity {best.similarity:.2f}; text, because {obstacle}")
    return Decision(
        "latent", best, f"similarity {best.similarity:.2f} and a compiled artifact for this model"
    )
