"""The router: candidates, one token with each of the likely ones in place, then the gate.

What all candidates share is done once: the header in front of every memory is part of what is
attached, and the token without memory serves all of them. The answer goes on from the probe of what
was chosen. The text of a memory is read at most once, and only where an artifact is absent or not
trusted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from copy import copy

from memkit.bank import Bank, MemoryInfo
from memkit.document import Document, Span
from memkit.engine.base import Engine, Handle, Request
from memkit.errors import ConfigError, NotFoundError
from memkit.router import calibration, features, gate
from memkit.router.artifact_cache import open_artifact
from memkit.router.calibration import Calibration
from memkit.router.embedders import Embedder
from memkit.router.features import Probe
from memkit.router.gate import Decision, GateConfig, GateScores
from memkit.router.passages import AROUND, passages, room_for
from memkit.router.retrieval import Candidate, index, lead, refresh, retrieve
from memkit.router.staleness import staleness_reason
from memkit.router.types import CandidateTrace, RoutingResult, RoutingState

NO_COMPILER = "none"  # names the calibration of memories that have only their text


class Router:
    """Routes one tenant's questions. ``engine`` is asked for when a model is first needed."""

    def __init__(
        self,
        bank: Bank,
        tenant: str,
        engine: Callable[[], Engine],
        embedder: Embedder,
        config: GateConfig | None = None,
    ) -> None:
        self.bank, self.tenant, self.embedder = bank, tenant, embedder
        self.config = config or GateConfig()
        self._engine = engine
        self._calibrations = dict[str, Calibration]()

    def of(self, tenant: str, engine: Callable[[], Engine]) -> Router:
        """The same for another tenant; what was read of calibrations is shared."""
        other = copy(self)
        other.tenant, other._engine = tenant, engine
        return other

    def with_gate(self, config: GateConfig) -> Router:
        """The same with another gate."""
        other = copy(self)
        other.config = config
        return other

    # -- what is searched -----------------------------------------------------------------------
    def remember(self, document: Document) -> MemoryInfo:
        """Keep a document in the bank so that it can be found."""
        return self.remember_many([document])[0]

    def remember_many(self, documents: Sequence[Document]) -> list[MemoryInfo]:
        """Keep documents in the bank, all at once."""
        refresh(self.bank, self.tenant, self.embedder)
        indexed = [(document, *index(document, self.embedder)) for document in documents]
        return self.bank.remember_many(self.tenant, indexed, embedder=self.embedder.name)

    def usable(self, info: MemoryInfo) -> str:
        """Why a memory's artifact cannot be used with this model, or ""."""
        with ExitStack() as held:
            handle = open_artifact(self.bank, self.tenant, info, self._engine(), held)
        return handle if isinstance(handle, str) else ""

    # -- a question -----------------------------------------------------------------------------
    def route(
        self,
        question: str,
        max_tokens: int,
        within: str | None = None,
        *,
        held: ExitStack | None = None,
    ) -> RoutingResult:
        """Decide what goes in front of a question, and how it is asked; ``within`` leaves one memory.

        Artifacts stay attached until ``held`` is closed; without it, only until this returns.
        """
        started = time.perf_counter()
        with ExitStack() as own:
            looked = self.look(question, max_tokens, within, held=own if held is None else held)
            decision, context, spans = self.decide(looked)
        request = self._request(looked, decision, context)
        ms = (time.perf_counter() - started) * 1000
        notes, asked = tuple(looked.notes), tuple(looked.asked)
        return RoutingResult(decision, request, spans, self._considered(looked), notes, asked, ms)

    def look(
        self,
        question: str,
        max_tokens: int = 64,
        within: str | None = None,
        *,
        held: ExitStack | None = None,
    ) -> RoutingState:
        """Find a question's candidates; nothing is probed yet. What will be attached, ``held`` lets go."""
        made = refresh(self.bank, self.tenant, self.embedder)
        vector = self.embedder.question(question)
        ranked = retrieve(self.bank, self.tenant, question, self.embedder, vector=vector, within=within)
        looked = RoutingState(question, vector, max_tokens, ranked, held or ExitStack())
        if made:
            looked.notes.append(f"the vectors of {made} memories were made anew by {self.embedder.name}")
        return looked

    def decide(self, looked: RoutingState) -> tuple[Decision, str, tuple[Span, ...]]:
        """The gate's decision; a text and its spans where the route is text."""
        if not looked.ranked:
            return gate.EMPTY, "", ()
        chosen = self._gate(looked)
        if chosen == "learned":
            return self._learned(looked)
        if chosen == "entropy":
            decision = self._entropy(looked)
        else:
            self.attach(looked, self.contenders(looked))
            decision = gate.by_rule(looked.ranked[0], looked.obstacle(0), self._min_similarity())
        text, spans = "", tuple[Span, ...]()
        if decision.route == "text":
            text, spans = self.text(looked, looked.ranked[0])
            decision = decision if text else self._unfit(looked, decision)
        elif decision.route == "latent":
            hit = looked.ranked[0].hit
            spans = (Span(hit.start, hit.end),)
        return decision, text, spans

    def _min_similarity(self) -> float:
        low = self.config.min_similarity
        return self.embedder.min_similarity if low is None else low

    def _gate(self, looked: RoutingState) -> str:
        """The gate that can decide, with what it needs read."""
        name = self.config.name
        if name in ("auto", "learned") or (name == "entropy" and self.config.max_entropy is None):
            try:
                known = self.calibrated(looked)
            except ConfigError as error:
                if name != "auto":
                    raise
                looked.notes.append(f"the rule decides: {error}")
                return "rule"
            if name == "auto":
                return "learned" if known else "rule"
            if not known:
                raise ConfigError(
                    f"the gate {name!r} is not calibrated for this model, compiler and embedder "
                    f"({self.embedder.name}); run `memkit calibrate`, or use the gate 'rule'"
                )
        return name

    def calibrated(self, looked: RoutingState) -> bool:
        """Read the calibration of each candidate's compiler; whether the best one has one."""
        for i, candidate in enumerate(looked.ranked):
            looked.calibrations[i] = self._calibration(candidate.memory.compiler or NO_COMPILER)
        spare = next((c for c in looked.calibrations.values() if c), None)
        for i, candidate in enumerate(looked.ranked):
            if candidate.memory.compiler is None:  # only its text counts, whatever compiles the others
                spare = spare or self._any_calibration()
                looked.calibrations[i] = looked.calibrations[i] or spare
        return looked.calibrations[0] is not None

    def _calibration(self, compiler: str) -> Calibration | None:
        if compiler not in self._calibrations:
            found = calibration.find(self.bank.path, self._engine().fingerprint, compiler, self.embedder.name)
            if found is None:  # looked for again next time: it may be made meanwhile
                return None
            self._calibrations[compiler] = found
        return self._calibrations[compiler]

    def _any_calibration(self) -> Calibration | None:
        fingerprint, name = self._engine().fingerprint, self.embedder.name
        compilers = calibration.compilers(self.bank.path, fingerprint, name)
        return next((found for c in compilers if (found := self._calibration(c))), None)

    # -- probes ---------------------------------------------------------------------------------
    def contenders(self, looked: RoutingState) -> list[int]:
        """The candidates worth a probe: the best, and those near it unless it leads clearly."""
        ranked, config = looked.ranked, self.config
        if lead(ranked) >= config.clear:
            return [0]
        near = [i for i, c in enumerate(ranked) if ranked[0].strength - c.strength <= config.reach]
        return near[: config.probes]

    def attach(self, looked: RoutingState, indices: Sequence[int]) -> list[int]:
        """Attach the candidates' artifacts; those that could be."""
        engine = self._engine()
        room = engine.window - engine.count_tokens(looked.question) - looked.max_tokens - AROUND
        for i in indices:
            memory = looked.ranked[i].memory
            if i in looked.handles:
                continue
            handle = open_artifact(self.bank, self.tenant, memory, engine, looked.held)
            if isinstance(handle, Handle):
                least = self._min_similarity()
                handle = staleness_reason(self.bank, self.tenant, memory, looked.vector, least) or handle
            if isinstance(handle, Handle) and handle.tokens > room:
                handle = f"its {handle.tokens} tokens and the question do not fit the model's window"
            looked.handles[i] = handle
        return [i for i in indices if not looked.obstacle(i)]

    def probe(self, looked: RoutingState, indices: Sequence[int]) -> None:
        """One token with each candidate's artifact in place, and among several one without, in one call."""
        ready = self.attach(looked, indices)
        if not ready:
            return
        handles = [h for i in ready if isinstance(h := looked.handles[i], Handle)]
        requests = [Request(looked.question, handle=h) for h in handles]
        if len(ready) > 1:
            requests.append(Request(looked.question))
        scores = self._engine().score(requests)
        looked.asked += requests
        alone = scores[len(ready)] if len(ready) > 1 else None
        looked.probes |= {i: Probe(score, alone) for i, score in zip(ready, scores, strict=False)}

    def probe_text(
        self, looked: RoutingState, candidate: Candidate
    ) -> tuple[Probe | None, str, tuple[Span, ...]]:
        """One token with the candidate's passages in the prompt; no probe where none fits."""
        text, spans = self.text(looked, candidate)
        if not text:
            return None, "", ()
        request = Request(looked.question, context=text)
        (score,) = self._engine().score([request])
        looked.asked.append(request)
        return Probe(score), text, spans

    def text(self, looked: RoutingState, candidate: Candidate) -> tuple[str, tuple[Span, ...]]:
        """The candidate's passages for the prompt, with their spans; nothing where none fits."""
        engine = self._engine()
        room = room_for(engine, looked.question, looked.max_tokens)
        try:
            return passages(self.bank, self.tenant, engine, candidate.memory, looked.vector, room)
        except NotFoundError:  # forgotten in the meantime
            return "", ()

    # -- gates ----------------------------------------------------------------------------------
    def _entropy(self, looked: RoutingState) -> Decision:
        self.probe(looked, [0])
        known, limit = looked.calibrations.get(0), self.config.max_entropy
        if limit is None and known is not None:
            limit = known.thresholds.max_entropy
        if limit is None:
            raise ConfigError("the entropy gate needs max_entropy, or a calibration")
        probe = looked.probes.get(0)
        entropy = None if probe is None else probe.memory.entropy
        decided = gate.by_entropy(
            looked.ranked[0], looked.obstacle(0), entropy, limit, self.config.max_entropy is None
        )
        return decided

    def _learned(self, looked: RoutingState) -> tuple[Decision, str, tuple[Span, ...]]:
        best, basis, known = self.choose(looked)
        candidate, limits = looked.ranked[best], known.thresholds
        belief = self.belief(looked, best, known)
        obstacle = looked.obstacle(best)
        decision = gate.before_text(candidate, belief, obstacle, limits)
        if decision is not None:
            hit = Span(candidate.hit.start, candidate.hit.end)
            return decision, "", (hit,) if decision.route == "latent" else ()
        probe, text, spans = self.probe_text(looked, candidate)
        if probe is None:
            return self._unfit(looked, gate.EMPTY), "", ()
        row = features.probed(basis, probe, known.hidden)
        answerable = known.heads["text"].probability(row)
        decision = gate.after_text(candidate, belief, obstacle, answerable, limits)
        return (decision, text, spans) if decision.route == "text" else (decision, "", ())

    def choose(self, looked: RoutingState) -> tuple[int, tuple[float, ...], Calibration]:
        """Rank by the scorers, probing the contenders; the best one's index, features and calibration.

        Candidates that the search alone rules out are not probed, so that a question that is about
        nothing in the bank costs nothing.
        """
        known = next(c for c in looked.calibrations.values() if c is not None)
        looked.scores = {
            i: (looked.calibrations.get(i) or known)
            .heads["found"]
            .probability(features.found(looked.ranked, i))
            for i in range(len(looked.ranked))
        }
        hopeful = [
            i
            for i in self.contenders(looked)
            if looked.scores[i] >= (looked.calibrations.get(i) or known).thresholds.probe_from
        ]
        looked.found = max(looked.scores.values())
        self.probe(looked, hopeful)
        several = len(looked.probes) > 1
        head, features_of = ("among", features.among) if several else ("right", features.probed)
        for i, probe in looked.probes.items():
            if own := looked.calibrations.get(i):
                row = features_of(features.found(looked.ranked, i), probe, own.hidden)
                looked.scores[i] = own.heads[head].probability(row)
        best = max(looked.scores, key=lambda i: (looked.scores[i], -i))
        return best, features.found(looked.ranked, best), looked.calibrations.get(best) or known

    def belief(self, looked: RoutingState, best: int, known: Calibration) -> GateScores:
        """What the scorers say of a candidate."""
        probe = looked.probes.get(best)
        if probe is None or looked.calibrations.get(best) is None:
            return GateScores(looked.scores[best], None, looked.found)
        row = features.probed(features.found(looked.ranked, best), probe, known.hidden)
        return GateScores(looked.scores[best], known.heads["held"].probability(row), looked.found)

    def _unfit(self, looked: RoutingState, decision: Decision) -> Decision:
        looked.notes.append("no passage of the memory fits the prompt beside this question")
        return Decision("none", None, "the question leaves no room for a text", decision.gate)

    # -- what comes of it -----------------------------------------------------------------------
    def _request(self, looked: RoutingState, decision: Decision, context: str) -> Request:
        question, tokens = looked.question, looked.max_tokens
        if decision.route == "text":
            return Request(question, context=context, max_tokens=tokens)
        if decision.route == "latent" and decision.candidate is not None:
            handle = looked.handles[looked.ranked.index(decision.candidate)]
            if isinstance(handle, Handle):
                return Request(question, handle=handle, max_tokens=tokens)
        return Request(question, max_tokens=tokens)

    def _considered(self, looked: RoutingState) -> tuple[CandidateTrace, ...]:
        rows = list[CandidateTrace]()
        for i, candidate in enumerate(looked.ranked):
            probe = looked.probes.get(i)
            values = dict(zip(features.FOUND, features.found(looked.ranked, i), strict=True))
            if probe is not None:
                values |= zip(features.PROBED, probe.values, strict=True)
                values |= zip(features.GAINED, probe.gains, strict=False)  # among several only
            rows.append(
                CandidateTrace(
                    candidate.memory.id,
                    candidate.memory.title,
                    candidate.similarity,
                    candidate.strength,
                    probe is not None,
                    looked.obstacle(i) if i in looked.handles else None,
                    looked.scores.get(i),
                    values,
                )
            )
        return tuple(rows)
