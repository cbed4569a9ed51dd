"""From a question to its answer: check, route, generate, trace."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from memkit.answer import Answer, Part, Trace, parts_of
from memkit.bank import MemoryInfo
from memkit.document import Span
from memkit.engine.base import Completion, Engine, Request
from memkit.errors import ConfigError, NotFoundError
from memkit.pipeline.context import Context
from memkit.router.gate import Route
from memkit.router.indexing import refresh
from memkit.router.retrieval import retrieve
from memkit.router.router import GateChoice, resolve_gate
from memkit.router.types import RoutingResult
from memkit.text.messages import Turns, parse_history, require_text
from memkit.text.normalize import is_blank

Pairs = tuple[tuple[str, str], ...]
MAX_HISTORY_SHARE = 0.5  # of the model's window
SEED_RANGE = 2**63  # generators of random numbers take seeds below
TURN_TOKENS = 16  # that a chat template adds to a turn, roughly


@dataclass(frozen=True)
class Sampling:
    """How a question is answered.

    ``max_tokens`` bounds the answer, in tokens. With ``temperature`` 0 the model picks the likeliest token
    at every step; higher values sample, and ``seed``, any whole number, makes the sample repeatable.
    ``system`` is the system text. ``within`` is the id of the only memory to consider. ``gate`` decides
    instead of the configured one. Raises `ConfigError` for values out of range.
    """

    max_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0
    system: str = ""
    within: str | None = None
    gate: GateChoice | None = None

    def __post_init__(self) -> None:
        _require_integer("max_tokens", self.max_tokens, 1)
        _require_integer("seed", self.seed, None)
        if isinstance(self.temperature, bool) or not isinstance(self.temperature, int | float):
            raise ConfigError(f"temperature is a number, at least 0, got {self.temperature!r:.80}")
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature is a number, at least 0, got {self.temperature}")
        require_text("system text", self.system)
        if self.within is not None and not isinstance(self.within, str):
            raise ConfigError(f"within is the id of a memory, got {self.within!r:.80}")
        if self.gate is not None:
            resolve_gate(self.gate)

    @property
    def generator_seed(self) -> int:
        """The seed, reduced to the range of a random number generator."""
        return self.seed % SEED_RANGE


@dataclass(frozen=True)
class RecalledText:
    """The text to read for a question, for models that take no artifacts.

    ``text`` has the passages of the memory ``memory_id`` at ``spans``, characters of its source. It is empty
    if the gate chooses no memory. ``reason`` is the gate's.
    """

    text: str
    memory_id: str | None
    spans: tuple[Span, ...]
    reason: str


@dataclass(frozen=True)
class SearchResult:
    """The best passage of a memory for a query: the characters ``span`` of its source.

    ``score`` orders the results of one search.
    """

    text: str
    memory: MemoryInfo
    span: Span
    score: float


@dataclass(frozen=True)
class RoutedQuestion:
    """A routed question, the request to the engine and the Unix time at which routing started."""

    routed: RoutingResult
    request: Request
    started: float


def ask_many(context: Context, questions: Sequence[str], history: Turns, sampling: Sampling) -> list[Answer]:
    """Answer questions, in one batch ordered by memory; see `memkit.Memory.ask_many`."""
    if isinstance(questions, str) or not isinstance(questions, Sequence):
        raise ConfigError("give a list of questions; `ask` takes one")
    with ExitStack() as stack:
        routed = [_route(context, question, history, sampling, stack) for question in questions]
        order = sorted(range(len(routed)), key=lambda i: _memory_key(routed[i].request))
        completions = context.engine.generate([routed[i].request for i in order])
        answers = {i: _answer(context, routed[i], done) for i, done in zip(order, completions, strict=True)}
        return [answers[i] for i in range(len(routed))]


def stream(context: Context, question: str, history: Turns, sampling: Sampling) -> Iterator[str | Answer]:
    """Yield the pieces of an answer's text, then the answer itself."""
    with ExitStack() as stack:
        routed = _route(context, question, history, sampling, stack)
        for piece in context.engine.stream(routed.request):
            yield piece if isinstance(piece, str) else _answer(context, routed, piece)


def recall(context: Context, question: str, max_tokens: int) -> RecalledText:
    """The passages of the memory that the gate chooses, or none.

    ``max_tokens`` are reserved for the answer. Raises `ConfigError` for an empty question.
    """
    _require_question(question)
    _require_integer("max_tokens", max_tokens, 1)
    with ExitStack() as stack:
        state = context.router.retrieve(question, max_tokens, stack=stack)
        decision, text, spans = context.router.decide(state)
    if decision.route == "latent" and decision.candidate is not None:
        text, spans = context.router.text(state, decision.candidate)
    chosen = decision.candidate.memory.id if decision.candidate and text else None
    return RecalledText(text, chosen, spans if text else (), decision.reason)


