"""The router: retrieve candidates, probe the likely ones with one token each, and let the gate decide.

What all candidates share is computed once: the header is part of what is attached, and the probe without
a memory serves them all. The answer continues from the probe of the chosen candidate. A memory's text is
read at most once, and only where its artifact is missing or not trusted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from copy import copy
from typing import Protocol, TypeAlias

from memkit import registry
from memkit.bank import Bank, MemoryInfo
from memkit.document import Span
from memkit.engine.base import Engine, Handle, Request
from memkit.errors import ArtifactError, ConfigError, EngineError, NotFoundError
from memkit.router import calibration, features
from memkit.router.calibration import Calibration
from memkit.router.embedders import Embedder
from memkit.router.features import Probe
from memkit.router.gate import EMPTY, Decision, GateConfig
from memkit.router.indexing import refresh
from memkit.router.passages import AROUND, passages, room_for
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
    if isinstance(gate, GateConfig):
        return gate, registry.load(registry.GATES, gate.name)(gate)
    if not callable(getattr(gate, "decide", None)):
        raise ConfigError(f"gate is a gate's name, a GateConfig or a Gate, got {gate!r:.80}")
    return GateConfig(), gate


class Router:
    """Routes one tenant's questions. ``engine`` is asked for when a model is first needed."""

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

    def of(self, tenant: str, engine: Callable[[], Engine]) -> Router:
        """The same for another tenant; what was read of calibrations is shared."""
        other = copy(self)
        other.tenant, other._engine = tenant, engine
        return other

    def with_gate(self, gate: GateChoice) -> Router:
        """The same with another gate. Raises `ConfigError` for an unknown one."""
        other = copy(self)
        other.config, other._gate = resolve_gate(gate)
        return other

    def usable(self, info: MemoryInfo) -> str:
        """Why a memory's artifact cannot be used with this model, or ""."""
        with ExitStack() as held:
            handle = self._open(info, held)
        return handle if isinstance(handle, str) else ""

    def _open(self, info: MemoryInfo, held: ExitStack) -> Handle | str:
        """A handle until ``held`` is closed, or why the memory's artifact cannot be used with this model.

        The artifact is opened and checked each time, as it may have been altered or forgotten meanwhile.
        """
        if info.artifact_id is None:
            return f"it could not be compiled: {info.error}" if info.error else "it is not compiled yet"
        try:
            with self.bank.artifact(self.tenant, info.id) as artifact:
                return held.enter_context(self._engine().attached(artifact))
        except (ArtifactError, NotFoundError, EngineError) as error:
            return str(error)

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
            state = self.retrieve(question, max_tokens, within, held=own if held is None else held)
            decision, context, spans = self.decide(state)
        request = self._request(state, decision, context)
        ms = (time.perf_counter() - started) * 1000
        notes, asked = tuple(state.notes), tuple(state.asked)
        return RoutingResult(decision, request, spans, self._trace_candidates(state), notes, asked, ms)

    def retrieve(
        self,
        question: str,
        max_tokens: int = 64,
        within: str | None = None,
        *,
        held: ExitStack | None = None,
    ) -> RoutingState:
        """Find a question's candidates; nothing is probed yet.

        Artifacts that are attached for it stay so until ``held`` is closed.
        """
        made = refresh(self.bank, self.tenant, self.embedder)
        vector = self.embedder.question(question)
        ranked = retrieve(self.bank, self.tenant, question, self.embedder, vector=vector, within=within)
        state = RoutingState(question, vector, max_tokens, ranked, held or ExitStack())
        if made:
            state.notes.append(f"the vectors of {made} memories were made anew by {self.embedder.name}")
        return state

    def decide(self, state: RoutingState) -> Ruling:
        """The gate's decision; a text and its spans where the route is text."""
        return self._gate.decide(self, state) if state.ranked else Ruling(EMPTY)

    @property
    def min_similarity(self) -> float:
        """Below it a candidate is not about the question, for a gate that is not calibrated; in [0, 1]."""
        low = self.config.min_similarity
        return self.embedder.min_similarity if low is None else low

    def calibrated(self, state: RoutingState) -> bool:
        """Read the calibration of each candidate's compiler; whether the best one has one."""
        for i, candidate in enumerate(state.ranked):
            state.calibrations[i] = self._calibration(candidate.memory.compiler or NO_COMPILER)
        spare = next((c for c in state.calibrations.values() if c), None)
        for i, candidate in enumerate(state.ranked):
            if candidate.memory.compiler is None:  # only its text counts, whatever compiles the others
                spare = spare or self._any_calibration()
                state.calibrations[i] = state.calibrations[i] or spare
        return state.calibrations[0] is not None

    def _calibration(self, compiler: str) -> Calibration | None:
        if compiler not in self._calibrations:
            found = calibration.find(self.bank.path, self._engine().fingerprint, compiler, self.embedder.name)
            if found is None:  # state for again next time: it may be made meanwhile
                return None
            self._calibrations[compiler] = found
        return self._calibrations[compiler]

    def _any_calibration(self) -> Calibration | None:
        fingerprint, name = self._engine().fingerprint, self.embedder.name
        compilers = calibration.compilers(self.bank.path, fingerprint, name)
        return next((found for c in compilers if (found := self._calibration(c))), None)

    # -- probes ---------------------------------------------------------------------------------
    def contenders(self, state: RoutingState) -> list[int]:
        """The candidates worth a probe: the best, and those near it unless it leads clearly."""
        ranked, config = state.ranked, self.config
        if lead(ranked) >= config.clear:
            return [0]
        near = [i for i, c in enumerate(ranked) if ranked[0].strength - c.strength <= config.reach]
        return near[: config.probes]

    def attach(self, state: RoutingState, indices: Sequence[int]) -> list[int]:
        """Attach the candidates' artifacts; those that could be."""
        engine = self._engine()
        room = engine.window - engine.count_tokens(state.question) - state.max_tokens - AROUND
        for i in indices:
            memory = state.ranked[i].memory
            if i in state.handles:
                continue
            handle = self._open(memory, state.held)
            if isinstance(handle, Handle):
                least = self.min_similarity
                handle = staleness_reason(self.bank, self.tenant, memory, state.vector, least) or handle
            if isinstance(handle, Handle) and handle.tokens > room:
                handle = f"its {handle.tokens} tokens and the question do not fit the model's window"
            state.handles[i] = handle
        return [i for i in indices if not state.obstacle(i)]

    def probe(self, state: RoutingState, indices: Sequence[int]) -> None:
        """One token with each candidate's artifact in place, and among several one without, in one call."""
        ready = self.attach(state, indices)
        if not ready:
            return
        handles = [h for i in ready if isinstance(h := state.handles[i], Handle)]
        requests = [Request(state.question, handle=h) for h in handles]
        if len(ready) > 1:
            requests.append(Request(state.question))
        scores = self._engine().score(requests)
        state.asked += requests
        alone = scores[len(ready)] if len(ready) > 1 else None
        state.probes |= {i: Probe(score, alone) for i, score in zip(ready, scores, strict=False)}

    def probe_text(
        self, state: RoutingState, candidate: Candidate
    ) -> tuple[Probe | None, str, tuple[Span, ...]]:
        """One token with the candidate's passages in the prompt; no probe where none fits."""
        text, spans = self.text(state, candidate)
        if not text:
            return None, "", ()
        request = Request(state.question, context=text)
        (score,) = self._engine().score([request])
        state.asked.append(request)
        return Probe(score), text, spans

    def text(self, state: RoutingState, candidate: Candidate) -> tuple[str, tuple[Span, ...]]:
        """The candidate's passages for the prompt, with their spans; nothing where none fits."""
        engine = self._engine()
        room = room_for(engine, state.question, state.max_tokens)
        try:
            return passages(self.bank, self.tenant, engine, candidate.memory, state.vector, room)
        except NotFoundError:  # forgotten in the meantime
            return "", ()

    # -- what comes of it -----------------------------------------------------------------------
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
            values = dict(zip(features.FOUND, features.found(state.ranked, i), strict=True))
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
                    state.obstacle(i) if i in state.handles else None,
                    state.scores.get(i),
                    values,
                )
            )
        return tuple(rows)
