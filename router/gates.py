"""The gates that ship with memkit; `memkit.router.gate` describes them."""

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
    """The gate ``rule``: decides by the best candidate's similarity and by whether it has an artifact."""

    config: GateConfig

    def decide(self, router: Router, state: RoutingState) -> Ruling:
        """See `memkit.router.router.Gate`."""
        router.attach(state, router.contenders(state))
        decision = gate.decide_by_rule(state.ranked[0], state.obstacle(0), router.min_similarity)
        return _apply(router, state, decision)


@dataclass(frozen=True)
class EntropyGate:
    """The gate ``entropy`` (CDLM): decides by the first token's entropy with the best candidate in place."""

    config: GateConfig

    def decide(self, router: Router, state: RoutingState) -> Ruling:
        """See `memkit.router.router.Gate`.

        Raises `ConfigError` if neither ``max_entropy`` is set nor a calibration exists.
        """
        limit = self.config.max_entropy
        if limit is None:
            limit = _require_calibration(router, state, "entropy").thresholds.max_entropy
        router.probe(state, [0])
        probe = state.probes.get(0)
        entropy = None if probe is None else probe.memory.entropy
        calibrated = self.config.max_entropy is None
        decision = gate.decide_by_entropy(state.ranked[0], state.obstacle(0), entropy, limit, calibrated)
        return _apply(router, state, decision)


@dataclass(frozen=True)
class LearnedGate:
    """The gate ``learned``: calibrated classifiers rank the candidates and decide the route."""

    config: GateConfig

    def decide(self, router: Router, state: RoutingState) -> Ruling:
        """See `memkit.router.router.Gate`. Raises `ConfigError` without a calibration."""
        _require_calibration(router, state, "learned")
        best, search, calibration = self.rank(router, state)
        candidate, limits = state.ranked[best], calibration.thresholds
        scores = self.scores(state, best, calibration)
        obstacle = state.obstacle(best)
        decision = gate.decide_before_text(candidate, scores, obstacle, limits)
        if decision is not None:
            hit = Span(candidate.hit.start, candidate.hit.end)
            return Ruling(decision, "", (hit,) if decision.route == "latent" else ())
        probe, text, spans = router.probe_text(state, candidate)
        if probe is None:
            return Ruling(_no_room(state, gate.EMPTY))
        row = features.probe_features(search, probe, calibration.hidden)
        answerable = calibration.heads["text"].probability(row)
        decision = gate.decide_after_text(candidate, scores, obstacle, answerable, limits)
        return Ruling(decision, text, spans) if decision.route == "text" else Ruling(decision)

    @staticmethod
    def rank(router: Router, state: RoutingState) -> tuple[int, tuple[float, ...], Calibration]:
        """Score all candidates and probe the contenders.

        Returns the best candidate's position, search features and calibration. Candidates whose search
        score is below ``probe_from`` are not probed, so that unrelated questions cost no forward pass.
        """
        fallback = next(c for c in state.calibrations.values() if c is not None)
        state.scores = {
            i: (state.calibrations.get(i) or fallback)
            .heads["found"]
            .probability(features.search_features(state.ranked, i))
            for i in range(len(state.ranked))
        }
        promising = [
            i
            for i in router.contenders(state)
            if state.scores[i] >= (state.calibrations.get(i) or fallback).thresholds.probe_from
        ]
        state.search_score = max(state.scores.values())
        router.probe(state, promising)
        several = len(state.probes) > 1
        head, features_of = (
            ("among", features.comparison_features) if several else ("right", features.probe_features)
        )
        for i, probe in state.probes.items():
            if calibration := state.calibrations.get(i):
                row = features_of(features.search_features(state.ranked, i), probe, calibration.hidden)
                state.scores[i] = calibration.heads[head].probability(row)
        best = max(state.scores, key=lambda i: (state.scores[i], -i))
        return best, features.search_features(state.ranked, best), state.calibrations.get(best) or fallback

    @staticmethod
    def scores(state: RoutingState, best: int, calibration: Calibration) -> GateScores:
        """What the classifiers of ``calibration`` say about the candidate at position ``best``."""
        probe = state.probes.get(best)
        if probe is None or state.calibrations.get(best) is None:
            return GateScores(state.scores[best], None, state.search_score)
        row = features.probe_features(features.search_features(state.ranked, best), probe, calibration.hidden)
        return GateScores(state.scores[best], calibration.heads["held"].probability(row), state.search_score)


@dataclass(frozen=True)
class AutoGate:
    """The gate ``auto``: `LearnedGate` if there is a calibration, otherwise `RuleGate`."""

    config: GateConfig

    def decide(self, router: Router, state: RoutingState) -> Ruling:
        """See `memkit.router.router.Gate`."""
        try:
            calibrated = router.load_calibrations(state)
        except ConfigError as error:
            state.notes.append(f"the gate 'rule' decides: {error}")
            calibrated = False
        return (LearnedGate if calibrated else RuleGate)(self.config).decide(router, state)


def _require_calibration(router: Router, state: RoutingState, name: str) -> Calibration:
    """The calibration for the best candidate. Raises `ConfigError` if there is none."""
    calibration = state.calibrations.get(0)
    if calibration is None and router.load_calibrations(state):
        calibration = state.calibrations[0]
    if calibration is None:
        raise ConfigError(
            f"the gate {name!r} is not calibrated for this model, compiler and embedder "
            f"({router.embedder.name}); run `memkit calibrate`, or use the gate 'rule'"
        )
    return calibration


def _apply(router: Router, state: RoutingState, decision: Decision) -> Ruling:
    """The ruling for a decision about the best candidate: with its text, or with the span of its hit."""
    best = state.ranked[0]
    if decision.route == "text":
        text, spans = router.text(state, best)
        return Ruling(decision if text else _no_room(state, decision), text, spans)
    spans = (Span(best.hit.start, best.hit.end),) if decision.route == "latent" else ()
    return Ruling(decision, "", spans)


def _no_room(state: RoutingState, decision: Decision) -> Decision:
    state.notes.append("no passage of the memory fits the prompt together with this question")
    return Decision("none", None, "the question leaves no room for a text", decision.gate)