def search(context: Context, query: str, k: int) -> list[SearchResult]:
    """The best passage of each of the ``k`` best memories, best first. Raises `ConfigError`."""
    _require_integer("k", k, 1)
    require_text("query", query)
    bank, user, embedder = context.bank, context.owner, context.router.embedder
    refresh(bank, user, embedder)
    ranked = retrieve(bank, user, query, embedder, memories=k) if query.strip() else []
    texts = bank.excerpts(user, [candidate.hit for candidate in ranked])
    return [
        SearchResult(text, found.memory, Span(found.hit.start, found.hit.end), found.strength)
        for found, text in zip(ranked, texts, strict=True)
        if text
    ]


def _memory_key(request: Request) -> tuple[str, str]:
    return request.handle.artifact_id if request.handle else "", request.context or ""


def _require_integer(what: str, number: object, least: int | None) -> None:
    """Raise `ConfigError` unless ``number`` is a whole number and at least ``least``."""
    if isinstance(number, bool) or not isinstance(number, int):
        raise ConfigError(f"{what} is a whole number, got {number!r:.80}")
    if least is not None and number < least:
        raise ConfigError(f"{what} must be at least {least}, got {number}")


def _require_question(question: str) -> None:
    """Raise `ConfigError` unless ``question`` is a text that is not blank."""
    if is_blank(require_text("question", question)):
        raise ConfigError("the question is empty")


def _route(
    context: Context, question: str, history: Turns, sampling: Sampling, stack: ExitStack
) -> RoutedQuestion:
    _require_question(question)
    pairs, instructions = parse_history(history)
    system = "\n\n".join(filter(None, (sampling.system, instructions)))
    turns: Pairs = ()
    engine = context.engine  # loading it is not part of routing
    started, used = time.time(), 0
    if pairs:
        turns, used = _recent_turns(engine, pairs)
    if system:
        used += engine.count_tokens(system) + TURN_TOKENS
    router = context.router if sampling.gate is None else context.router.with_gate(sampling.gate)
    routed = router.route(question, sampling.max_tokens + used, sampling.within, stack=stack)
    request = replace(
        routed.request,
        history=turns,
        system=system,
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        seed=sampling.generator_seed,
    )
    return RoutedQuestion(routed, request, started)


def _recent_turns(engine: Engine, history: Pairs) -> tuple[Pairs, int]:
    """The latest turns that fit their share of the window, and about how many tokens they take."""
    turns, used, most = list[tuple[str, str]](), 0, int(engine.window * MAX_HISTORY_SHARE)
    for question, answer in reversed(history):
        used += engine.count_tokens(question) + engine.count_tokens(answer) + TURN_TOKENS
        if used > most:
            break
        turns.insert(0, (question, answer))
    return tuple(turns), min(used, most)


def _answer(context: Context, question: RoutedQuestion, completion: Completion) -> Answer:
    routed = question.routed
    decision, handle = routed.decision, routed.request.handle
    chosen = decision.candidate.memory if decision.candidate else None
    trace = Trace(
        question=question.request.question,
        route=decision.route,
        reason=decision.reason,
        gate=decision.gate,
        calibrated=decision.calibrated,
        margin=decision.margin,
        candidates=routed.candidates,
        memory_id=chosen.id if chosen else None,
        artifact_id=handle.artifact_id if handle else None,
        version=chosen.version if chosen and handle else None,
        spans=routed.spans,
        probes=len(routed.probes),
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.tokens,
        stopped=completion.stopped,
        route_ms=routed.ms,
        ttft_ms=completion.ttft_ms,
        total_ms=completion.total_ms,
        notes=routed.notes,
        parts=_parts(context, decision.route, chosen, routed.spans),
    )
    answer = Answer(completion.text, decision.route, trace)
    if answer.trace.memory_id is not None and answer.route != "none":
        context.usage.note(context.owner, answer.trace.memory_id)
    context.observer.answered(context.owner, answer, question.started)
    return answer


def _parts(
    context: Context, route: Route, chosen: MemoryInfo | None, spans: Sequence[Span]
) -> tuple[Part, ...]:
    if chosen is None:
        return ()
    try:
        entries = context.bank.logs.entries(context.owner, chosen.id) if chosen.running else []
    except NotFoundError:  # it was forgotten since
        entries = []
    return parts_of(route, spans, entries, chosen.characters)
