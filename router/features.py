"""What the scorer sees of a candidate: how it was found, and the model's first token with it in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memkit.engine.base import Score
from memkit.router.candidates import Candidate

HIDDEN = 128  # dimensions of the first token's hidden state (CDLM)
UNSURE = frozenset("i unknown none no not sorry unfortunately there".split())  # how refusals begin

FOUND: tuple[str, ...] = ("similarity", "overlap", "strength", "margin", "margin_similarity")
PROBED: tuple[str, ...] = (
    "entropy",
    "entropy_change",
    "top_logprob",
    "top_logprob_change",
    "unsure",
    "unsure_alone",
)


@dataclass(frozen=True)
class Probe:
    """One token with a memory in place, beside one without any memory (shared by all candidates)."""

    memory: Score
    alone: Score

    @property
    def values(self) -> tuple[float, ...]:
        """The features named in `PROBED`; entropies in nats."""
        with_memory, alone = self.memory, self.alone
        return (
            with_memory.entropy,
            with_memory.entropy - alone.entropy,
            with_memory.top_logprob,
            with_memory.top_logprob - alone.top_logprob,
            float(unsure(with_memory.likely)),
            float(unsure(alone.likely)),
        )


def unsure(token: str) -> bool:
    """Whether an answer that starts with this token is probably "I do not know"."""
    return token.strip().lower() in UNSURE


def found(ranked: Sequence[Candidate], i: int) -> tuple[float, ...]:
    """The features named in `FOUND` of the ``i``-th candidate; margins are to the best other one."""
    this = ranked[i]
    others = [c for j, c in enumerate(ranked) if j != i]
    strength = max((c.strength for c in others), default=0.0)
    similarity = max((c.similarity for c in others), default=0.0)
    return (
        this.similarity,
        this.overlap,
        this.strength,
        this.strength - strength,
        this.similarity - similarity,
    )


def names(hidden: int) -> tuple[str, ...]:
    """Names of all features of a probed candidate."""
    return (*FOUND, *PROBED, *(f"hidden_{i}" for i in range(hidden)))


def probed(basis: Sequence[float], probe: Probe, hidden: int) -> tuple[float, ...]:
    """All features of a probed candidate; ``hidden`` of them are the hidden state's, 0 where it is short."""
    state = tuple(probe.memory.hidden[:hidden])
    return (*basis, *probe.values, *state, *(0.0,) * (hidden - len(state)))
