"""The gates that ship with memkit; `memkit.router.gate` tells what each one does."""

from __future__ import annotations

from dataclasses import dataclass

from memkit.document import Span
from memkit.errors import ConfigError
from memkit.router import features, gate
from memkit.router.calibration import Calibration
from memkit.router.gate import Decision, GateConfig, GateScores
from memkit.router.router import Router
from memkit.router.types import RoutingState, Ruling


@dataclass(frozen=True)
class RuleGate:
    """Not calibrated: the best candidate's similarity decides, and whether it has an artifact."""

    config: GateConfig

    def decide(self, router: Router, state: RoutingState) -> Ruling:
        """See `memkit.router.router.Gate`."""
        router.attach(state, router.contenders(state))
        decision = gate.by_rule(state.ranked[0], state.obstacle(0), router.min_similarity)
        return _carried_out(router, state, decision)


@dataclass(frozen=True)
class EntropyGate:
    """CDLM's: the first token's entropy with the best candidate in place decides."""

    config: GateConfig

    def decide(self, router: Router, state: RoutingState) -> Ruling:
        """See `memkit.router.router.Gate`. Raises `ConfigError` without ``max_entropy`` or a calibration."""
        limit = self.config.max_entropy
        if limit is None:
            limit = _require_calibration(router, state, "entropy").thresholds.max_entropy
        router.probe(state, [0])
        probe = state.probes.get(0)
        entropy = None if probe is None else probe.memory.entropy
        calibrated = self.config.max_entropy is None
        decision = gate.by_entropy(state.ranked[0], state.obstacle(0), entropy, limit, calibrated)
        return _carried_out(router, state, decision)


@dataclass(frozen=True)
class LearnedGate:
    """The calibrated classifiers rank the candidates, and decide between artifact, text and neither."""

    config: GateConfig

    def decide(self, router: Router, state: RoutingState) -> Ruling:
        """See `memkit.router.router.Gate`. Raises `ConfigError` without a calibration."""
        _require_calibration(router, state, "learned")
        best, basis, known = self.rank(router, state)
        candidate, limits = state.ranked[best], known.thresholds
        scores = self.scores(state, best, known)
        obstacle = state.obstacle(best)
        decision = gate.before_text(candidate, scores, obstacle, limits)
        if decision is not None:
            hit = Span(candidate.hit.start, candidate.hit.end)
            return Ruling(decision, "", (hit,) if decision.route == "latent" else ())
        probe, text, spans = router.probe_text(state, candidate)
        if probe is None:
            return Ruling(_no_room(state, gate.EMPTY))
        row = features.probed(basis, probe, known.hidden)
        answerable = known.heads["text"].probability(row)
        decision = gate.after_text(candidate, scores, obstacle, answerable, limits)
        return Ruling(decision, text, spans) if decision.route == "text" else Ruling(decision)

    @staticmethod
    def rank(router: Router, state: RoutingState) -> tuple[int, tuple[float, ...], Calibration]:
        """Score the candidates, probing the contenders; the best one's index, features and calibration.

        Candidates that the search alone rules out are not probed, so that a question that is about
        nothing in the bank costs nothing.
        """
        known = next(c for c in state.calibrations.values() if c is not None)
        state.scores = {
            i: (state.calibrations.get(i) or known)
            .heads["found"]
            .probability(features.found(state.ranked, i))
            for i in range(len(state.ranked))
        }
        promising = [
            i
            for i in router.contenders(state)
            if state.scores[i] >= (state.calibrations.get(i) or known).thresholds.probe_from
        ]
        state.found = max(state.scores.values())
        router.probe(state, promising)
        several = len(state.probes) > 1
        head, features_of = ("among", features.among) if several else ("right", features.probed)
        for i, probe in state.probes.items():
            if own := state.calibrations.get(i):
                row = features_of(features.found(state.ranked, i), probe, own.hidden)
                state.scores[i] = own.heads[head].probability(row)
        best = max(state.scores, key=lambda i: (state.scores[i], -i))
        return best, features.found(state.ranked, best), state.calibrations.get(best) or known

    @staticmethod
    def scores(state: RoutingState, best: int, known: Calibration) -> GateScores:
        """What the classifiers say of the candidate ``best``."""
        probe = state.probes.get(best)
        if probe is None or state.calibrations.get(best) is None:
            return GateScores(state.scores[best], None, state.found)
        row = features.probed(features.found(state.ranked, best), probe, known.hidden)
        return GateScores(state.scores[best], known.heads["held"].probability(row), state.found)


@dataclass(frozen=True)
class AutoGate:
    """The learned gate where a calibration is found, else the rule."""

    config: GateConfig

    def decide(self, router: Router, state: RoutingState) -> Ruling:
        """See `memkit.router.router.Gate`."""
        try:
            calibrated = router.calibrated(state)
        except ConfigError as error:
            state.notes.append(f"the rule decides: {error}")
            calibrated = False
        return (LearnedGate if calibrated else RuleGate)(self.config).decide(router, state)


def _require_calibration(router: Router, state: RoutingState, name: str) -> Calibration:
    """The calibration for the best candidate."""
    known = state.calibrations.get(0)
    if known is None and router.calibrated(state):
        known = state.calibrations[0]
    if known is None:
        raise ConfigError(
            f"the gate {name!r} is not calibrated for this model, compiler and embedder "
            f"({router.embedder.name}); run `memkit calibrate`, or use the gate 'rule'"
        )
    return known


def _carried_out(router: Router, state: RoutingState, decision: Decision) -> Ruling:
    """A decision about the best candidate, with its text or the span that was found."""
    best = state.ranked[0]
    if decision.route == "text":
        text, spans = router.text(state, best)
        return Ruling(decision if text else _no_room(state, decision), text, spans)
    spans = (Span(best.hit.start, best.hit.end),) if decision.route == "latent" else ()
    return Ruling(decision, "", spans)


def _no_room(state: RoutingState, decision: Decision) -> Decision:
    state.notes.append("no passage of the memory fits the prompt beside this question")
    return Decision("none", None, "the question leaves no room for a text", decision.gate)
