"""Streamed answers, generated in a bounded number of threads and cancelled when the caller disconnects."""

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
from memkit.server.api_errors import ApiError
from memkit.server.dependencies import RequestContext

T = TypeVar("T")
BATCH_SECONDS = 0.02  # pieces of this time are passed on together
THREADS = 8  # that wait for the engine; further requests wait without a thread


@dataclass(frozen=True)
class Question:
    """A question and its sampling parameters; see `memkit.Memory.ask`."""

    text: str
    max_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0
    history: tuple[tuple[str, str], ...] = ()
    system: str = ""
    within: str | None = None
    gate: str | None = None


class AnswerPool:
    """Bounds the answers that are generated at once, and the threads that generate them.

    ``answers`` may be under way; ``timeout`` is the longest time of an answer in seconds, waiting included.
    """

    def __init__(self, answers: int, timeout: float) -> None:
        self.timeout = timeout
        self._turns = anyio.CapacityLimiter(answers)
        self._threads = anyio.CapacityLimiter(THREADS)

    async def stream(self, context: RequestContext, question: Question) -> AsyncGenerator[str | Answer, None]:
        """The pieces of an answer, then the answer. Closing the stream stops generation at the next token.

        Raises `ApiError` where too many questions wait, or the answer takes too long.
        """
        deadline, turn = time.monotonic() + self.timeout, object()
        with anyio.move_on_after(self.timeout) as waiting:
            await self._turns.acquire_on_behalf_of(turn)
        if waiting.cancelled_caught:
            raise ApiError(
                503, "too many questions are waiting; try again later", "busy", headers={"Retry-After": "5"}
            )
        try:
            with context.memory() as memory, closing(_answer_pieces(memory, question)) as pieces:
                seconds = 0.0  # the first piece goes out at once
                while batch := await to_thread.run_sync(_next, pieces, seconds, limiter=self._threads):
                    seconds = BATCH_SECONDS
                    for piece in batch:
                        yield piece
                    if time.monotonic() > deadline and isinstance(batch[-1], str):
                        late = f"no whole answer within {self.timeout:g} s; ask for fewer tokens"
                        raise ApiError(504, late, "timeout")
        finally:
            self._turns.release_on_behalf_of(turn)

    async def answer(self, context: RequestContext, question: Question, request: Request) -> Answer:
        """A whole answer. Generation stops when the caller disconnects."""

        async def whole() -> Answer:
            answer: Answer | None = None
            async with aclosing(self.stream(context, question)) as pieces:
                async for piece in pieces:
                    answer = piece if isinstance(piece, Answer) else answer
            if answer is None:
                raise RuntimeError("a stream ends with its answer")
            return answer

        return await until_disconnected(request, whole)


async def until_disconnected(request: Request, work: Callable[[], Awaitable[T]]) -> T:
    """The result of ``work``, which is cancelled if the caller disconnects. The request's body must be read.

    Raises `ApiError` (499) after a disconnection.
    """
    result: list[T] = []
    failure: Exception | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(_cancel_on_disconnect, request, group.cancel_scope)
        try:
            result.append(await work())
        except Exception as error:
            failure = error  # raised outside the task group, which would wrap it
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
    if not result:
        raise ApiError(499, "the caller hung up", "hung_up")
    return result[0]


async def _cancel_on_disconnect(request: Request, scope: anyio.CancelScope) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def _answer_pieces(memory: Memory, question: Question) -> Generator[str | Answer, None, None]:
    """The pieces of an answer. If the artifact was detached meanwhile, the question is routed again, once."""
    pieces = _pieces(memory, question)
    try:
        first = next(pieces)
    except ContextTooLongError:
        raise
    except EngineError:
        pieces = _pieces(memory, question)
        first = next(pieces)
    yield first
    yield from pieces  # closing this generator closes them


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
    """The pieces of the next ``seconds``: switching threads for each piece would take longer than making
    it."""
    batch, until = list[str | Answer](), time.monotonic() + seconds
    for piece in pieces:
        batch.append(piece)
        if time.monotonic() >= until:
            break
    return batch
