"""Answers in pieces, made in threads: their number is bounded, and one that nobody waits for ends."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import TypeVar

import anyio
from anyio import to_thread
from starlette.requests import Request

from memkit.answer import Answer
from memkit.errors import ContextTooLongError, EngineError
from memkit.memory import Memory
from memkit.router.gate import GateName
from memkit.server.api_errors import ApiError
from memkit.server.dependencies import RequestContext

T = TypeVar("T")
TOGETHER = 0.02  # seconds for which pieces are gathered before they are passed on
THREADS = 8  # that wait for the engine, which serves one at a time; the others wait without one


@dataclass(frozen=True)
class Question:
    """What is asked, and how; see `memkit.Memory.ask`."""

    text: str
    max_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0
    history: tuple[tuple[str, str], ...] = ()
    system: str = ""
    within: str | None = None
    gate: GateName | None = None


class AnswerPool:
    """How many answers are under way, and how many threads make them."""

    def __init__(self, answers: int, timeout: float) -> None:
        self.timeout = timeout
        self._turns = anyio.CapacityLimiter(answers)
        self._threads = anyio.CapacityLimiter(THREADS)

    async def stream(self, context: RequestContext, question: Question) -> AsyncGenerator[str | Answer, None]:
        """The pieces of an answer, then the answer. Leaving it ends the work after the token under way."""
        deadline, turn = time.monotonic() + self.timeout, object()
        with anyio.move_on_after(self.timeout) as waiting:
            await self._turns.acquire_on_behalf_of(turn)
        if waiting.cancelled_caught:
            raise ApiError(
                503, "too many questions wait; try again later", "busy", headers={"Retry-After": "5"}
            )
        try:
            with context.memory() as memory, closing(_asked(memory, question)) as pieces:
                together = 0.0  # the first piece goes out at once
                while made := await to_thread.run_sync(_next, pieces, together, limiter=self._threads):
                    together = TOGETHER
                    for piece in made:
                        yield piece
                    if time.monotonic() > deadline and isinstance(made[-1], str):
                        late = f"no whole answer within {self.timeout:g} s; ask for fewer tokens"
                        raise ApiError(504, late, "timeout")
        finally:
            self._turns.release_on_behalf_of(turn)

    async def answer(self, context: RequestContext, question: Question, request: Request) -> Answer:
        """A whole answer; nobody makes it any more once its asker has hung up."""

        async def whole() -> Answer:
            found: Answer | None = None
            async with aclosing(self.stream(context, question)) as pieces:
                async for piece in pieces:
                    found = piece if isinstance(piece, Answer) else found
            if found is None:
                raise RuntimeError("a stream ends with its answer")
            return found

        return await until_disconnected(request, whole)


async def until_disconnected(request: Request, work: Callable[[], Awaitable[T]]) -> T:
    """What some work gives, which ends where the caller hangs up; the request's body was read before."""
    found: list[T] = []
    failure: Exception | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(_hung_up, request, group.cancel_scope)
        try:
            found.append(await work())
        except Exception as error:
            failure = error  # raised outside, so that no group is around it
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if not found:
        raise ApiError(499, "the caller hung up", "hung_up")
    return found[0]


async def _hung_up(request: Request, scope: anyio.CancelScope) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _asked(memory: Memory, question: Question) -> Generator[str | Answer, None, None]:
    """The pieces of an answer; a memory whose artifact was detached meanwhile is looked for again, once."""
    pieces = _pieces(memory, question)
    try:
        first = next(pieces)
    except ContextTooLongError:
        raise
    except EngineError:
        pieces = _pieces(memory, question)
        first = next(pieces)
    yield first
    yield from pieces  # which closes them where this is closed


def _pieces(memory: Memory, question: Question) -> Generator[str | Answer, None, None]:
    stream = memory.stream(
        question.text,
        history=question.history,
        max_tokens=question.max_tokens,
        temperature=question.temperature,
        seed=question.seed,
        system=question.system,
        within=question.within,
        gate=question.gate,
    )
    with stream:
        yield from stream
        yield stream.answer


def _next(pieces: Generator[str | Answer, None, None], seconds: float) -> list[str | Answer]:
    """The next pieces, as many as come in that time: to change threads for each would take longer than it."""
    made, until = list[str | Answer](), time.monotonic() + seconds
    for piece in pieces:
        made.append(piece)
        if time.monotonic() >= until:
            break
    return made
