"""The path of a question: routed, answered, and told how. `Memory` calls it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from memkit.answers import Answer, Part, Trace, parts_of
from memkit.bank import MemoryInfo
from memkit.document import Span
from memkit.engine.base import Completion, Engine, Request
from memkit.errors import ConfigError, NotFoundError
from memkit.router.gate import Route
from memkit.router.router import Routed

if TYPE_CHECKING:
    from memkit.memory import Memory

Turns = Sequence[tuple[str, str]]
HISTORY_SHARE = 2  # earlier turns take at most one part in this many of the window
AROUND_TURN = 16  # tokens that a chat template puts around a turn, roughly


@dataclass(frozen=True)
class Sampling:
    """How an answer is written: greedily at temperature 0, of at most ``max_tokens`` tokens.

    ``instructions`` stand in front of the question, and have no part in choosing the memory; with
    ``within`` only the memory of that id may be chosen.
    """

    max_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0
    instructions: str = ""
    within: str | None = None


@dataclass(frozen=True)
class Asked:
    """A question that was routed, and when it was put."""

    question: str
    routed: Routed
    request: Request
    started: float


def ask_many(memory: Memory, questions: Sequence[str], history: Turns, how: Sampling) -> list[Answer]:
    """Answer questions; those with the same memory in front of them are read together."""
    asked = [_route(memory, question, history, how) for question in questions]
    order = sorted(range(len(asked)), key=lambda i: _front(asked[i].request))
    said = memory.engine.generate([asked[i].request for i in order])
    answers = {i: _answer(memory, asked[i], completion) for i, completion in zip(order, said, strict=True)}
    return [answers[i] for i in range(len(asked))]


def stream(memory: Memory, question: str, history: Turns, how: Sampling) -> Iterator[str | Answer]:
    """The pieces of an answer, then the answer itself."""
    asked = _route(memory, question, history, how)
    for piece in memory.engine.stream(asked.request):
        yield piece if isinstance(piece, str) else _answer(memory, asked, piece)


def _front(request: Request) -> tuple[str, str]:
    return request.handle.artifact_id if request.handle else "", request.context or ""


def _route(memory: Memory, question: str, history: Turns, how: Sampling) -> Asked:
    if not question.strip():
        raise ConfigError("the question is empty")
    started, kept, taken = time.time(), tuple[tuple[str, str], ...](), 0
    if history:
        kept, taken = _latest(memory.engine, history)
    asked = f"{how.instructions}\n\n{question}" if how.instructions else question
    taken += memory.engine.count_tokens(how.instructions) if how.instructions else 0
    try:
        routed = memory.router.route(question, how.max_tokens + taken, how.within)
        request = replace(
            routed.request,
            question=asked,
            history=kept,
            max_tokens=how.max_tokens,
            temperature=how.temperature,
            seed=how.seed,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return Asked(question, routed, request, started)


def _latest(engine: Engine, history: Turns) -> tuple[tuple[tuple[str, str], ...], int]:
    """The latest turns that leave room for memory and answer, and about how many tokens they take."""
    kept, taken, most = list[tuple[str, str]](), 0, engine.window // HISTORY_SHARE
    for asked, answer in reversed(history):
        taken += engine.count_tokens(asked) + engine.count_tokens(answer) + AROUND_TURN
        if taken > most:
            break
        kept.insert(0, (asked, answer))
    return tuple(kept), min(taken, most)


def _answer(memory: Memory, asked: Asked, completion: Completion) -> Answer:
    routed = asked.routed
    decision, handle = routed.decision, routed.request.handle
    chosen = decision.candidate.memory if decision.candidate else None
    trace = Trace(
        question=asked.question,
        route=decision.route,
        reason=decision.reason,
        gate=decision.gate,
        calibrated=decision.calibrated,
        margin=decision.margin,
        candidates=routed.considered,
        memory_id=chosen.id if chosen else None,
        artifact_id=handle.artifact_id if handle else None,
        version=chosen.version if chosen and handle else None,
        spans=routed.spans,
        probes=len(routed.asked),
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.tokens,
        stopped=completion.stopped,
        route_ms=routed.ms,
        ttft_ms=completion.ttft_ms,
        total_ms=completion.total_ms,
        notes=routed.notes,
        parts=_parts(memory, decision.route, chosen, routed.spans),
    )
    answer = Answer(completion.text, decision.route, trace)
    memory.answered(answer, asked.started)
    return answer


def _parts(
    memory: Memory, route: Route, chosen: MemoryInfo | None, spans: Sequence[Span]
) -> tuple[Part, ...]:
    if chosen is None:
        return ()
    try:
        entries = memory.bank.logs.entries(memory.user, chosen.id) if chosen.running else []
    except NotFoundError:  # forgotten in the meantime
        entries = []
    return parts_of(route, spans, entries, chosen.characters)
