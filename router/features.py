"""The features that the classifiers see: what the search says of a candidate, and what a probe adds.

A probe generates one token with the candidate's artifact in place. The features follow CDLM
(*Context Distillation as Latent Memory Management*): similarity, its margin, the entropy of the first
token and the first dimensions of its hidden state.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memkit.engine.base import Score
from memkit.router.retrieval import Candidate

HIDDEN_DIMS = 128  # dimensions of the first token's hidden state that are used (CDLM)
REFUSAL_STARTS = frozenset("i unknown none no not sorry unfortunately there".split())

SEARCH_FEATURES: tuple[str, ...] = ("similarity", "overlap", "strength", "margin", "margin_similarity")
PROBE_FEATURES: tuple[str, ...] = ("entropy", "top_logprob", "unsure")
GAIN_FEATURES: tuple[str, ...] = ("entropy_change", "top_logprob_change", "unsure_alone")


@dataclass(frozen=True)
class Probe:
    """The first token with a memory in place (``memory``), and the first token without any (``alone``).

    ``alone`` is None for a single candidate: the extra pass pays off only when several share it.
    """

    memory: Score
    alone: Score | None = None

    @property
    def values(self) -> tuple[float, ...]:
        """The features named in `PROBE_FEATURES`; the entropy is in nats."""
        return self.memory.entropy, self.memory.top_logprob, float(starts_refusal(self.memory.likely))

    @property
    def gains(self) -> tuple[float, ...]:
        """The features named in `GAIN_FEATURES`; empty when ``alone`` is None."""
        if self.alone is None:
            return ()
        return (
            self.memory.entropy - self.alone.entropy,
            self.memory.top_logprob - self.alone.top_logprob,
            float(starts_refusal(self.alone.likely)),
        )


def starts_refusal(token: str) -> bool:
    """Whether an answer that starts with this token is probably "I do not know"."""
    return token.strip().lower() in REFUSAL_STARTS


def search_features(ranked: Sequence[Candidate], i: int) -> tuple[float, ...]:
    """The features named in `SEARCH_FEATURES` of candidate ``i``; margins are to the best other candidate."""
    candidate = ranked[i]
    others = [c for j, c in enumerate(ranked) if j != i]
    strength = max((c.strength for c in others), default=0.0)
    similarity = max((c.similarity for c in others), default=0.0)
    return (
        candidate.similarity,
        candidate.overlap,
        candidate.strength,
        candidate.strength - strength,
        candidate.similarity - similarity,
    )


def feature_names(hidden: int) -> tuple[str, ...]:
    """Names of the features that `probe_features` returns, with ``hidden`` dimensions of hidden state."""
    return (*SEARCH_FEATURES, *PROBE_FEATURES, *(f"hidden_{i}" for i in range(hidden)))


def probe_features(search: Sequence[float], probe: Probe, hidden: int) -> tuple[float, ...]:
    """All features of a probed candidate.

    ``search`` are its search features. ``hidden`` is the number of dimensions of the hidden state; a
    shorter hidden state is padded with zeros.
    """
    state = tuple(probe.memory.hidden[:hidden])
    return (*search, *probe.values, *state, *(0.0,) * (hidden - len(state)))


def comparison_features(search: Sequence[float], probe: Probe, hidden: int) -> tuple[float, ...]:
    """The features of one of several probed candidates: `probe_features`, then its gains over no memory."""
    return (*probe_features(search, probe, hidden), *probe.gains)
