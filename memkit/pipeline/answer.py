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
HISTORY_SHARE = 2  # earlier turns take at most one part in this many of the window
SEEDS = 2**63  # different ones
AROUND_TURN = 16  # tokens that a chat template puts around a turn, roughly


@dataclass(frozen=True)
class Sampling:
    """How a question is answered; see `memkit.Memory.ask` for the fields. Raises `ConfigError`."""

    max_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0
    system: str = ""
    within: str | None = None
    gate: GateChoice | None = None

    def __post_init__(self) -> None:
        _whole("max_tokens", self.max_tokens, 1)
        _whole("seed", self.seed, None)
        if isinstance(self.temperature, bool) or not isinstance(self.temperature, int | float):
            raise ConfigError(f"temperature is a number from 0 on, got {self.temperature!r:.80}")
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature is a number from 0 on, got {self.temperature}")
        require_text("system text", self.system)
        if self.within is not None and not isinstance(self.within, str):
            raise ConfigError(f"within is the id of a memory, got {self.within!r:.80}")
        if self.gate is not None:
            resolve_gate(self.gate)

    @property
    def drawn(self) -> int:
        """The seed, as generators of random numbers take it."""
        return self.seed % SEEDS


@dataclass(frozen=True)
class RecalledText:
    """What to read before a question is answered, for models that take no artifacts.

    ``text`` holds the passages of a memory at its ``spans``; it is empty where none should be read.
    """

    text: str
    memory_id: str | None
    spans: tuple[Span, ...]
    reason: str


@dataclass(frozen=True)
class SearchResult:
    """A passage that was found: characters ``span`` of a memory; ``score`` orders them."""

    text: str
    memory: MemoryInfo
    span: Span
    score: float


@dataclass(frozen=True)
class RoutedQuestion:
    """A question that was routed, and when it was put."""

    routed: RoutingResult
    request: Request
    started: float


def ask_many(context: Context, questions: Sequence[str], history: Turns, sampling: Sampling) -> list[Answer]:
    """Answer questions; those with the same memory in front of them are read together."""
    if isinstance(questions, str) or not isinstance(questions, Sequence):
        raise ConfigError("give a list of questions; `ask` takes one")
    with ExitStack() as stack:
        asked = [_route(context, question, history, sampling, stack) for question in questions]
        order = sorted(range(len(asked)), key=lambda i: _front(asked[i].request))
        said = context.engine.generate([asked[i].request for i in order])
        answers = {i: _answer(context, asked[i], done) for i, done in zip(order, said, strict=True)}
        return [answers[i] for i in range(len(asked))]


def stream(context: Context, question: str, history: Turns, sampling: Sampling) -> Iterator[str | Answer]:
    """The pieces of an answer, then the answer itself."""
    with ExitStack() as stack:
        asked = _route(context, question, history, sampling, stack)
        for piece in context.engine.stream(asked.request):
            yield piece if isinstance(piece, str) else _answer(context, asked, piece)


def recall(context: Context, question: str, max_tokens: int) -> RecalledText:
    """The passages of the memory that the gate would use, at most as many tokens, or none."""
    _require(question)
    _whole("max_tokens", max_tokens, 1)
    with ExitStack() as stack:
        state = context.router.retrieve(question, max_tokens, stack=stack)
        decision, text, spans = context.router.decide(state)
    if decision.route == "latent" and decision.candidate is not None:
        text, spans = context.router.text(state, decision.candidate)
    chosen = decision.candidate.memory.id if decision.candidate and text else None
    return RecalledText(text, chosen, spans if text else (), decision.reason)


def search(context: Context, query: str, k: int) -> list[SearchResult]:
    """The best passage of each of the ``k`` best memories."""
    _whole("k", k, 1)
    require_text("query", query)
    bank, user, embedder = context.bank, context.owner, context.router.embedder
    refresh(bank, user, embedder)
    ranked = retrieve(bank, user, query, embedder, memories=k) if query.strip() else []
    texts = bank.excerpts(user, [each.hit for each in ranked])
    return [
        SearchResult(text, each.memory, Span(each.hit.start, each.hit.end), each.strength)
        for each, text in zip(ranked, texts, strict=True)
        if text
    ]


def _front(request: Request) -> tuple[str, str]:
    return request.handle.artifact_id if request.handle else "", request.context or ""


def _whole(what: str, number: object, least: int | None) -> None:
    """Raise `ConfigError` for what is no whole number, or too small a one."""
    if isinstance(number, bool) or not isinstance(number, int):
        raise ConfigError(f"{what} is a whole number, got {number!r:.80}")
    if least is not None and number < least:
        raise ConfigError(f"{what} must be at least {least}, got {number}")


def _require(question: str) -> None:
    """Raise `ConfigError` for what is no question."""
    if is_blank(require_text("question", question)):
        raise ConfigError("the question is empty")


def _route(
    context: Context, question: str, history: Turns, sampling: Sampling, stack: ExitStack
) -> RoutedQuestion:
    _require(question)
    earlier, told = parse_history(history)
    system = "\n\n".join(filter(None, (sampling.system, told)))
    kept: Pairs = ()
    started, taken = time.time(), 0
    if earlier:
        kept, taken = _latest(context.engine, earlier)
    if system:
        taken += context.engine.count_tokens(system) + AROUND_TURN
    router = context.router if sampling.gate is None else context.router.with_gate(sampling.gate)
    routed = router.route(question, sampling.max_tokens + taken, sampling.within, stack=stack)
    request = replace(
        routed.request,
        history=kept,
        system=system,
        max_tokens=sampling.max_tokens,
        temperature=sampling.temperature,
        seed=sampling.drawn,
    )
    return RoutedQuestion(routed, request, started)


def _latest(engine: Engine, history: Pairs) -> tuple[Pairs, int]:
    """The latest turns that leave room for memory and answer, and about how many tokens they take."""
    kept, taken, most = list[tuple[str, str]](), 0, engine.window // HISTORY_SHARE
    for asked, answer in reversed(history):
        taken += engine.count_tokens(asked) + engine.count_tokens(answer) + AROUND_TURN
        if taken > most:
            break
        kept.insert(0, (asked, answer))
    return tuple(kept), min(taken, most)


def _answer(context: Context, asked: RoutedQuestion, completion: Completion) -> Answer:
    routed = asked.routed
    decision, handle = routed.decision, routed.request.handle
    chosen = decision.candidate.memory if decision.candidate else None
    trace = Trace(
        question=asked.request.question,
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
    context.observer.answered(context.owner, answer, asked.started)
    return answer


def _parts(
    context: Context, route: Route, chosen: MemoryInfo | None, spans: Sequence[Span]
) -> tuple[Part, ...]:
    if chosen is None:
        return ()
    try:
        entries = context.bank.logs.entries(context.owner, chosen.id) if chosen.running else []
    except NotFoundError:  # forgotten in the meantime
        entries = []
    return parts_of(route, spans, entries, chosen.characters)
