"""The router: retrieve candidates, probe the likely ones with one token each, and let the gate decide.

Work that candidates share is done once: the prompt header is part of each artifact, and one probe without
memory serves all candidates. The answer continues from the probe of the chosen candidate. A memory's text
is read at most once, and only if its artifact is missing or not trusted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from copy import copy
from typing import Any, Protocol, TypeAlias, get_args

from memkit import registry
from memkit.bank import Bank, MemoryInfo
from memkit.document import Span
from memkit.engine.base import Engine, Handle, Request
from memkit.errors import ArtifactError, ConfigError, EngineError, NotFoundError
from memkit.router import calibration, features
from memkit.router.calibration import Calibration
from memkit.router.embedders import Embedder
from memkit.router.features import Probe
from memkit.router.gate import EMPTY, Decision, GateConfig, Route
from memkit.router.indexing import refresh
from memkit.router.passages import TEMPLATE_TOKENS, select_passages, text_budget
from memkit.router.retrieval import Candidate, lead, retrieve
from memkit.router.staleness import staleness_reason
from memkit.router.types import CandidateTrace, RoutingResult, RoutingState, Ruling

NO_COMPILER = "none"  # names the calibration of memories that have only their text


class Gate(Protocol):
    """Decides among a question's candidates, of which there is at least one."""

    def decide(self, router: Router, state: RoutingState) -> Ruling:
        """The decision. `Router.attach`, `Router.probe`, `Router.probe_text` and `Router.text` find out more
        about ``state``, at the cost of a pass of the model each."""


GateChoice: TypeAlias = "Gate | GateConfig | str"


def resolve_gate(gate: GateChoice | None) -> tuple[GateConfig, Gate]:
    """A gate and its config, from either or from a name; None means ``auto``.

    Raises `ConfigError` for an unknown name and for what is no gate.
    """
    if gate is None or isinstance(gate, str):
        gate = GateConfig(gate or "auto")
    config = gate if isinstance(gate, GateConfig) else GateConfig()
    made: Any = registry.load(registry.GATES, gate.name)(gate) if isinstance(gate, GateConfig) else gate
    if isinstance(made, type) or not callable(getattr(made, "decide", None)):
        raise ConfigError(f"gate is a gate's name, a GateConfig or a Gate, got {made!r:.80}")
    return config, made


