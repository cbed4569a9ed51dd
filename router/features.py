"""What the scorer sees of a candidate: how it was found, and the model's first token with it in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memkit.engine.base import Score
from memkit.router.retrieval import Candidate

HIDDEN = 128  # dimensions of the first token's hidden state (CDLM)
UNSURE = frozenset("i unknown none no not sorry unfortunately there".split())  # how refusals begin

FOUND: tuple[str, ...] = ("similarity", "overlap", "strength", "margin", "margin_similarity")
PROBED: tuple[str, ...] = ("entropy", "top_logprob", "unsure")
GAINED: tuple[str, ...] = ("entropy_change", "top_logprob_change", "unsure_alone")


@dataclass(frozen=True)
class Probe:
    """One token with a memory in place, which the answer goes on from, and one ``alone``, without any.

    That one is worth its cost only among several candidates, who share it; else it is None.
    """

    memory: Score
    alone: Score | None = None

    @property
    def values(self) -> tuple[float, ...]:
        """The features named in `PROBED`; the entropy in nats."""
        return self.memory.entropy, self.memory.top_logprob, float(unsure(self.memory.likely))

    @property
    def gains(self) -> tuple[float, ...]:
        """The features named in `GAINED`; nothing without the token alone."""
        if self.alone is None:
            return ()
        return (
            self.memory.entropy - self.alone.entropy,
            self.memory.top_logprob - self.alone.top_logprob,
            float(unsure(self.alone.likely)),
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
    """Names of all features of a probed candidate, but for those of `among`."""
    return (*FOUND, *PROBED, *(f"hidden_{i}" for i in range(hidden)))


def probed(basis: Sequence[float], probe: Probe, hidden: int) -> tuple[float, ...]:
    """All features of a probed candidate; ``hidden`` of them are the hidden state's, 0 where it is short."""
    state = tuple(probe.memory.hidden[:hidden])
    return (*basis, *probe.values, *state, *(0.0,) * (hidden - len(state)))


def among(basis: Sequence[float], probe: Probe, hidden: int) -> tuple[float, ...]:
    """The features of one of several probed candidates: what it gains over no memory comes last."""
    return (*probed(basis, probe, hidden), *probe.gains)
