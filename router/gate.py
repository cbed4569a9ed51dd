"""The self-gate's decision: latent, text or none. Gates are chosen by name, or by the caller's own `Gate`.

``rule``     not calibrated. A best candidate below ``min_similarity``: none. With an artifact for
             this model: latent. Otherwise its text.
``entropy``  the rule of *Context Distillation as Latent Memory Management* (CDLM): one token with the
             best candidate in place; it is kept if the entropy stays below λ, else none.
``learned``  the calibrated scorers. It is the one that notices loss: the right memory whose artifact
             does not hold the asked detail is answered from its text.
``auto``     the learned gate where a calibration is found, else the rule.

`memkit.router.gates` has the classes; others register under the entry-point group ``memkit.gates``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from memkit import registry
from memkit.errors import ConfigError
from memkit.router.calibration import Thresholds
from memkit.router.retrieval import Candidate

Route = Literal["latent", "text", "none"]
GateName = Literal["auto", "rule", "entropy", "learned"]


@dataclass(frozen=True)
class GateConfig:
    """Which gate decides, and how much it may probe.

    ``name`` is one that ships with memkit (`GateName`) or is registered under ``memkit.gates``.
    ``min_similarity`` (the rule's; default: the embedder's) is in [0, 1], ``max_entropy`` (λ; default:
    calibrated) in nats.
    Up to ``probes`` candidates are probed, those within ``reach`` (of strength) of the best, and no
    other when it leads by ``clear``.
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
    """What was decided, for which candidate and why (a sentence for people).

    ``margin`` is the distance of what decided from its threshold, in its own unit; ``score`` says how
    sure the gate is that a memory answers the question, comparable from question to question.
    """

    route: Route
    candidate: Candidate | None
    reason: str
    gate: str = "rule"
    margin: float | None = None
    calibrated: bool = False
    score: float = 0.0


EMPTY = Decision("none", None, "the bank holds no memory")


def by_rule(best: Candidate, obstacle: str, min_similarity: float) -> Decision:
    """The uncalibrated rule; ``obstacle`` says why the artifact cannot be used, or ""."""
    margin = best.similarity - min_similarity
    if margin < 0:
        reason = f"best similarity {best.similarity:.2f} is below {min_similarity:.2f}"
        return Decision("none", None, reason, "rule", margin, False, best.similarity)
    if obstacle:
        reason = f"similarity {best.similarity:.2f}; text, because {obstacle}"
        return Decision("text", best, reason, "rule", margin, False, best.similarity)
    reason = f"similarity {best.similarity:.2f} and a compiled artifact for this model"
    return Decision("latent", best, reason, "rule", margin, False, best.similarity)


def by_entropy(
    best: Candidate, obstacle: str, entropy: float | None, limit: float, calibrated: bool
) -> Decision:
    """CDLM's rule on the first token's ``entropy`` (nats); its text where there is no artifact to probe."""
    if entropy is None:
        return Decision("text", best, f"text, because {obstacle}", "entropy", None, calibrated)
    margin, said = limit - entropy, f"the first token's entropy is {entropy:.2f}"
    if margin <= 0:
        reason = f"{said}, not below {limit:.2f}"
        return Decision("none", None, reason, "entropy", margin, calibrated, -entropy)
    reason = f"{said}, below {limit:.2f}"
    return Decision("latent", best, reason, "entropy", margin, calibrated, -entropy)


@dataclass(frozen=True)
class GateScores:
    """What the scorers say of the chosen candidate; ``held`` is None where no artifact was probed."""

    right: float
    held: float | None
    found: float = 1.0  # the best that the search alone says of any candidate

    @property
    def latent(self) -> float:
        """Probability that the artifact answers right."""
        return 0.0 if self.held is None else self.right * self.held


def before_text(best: Candidate, belief: GateScores, obstacle: str, limits: Thresholds) -> Decision | None:
    """The learned gate's decision, or None when the text has to be read to decide."""
    margin = belief.found - limits.probe_from
    if margin < 0:
        reason = f"the search finds no memory about this: {belief.found:.2f} is below {limits.probe_from:.2f}"
        return Decision("none", None, reason, "learned", margin, True, belief.found**2)
    margin = belief.right - limits.none_below
    if margin < 0:
        reason = f"no memory is about this: {belief.right:.2f} is below {limits.none_below:.2f}"
        return Decision("none", None, reason, "learned", margin, True, belief.right**2)
    if belief.held is not None and belief.latent >= limits.latent_from:
        reason = f"the artifact answers right with probability {belief.latent:.2f}"
        margin = belief.latent - limits.latent_from
        return Decision("latent", best, reason, "learned", margin, True, belief.right)
    return None


def after_text(
    best: Candidate, belief: GateScores, obstacle: str, answerable: float, limits: Thresholds
) -> Decision:
    """The learned gate's decision once the text was read: ``answerable`` is what the scorer says of it."""
    margin = answerable - limits.text_from
    if margin < 0:
        reason = f"the text does not tell: {answerable:.2f} is below {limits.text_from:.2f}"
        return Decision("none", None, reason, "learned", margin, True, belief.right * answerable)
    why = obstacle or (
        f"the artifact may have lost this (it answers right with probability {belief.latent:.2f}, "
        f"{limits.latent_from:.2f} is needed)"
    )
    told = f"its text tells this with probability {answerable:.2f}, {limits.text_from:.2f} is needed"
    reason, score = f"text, because {why}; {told}", belief.right * answerable
    return Decision("text", best, reason, "learned", margin, True, score)