class Router:
    """Routes one tenant's questions.

    ``bank`` holds the memories of ``tenant``. ``engine`` is called when a model is first needed.
    ``embedder`` embeds questions. ``gate`` decides: a `Gate`, a `GateConfig` or a name; None means
    ``auto``. Raises `ConfigError` for an unknown gate.
    """

    def __init__(
        self,
        bank: Bank,
        tenant: str,
        engine: Callable[[], Engine],
        embedder: Embedder,
        gate: GateChoice | None = None,
    ) -> None:
        self.bank, self.tenant, self.embedder = bank, tenant, embedder
        self.config, self._gate = resolve_gate(gate)
        self._engine = engine
        self._calibrations = dict[str, Calibration]()

    def for_tenant(self, tenant: str, engine: Callable[[], Engine]) -> Router:
        """The same router for another tenant and its engine; loaded calibrations are shared."""
        other = copy(self)
        other.tenant, other._engine = tenant, engine
        return other

    def with_gate(self, gate: GateChoice) -> Router:
        """The same router with another gate. Raises `ConfigError` for an unknown one."""
        other = copy(self)
        other.config, other._gate = resolve_gate(gate)
        return other

    def obstacle(self, info: MemoryInfo) -> str:
        """Why a memory's artifact cannot be used with this model, or ""."""
        with ExitStack() as stack:
            handle = self._attach(info, stack)
        return handle if isinstance(handle, str) else ""

    def _attach(self, info: MemoryInfo, stack: ExitStack) -> Handle | str:
        """Attach a memory's artifact until ``stack`` is closed, or say why it cannot be used with this model.

        The artifact is opened and checked each time: it may have been altered or forgotten since.
        """
        if info.artifact_id is None:
            return f"it could not be compiled: {info.error}" if info.error else "it is not compiled yet"
        try:
            with self.bank.artifact(self.tenant, info.id) as artifact:
                return stack.enter_context(self._engine().attached(artifact))
        except (ArtifactError, NotFoundError, EngineError) as error:
            return str(error)

    # -- a question -----------------------------------------------------------------------------
    def route(
        self,
        question: str,
        max_tokens: int,
        within: str | None = None,
        *,
        stack: ExitStack | None = None,
    ) -> RoutingResult:
        """Decide which memory goes in front of a question, and build the request.

        ``max_tokens`` bounds the answer, in tokens. ``within`` is the id of the only memory to consider.
        Artifacts stay attached until ``stack`` is closed; without a stack, until this returns. Raises
        `NotFoundError` if ``within`` names no memory, `ConfigError` if the gate needs a calibration and
        there is none.
        """
        started = time.perf_counter()
        with ExitStack() as own:
            state = self.retrieve(question, max_tokens, within, stack=own if stack is None else stack)
            decision, context, spans = self.decide(state)
        request = self._request(state, decision, context)
        ms = (time.perf_counter() - started) * 1000
        notes, probes = tuple(state.notes), tuple(state.probe_requests)
        return RoutingResult(decision, request, spans, self._trace_candidates(state), notes, probes, ms)

    def retrieve(
        self,
        question: str,
        max_tokens: int = 64,
        within: str | None = None,
        *,
        stack: ExitStack | None = None,
    ) -> RoutingState:
        """Find a question's candidates, without probing any.

        The parameters are those of `route`. Artifacts that are attached later stay attached until
        ``stack`` is closed. Raises `NotFoundError` if ``within`` names no memory.
        """
        reembedded = refresh(self.bank, self.tenant, self.embedder)
        vector = self.embedder.question(question)
        ranked = retrieve(self.bank, self.tenant, question, self.embedder, vector=vector, within=within)
        state = RoutingState(question, vector, max_tokens, ranked, stack or ExitStack())
        if reembedded:
            state.notes.append(f"{reembedded} memories were embedded again by {self.embedder.name}")
        return state

    def decide(self, state: RoutingState) -> Ruling:
        """The gate's ruling, with what it leaves to the router: the artifact attached, the text read.

        Raises `ConfigError` for a gate that returns something else than a ruling about a candidate.
        """
        if not state.ranked:
            return Ruling(EMPTY)
        ruling = self._gate.decide(self, state)
        decision = ruling.decision if isinstance(ruling, Ruling) else None
        if not isinstance(decision, Decision) or decision.route not in get_args(Route):
            raise ConfigError(f"a gate returns a Ruling with a known route, got {type(ruling).__name__}")
        if decision.route == "none":
            return ruling
        if decision.candidate not in state.ranked:
            raise ConfigError("a gate decides for one of the question's own candidates")
        index = state.ranked.index(decision.candidate)
        if decision.route == "latent" and not self.attach(state, [index]):
            raise ConfigError(f"the gate chose an artifact that cannot be used: {state.obstacle(index)}")
        if decision.route == "text" and not ruling.text:
            return Ruling(decision, *self.text(state, state.ranked[index]))
        return ruling

    @property
    def min_similarity(self) -> float:
        """The similarity, in [0, 1], below which an uncalibrated gate takes a candidate to be unrelated."""
        low = self.config.min_similarity
        return self.embedder.min_similarity if low is None else low

    def load_calibrations(self, state: RoutingState) -> bool:
        """Load the calibration of each candidate's compiler; returns whether the best candidate has one.

        Raises `ConfigError` for a calibration file that cannot be used.
        """
        for i, candidate in enumerate(state.ranked):
            state.calibrations[i] = self._calibration(candidate.memory.compiler or NO_COMPILER)
        fallback = next((c for c in state.calibrations.values() if c), None)
        for i, candidate in enumerate(state.ranked):
            if candidate.memory.compiler is None:  # it has only its text, so any compiler's will do
                fallback = fallback or self._any_calibration()
                state.calibrations[i] = state.calibrations[i] or fallback
        return state.calibrations[0] is not None

    def _calibration(self, compiler: str) -> Calibration | None:
        if compiler not in self._calibrations:
            loaded = calibration.find(
                self.bank.path, self._engine().fingerprint, compiler, self.embedder.name
            )
            if loaded is None:  # not cached: `memkit calibrate` may run before the next question
                return None
            self._calibrations[compiler] = loaded
        return self._calibrations[compiler]

    def _any_calibration(self) -> Calibration | None:
        fingerprint, name = self._engine().fingerprint, self.embedder.name
        compilers = calibration.compilers(self.bank.path, fingerprint, name)
        return next((loaded for c in compilers if (loaded := self._calibration(c))), None)

    # -- probes ---------------------------------------------------------------------------------
    def contenders(self, state: RoutingState) -> list[int]:
        """Positions of the candidates to probe: the best, and those close to it unless it leads clearly."""
        ranked, config = state.ranked, self.config
        if lead(ranked) >= config.clear:
            return [0]
        near = [i for i, c in enumerate(ranked) if ranked[0].strength - c.strength <= config.reach]
        return near[: config.probes]

    def attach(self, state: RoutingState, indices: Sequence[int]) -> list[int]:
        """Attach the artifacts of the candidates at ``indices``; returns the positions where that worked.

        `RoutingState.obstacle` says why another could not be attached.
        """
        engine = self._engine()
        room = engine.window - engine.count_tokens(state.question) - state.max_tokens - TEMPLATE_TOKENS
        for i in indices:
            memory = state.ranked[i].memory
            if i in state.handles:
                continue
            handle = self._attach(memory, state.stack)
            if isinstance(handle, Handle):
                stale = staleness_reason(self.bank, self.tenant, memory, state.vector, self.min_similarity)
                handle = stale or handle
            if isinstance(handle, Handle) and handle.tokens > room:
                handle = f"its {handle.tokens} tokens and the question do not fit the model's window"
            state.handles[i] = handle
        return [i for i in indices if not state.obstacle(i)]

    def probe(self, state: RoutingState, indices: Sequence[int]) -> None:
        """Generate one token with each candidate's artifact in place; several share one without memory.

        The model is called once for all of them. Results are in ``state.probes``; candidates whose
        artifact cannot be attached get none.
        """
        ready = self.attach(state, indices)
        if not ready:
            return
        handles = [h for i in ready if isinstance(h := state.handles[i], Handle)]
        requests = [Request(state.question, handle=h) for h in handles]
        if len(ready) > 1:
            requests.append(Request(state.question))
        scores = self._engine().score(requests)
        state.probe_requests += requests
        alone = scores[len(ready)] if len(ready) > 1 else None
        state.probes |= {i: Probe(score, alone) for i, score in zip(ready, scores, strict=False)}

    def probe_text(
        self, state: RoutingState, candidate: Candidate
    ) -> tuple[Probe | None, str, tuple[Span, ...]]:
        """Generate one token with the candidate's passages in the prompt.

        Returns the probe, the passages and their spans; None and nothing if no passage fits the prompt.
        """
        text, spans = self.text(state, candidate)
        if not text:
            return None, "", ()
        request = Request(state.question, context=text)
        (score,) = self._engine().score([request])
        state.probe_requests.append(request)
        return Probe(score), text, spans

    def text(self, state: RoutingState, candidate: Candidate) -> tuple[str, tuple[Span, ...]]:
        """The candidate's passages for the prompt and their spans; empty if no passage fits."""
        engine = self._engine()
        room = text_budget(engine, state.question, state.max_tokens)
        try:
            return select_passages(self.bank, self.tenant, engine, candidate.memory, state.vector, room)
        except NotFoundError:  # it was forgotten since the search
            return "", ()

    # -- results --------------------------------------------------------------------------------
    def _request(self, state: RoutingState, decision: Decision, context: str) -> Request:
        question, tokens = state.question, state.max_tokens
        if decision.route == "text":
            return Request(question, context=context, max_tokens=tokens)
        if decision.route == "latent" and decision.candidate is not None:
            handle = state.handles[state.ranked.index(decision.candidate)]
            if isinstance(handle, Handle):
                return Request(question, handle=handle, max_tokens=tokens)
        return Request(question, max_tokens=tokens)

    def _trace_candidates(self, state: RoutingState) -> tuple[CandidateTrace, ...]:
        rows = list[CandidateTrace]()
        for i, candidate in enumerate(state.ranked):
            probe = state.probes.get(i)
            values = dict(
                zip(features.SEARCH_FEATURES, features.search_features(state.ranked, i), strict=True)
            )
            if probe is not None:
                values |= zip(features.PROBE_FEATURES, probe.values, strict=True)
                values |= zip(features.GAIN_FEATURES, probe.gains, strict=False)  # empty for a single probe
            rows.append(
                CandidateTrace(
                    candidate.memory.id,
                    candidate.memory.title,
                    candidate.similarity,
                    candidate.strength,
                    probe is not None,
                    state.obstacle(i) if i in state.handles else None,
                    state.scores.get(i),
                    values,
                )
            )
        return tuple(rows)
