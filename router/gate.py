"""The self-gate: answer from the artifact (latent), from the text, or without memory (none).

A gate is chosen by name, or passed as an object that implements `Gate`:

``rule``     is not calibrated. If the best candidate's similarity is below ``min_similarity``, the route
             is none; if it has an artifact for this model, latent; otherwise text.
``entropy``  is the self-gate of *Context Distillation as Latent Memory Management* (CDLM). The model
             generates one token with the best candidate in place. If the token's entropy is below λ, the
             route is latent, otherwise none. A candidate without an artifact is answered from its text.
``learned``  uses the calibrated classifiers. It notices loss: if the right memory's artifact lacks the
             detail in question, the answer comes from the text.
``auto``     is ``learned`` where there is a calibration, otherwise ``rule``.

The classes are in `memkit.router.gates`. Others register under the entry-point group ``memkit.gates``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from memkit import registry
from memkit.errors import ConfigError
from memkit.router.calibration import Thresholds
from memkit.router.retrieval import Candidate

Route = Literal["latent", "text", "none"]


@dataclass(frozen=True)
class GateConfig:
    """Which gate decides, and how many candidates it may probe.

    ``name`` is a gate that ships with memkit or one that is registered under ``memkit.gates``.
    ``min_similarity`` is the threshold of ``rule``, in [0, 1]; None means the embedder's.
    ``max_entropy`` is λ, the threshold of ``entropy``, in nats; None means the calibrated one.
    ``probes`` bounds the number of candidates that are probed. A candidate is probed if its strength is
    within ``reach`` of the best one's; if the best one leads by ``clear``, it alone is probed.

    Raises `ConfigError` for an unknown name and for values out of range.
    """

    name: str = "auto"
    min_similarity: float | None = None
    max_entropy: float | None = None
    probes: int = 8
    reach: float = 0.3
    clear: float = 0.2

    def __post_init__(self) -> None:
        if self.name not in registry.SHIPPED[registry.GATES]:
            registry.load(registry.GATES, self.name)
        if self.min_similarity is not None and not 0.0 <= self.min_similarity <= 1.0:
            raise ConfigError(f"min_similarity must be in [0, 1], got {self.min_similarity}")
        if self.max_entropy is not None and not self.max_entropy >= 0:
            raise ConfigError(f"max_entropy must be at least 0, got {self.max_entropy}")
        if not 1 <= self.probes <= 64:
            raise ConfigError(f"probes must be in [1, 64], got {self.probes}")
        if self.reach < 0 or self.clear < 0:
            raise ConfigError("reach and clear must be at least 0")


@dataclass(frozen=True)
class Decision:
    """A gate's decision: the ``route``, the ``candidate`` it concerns and the ``reason``, a sentence.

    ``gate`` is the name of the gate; ``calibrated`` says whether its thresholds come from a calibration.
    ``margin`` is the distance of the deciding value from its threshold, in the unit of that value.
    ``score`` says how sure the gate is that a memory answers the question; scores of one gate can be
    compared across questions.
    """

    route: Route
    candidate: Candidate | None
    reason: str
    gate: str = "rule"
    margin: float | None = None
    calibrated: bool = False
    score: float = 0.0


EMPTY = Decision("none", None, "the bank holds no memory")


def decide_by_rule(best: Candidate, obstacle: str, min_similarity: float) -> Decision:
    """The decision of the gate ``rule``.

    ``obstacle`` says why the artifact of ``best`` cannot be used, or "". ``min_similarity`` is in [0, 1].
    """
    margin = best.similarity - min_similarity
    if margin < 0:
        reason = f"best similarity {best.similarity:.2f} is below {min_similarity:.2f}"
        return Decision("none", None, reason, "rule", margin, False, best.similarity)
    if obstacle:
        reason = f"similarity {best.similarity:.2f}; text, because {obstacle}"
        return Decision("text", best, reason, "rule", margin, False, best.similarity)
    reason = f"similarity {best.similarity:.2f} and a compiled artifact for this model"
    return Decision("latent", best, reason, "rule", margin, False, best.similarity)


def decide_by_entropy(
    best: Candidate, obstacle: str, entropy: float | None, limit: float, calibrated: bool
) -> Decision:
    """The decision of the gate ``entropy`` (CDLM).

    ``entropy`` is that of the first token, in nats, None where there is no artifact to probe; ``obstacle``
    says why. ``limit`` is λ, in nats; ``calibrated`` says whether it comes from a calibration.
    """
    if entropy is None:
        return Decision("text", best, f"text, because {obstacle}", "entropy", None, calibrated)
    margin, finding = limit - entropy, f"the first token's entropy is {entropy:.2f}"
    if margin <= 0:
        reason = f"{finding}, not below {limit:.2f}"
        return Decision("none", None, reason, "entropy", margin, calibrated, -entropy)
    reason = f"{finding}, below {limit:.2f}"
    return Decision("latent", best, reason, "entropy", margin, calibrated, -entropy)


@dataclass(frozen=True)
class GateScores:
    """Probabilities that the classifiers give for the chosen candidate.

    ``relevance``: it is the right memory. ``correctness``: its artifact answers correctly, given that it is
    the right memory; None if no artifact was probed. ``search``: the highest relevance of any candidate
    before a probe.
    """

    relevance: float
    correctness: float | None
    search: float = 1.0

    @property
    def latent(self) -> float:
        """Probability that the artifact answers correctly; 0 if none was probed."""
        return 0.0 if self.correctness is None else self.relevance * self.correctness


def decide_before_text(
    best: Candidate, scores: GateScores, obstacle: str, limits: Thresholds
) -> Decision | None:
    """The decision of the gate ``learned``, or None if it depends on the text.

    ``obstacle`` says why the artifact of ``best`` cannot be used, or ""; ``limits`` are calibrated.
    """
    margin = scores.search - limits.probe_from
    if margin < 0:
        reason = (
            f"the search finds no memory about this: {scores.search:.2f} is below {limits.probe_from:.2f}"
        )
        return Decision("none", None, reason, "learned", margin, True, scores.search**2)
    margin = scores.relevance - limits.none_below
    if margin < 0:
        reason = f"no memory is about this: {scores.relevance:.2f} is below {limits.none_below:.2f}"
        return Decision("none", None, reason, "learned", margin, True, scores.relevance**2)
    if scores.correctness is not None and scores.latent >= limits.latent_from:
        reason = f"the artifact answers right with probability {scores.latent:.2f}"
        margin = scores.latent - limits.latent_from
        return Decision("latent", best, reason, "learned", margin, True, scores.relevance)
    return None


def decide_after_text(
    best: Candidate, scores: GateScores, obstacle: str, answerable: float, limits: Thresholds
) -> Decision:
    """The decision of the gate ``learned`` after a probe with the text in the prompt.

    ``answerable`` is the probability that the text answers the question. The other parameters are those
    of `decide_before_text`.
    """
    margin = answerable - limits.text_from
    if margin < 0:
        reason = f"the text does not answer this: {answerable:.2f} is below {limits.text_from:.2f}"
        return Decision("none", None, reason, "learned", margin, True, scores.relevance * answerable)
    why = obstacle or (
        f"the artifact may have lost this (it answers right with probability {scores.latent:.2f}, "
        f"{limits.latent_from:.2f} is needed)"
    )
    evidence = f"its text answers this with probability {answerable:.2f}, {limits.text_from:.2f} is needed"
    reason, score = f"text, because {why}; {evidence}", scores.relevance * answerable
    return Decision("text", best, reason, "learned", margin, True, score)
