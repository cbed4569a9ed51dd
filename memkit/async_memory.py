"""`AsyncMemory`: a memory for asyncio. Its work runs in threads."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, ParamSpec, Self, TypeVar

from memkit._deprecated import deprecated
from memkit.answer import Answer, Stream
from memkit.bank import MemoryInfo, Receipt
from memkit.bank.owners import Owner
from memkit.compilers.base import Compiled, Progress, silent
from memkit.document import Document, Span
from memkit.errors import ConfigError, EngineError
from memkit.memory import Memory
from memkit.pipeline.answer import RecalledText, SearchResult
from memkit.router.router import GateChoice
from memkit.text.messages import MessageLike, Turns, When

if TYPE_CHECKING:
    from memkit.pipeline.forget_check import ForgetReport
    from memkit.pipeline.verify import VerificationReport

P = ParamSpec("P")
T = TypeVar("T")


class AsyncMemory:
    """A `Memory` that does not block the event loop; methods are those of `Memory`, awaited.

    ``memory`` is used as it is, and closed with this one. A call that is cancelled still ends in its thread;
    a stream that is left ends at the next token.
    """

    def __init__(self, memory: Memory) -> None:
        if not isinstance(memory, Memory):
            raise ConfigError(f"AsyncMemory takes a Memory, got {memory!r:.80}")
        self.memory = memory

    def for_user(self, user: str | Owner) -> AsyncMemory:
        """The memories of another user; see `Memory.for_user`."""
        return AsyncMemory(self.memory.for_user(user))

    @property
    def owner(self) -> str:
        """See `Memory.owner`."""
        return self.memory.owner

    @property
    def user(self) -> str:
        """See `Memory.user`."""
        return self.memory.user

    @property
    def tenant(self) -> str:
        """See `Memory.tenant`."""
        return self.memory.tenant

    @property
    def model(self) -> str:
        """See `Memory.model`."""
        return self.memory.model

    async def remember(
        self,
        document: str | Document | Sequence[MessageLike],
        *,
        memory: str | None = None,
        when: When | None = None,
        key: str | None = None,
        title: str = "",
        wait: bool = False,
        compile: bool = True,
        always: bool = False,
        progress: Progress = silent,
    ) -> MemoryInfo:
        """See `Memory.remember`."""
        return await _in_thread(
            self.memory.remember,
            document,
            memory=memory,
            when=when,
            key=key,
            title=title,
            wait=wait,
            compile=compile,
            always=always,
            progress=progress,
        )

    async def objection(self, memory_id: str) -> str:
        """See `Memory.objection`."""
        return await _in_thread(self.memory.objection, memory_id)

    async def compile(self, memory_id: str, *, progress: Progress = silent) -> MemoryInfo:
        """See `Memory.compile`."""
        return await _in_thread(self.memory.compile, memory_id, progress=progress)

    async def compile_with_cost(
        self, memory_id: str, *, progress: Progress = silent
    ) -> tuple[MemoryInfo, Compiled]:
        """See `Memory.compile_with_cost`."""
        return await _in_thread(self.memory.compile_with_cost, memory_id, progress=progress)

    async def queue_age(self) -> float:
        """See `Memory.queue_age`."""
        return await _in_thread(self.memory.queue_age)

    async def wait(self) -> None:
        """See `Memory.wait`."""
        await _in_thread(self.memory.wait)

    async def ask(
        self,
        question: str,
        *,
        history: Turns = (),
        max_tokens: int = 64,
        temperature: float = 0.0,
        seed: int = 0,
        system: str = "",
        within: str | None = None,
        gate: GateChoice | None = None,
    ) -> Answer:
        """See `Memory.ask`."""
        return await _in_thread(
            self.memory.ask,
            question,
            history=history,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            system=system,
            within=within,
            gate=gate,
        )

    async def ask_many(
        self,
        questions: Sequence[str],
        *,
        max_tokens: int = 64,
        temperature: float = 0.0,
        seed: int = 0,
        gate: GateChoice | None = None,
    ) -> builtins.list[Answer]:
        """See `Memory.ask_many`."""
        return await _in_thread(
            self.memory.ask_many,
            questions,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            gate=gate,
        )

    def stream(
        self,
        question: str,
        *,
        history: Turns = (),
        max_tokens: int = 64,
        temperature: float = 0.0,
        seed: int = 0,
        system: str = "",
        within: str | None = None,
        gate: GateChoice | None = None,
    ) -> AsyncStream:
        """See `Memory.stream`; iterate with ``async for``."""
        stream = self.memory.stream(
            question,
            history=history,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            system=system,
            within=within,
            gate=gate,
        )
        return AsyncStream(stream)

    async def recall(self, question: str, *, max_tokens: int = 64) -> RecalledText:
        """See `Memory.recall`."""
        return await _in_thread(self.memory.recall, question, max_tokens=max_tokens)

    async def search(self, query: str, k: int = 4) -> builtins.list[SearchResult]:
        """See `Memory.search`."""
        return await _in_thread(self.memory.search, query, k)

    async def list_memories(self) -> builtins.list[MemoryInfo]:
        """See `Memory.list_memories`."""
        return await _in_thread(self.memory.list_memories)

    async def get(self, memory_id: str) -> MemoryInfo:
        """See `Memory.get`."""
        return await _in_thread(self.memory.get, memory_id)

    async def verify(
        self, memory_id: str, *, replay: bool = False, progress: Progress = silent
    ) -> VerificationReport:
        """See `Memory.verify`."""
        return await _in_thread(self.memory.verify, memory_id, replay=replay, progress=progress)

    async def forget(
        self, memory_id: str, *, spans: Sequence[Span] | None = None, compile: bool = True
    ) -> builtins.list[Receipt]:
        """See `Memory.forget`."""
        return await _in_thread(self.memory.forget, memory_id, spans=spans, compile=compile)

    async def forget_matching(
        self, memory_id: str, text: str, *, compile: bool = True
    ) -> builtins.list[Receipt]:
        """See `Memory.forget_matching`."""
        return await _in_thread(self.memory.forget_matching, memory_id, text, compile=compile)

    async def forget_all(self) -> builtins.list[Receipt]:
        """See `Memory.forget_all`."""
        return await _in_thread(self.memory.forget_all)

    async def forget_and_check(
        self,
        memory_id: str | None = None,
        *,
        spans: Sequence[Span] = (),
        matching: str | None = None,
        questions: int = 16,
    ) -> ForgetReport:
        """See `Memory.forget_and_check`."""
        return await _in_thread(
            self.memory.forget_and_check, memory_id, spans=spans, matching=matching, questions=questions
        )

    async def close(self) -> None:
        """See `Memory.close`."""
        await _in_thread(self.memory.close)

    async def __aenter__(self) -> AsyncMemory:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # -- former names ---------------------------------------------------------------------------
    @deprecated("AsyncMemory.of is now AsyncMemory.for_user")
    def of(self, user: str | Owner) -> AsyncMemory:
        """See `for_user`."""
        return self.for_user(user)

    @deprecated("AsyncMemory.show is now AsyncMemory.get")
    async def show(self, memory_id: str) -> MemoryInfo:
        """See `get`."""
        return await self.get(memory_id)

    @deprecated("AsyncMemory.list is now AsyncMemory.list_memories")
    async def list(self) -> builtins.list[MemoryInfo]:
        """See `list_memories`."""
        return await self.list_memories()

    @deprecated("AsyncMemory.compiled is now AsyncMemory.compile_with_cost")
    async def compiled(self, memory_id: str, *, progress: Progress = silent) -> tuple[MemoryInfo, Compiled]:
        """See `compile_with_cost`."""
        return await self.compile_with_cost(memory_id, progress=progress)


class AsyncStream(AsyncIterator[str]):
    """An answer as it is written: a `Stream` for ``async for``.

    Leaving an ``async with`` block, or `aclose`, ends the work at the next token.
    """

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._pieces = stepped(stream)
        self._closed = False

    async def __anext__(self) -> str:
        return await anext(self._pieces)

    async def get_answer(self) -> Answer:
        """The whole answer with its trace; what is not written yet is waited for. Raises as
        `Stream.answer`."""
        async for _ in self:
            pass
        return self._stream.answer

    @property
    def answer(self) -> Answer:
        """The answer, once it is complete. Raises `EngineError` before: await `get_answer` then."""
        if not self._stream.finished and not self._closed:
            raise EngineError("the answer is not complete: iterate the stream, or await its get_answer()")
        return self._stream.answer

    async def aclose(self) -> None:
        """Stop generating; a complete answer stays available."""
        self._closed = True
        await self._pieces.aclose()
        await _in_thread(self._stream.close)  # also where no piece was taken

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


async def _in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    return await asyncio.to_thread(work, *args, **kwargs)


async def stepped(pieces: Iterator[T]) -> AsyncGenerator[T, None]:
    """The items of an iterator, each made in a thread; it is closed once the step under way has ended."""
    step: asyncio.Future[tuple[T] | None] | None = None
    try:
        while True:
            step = asyncio.ensure_future(asyncio.to_thread(_next, pieces))
            made = await asyncio.shield(step)
            if made is None:
                return
            yield made[0]
    finally:
        if step is not None and not step.done():
            await asyncio.wait([step])
        if (close := getattr(pieces, "close", None)) is not None:
            await asyncio.to_thread(close)


def _next(pieces: Iterator[T]) -> tuple[T] | None:
    for piece in pieces:
        return (piece,)
    return None
