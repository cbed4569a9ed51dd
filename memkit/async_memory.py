"""`AsyncMemory`: a memory for asyncio, whose work is done in threads."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from memkit.answer import Answer
from memkit.bank import MemoryInfo, Receipt
from memkit.bank.owners import Owner
from memkit.compilers.base import Compiled, Progress, silent
from memkit.document import Document, Span
from memkit.memory import Memory
from memkit.pipeline.answer import RecalledText, SearchResult
from memkit.text.messages import MessageLike, Turns, When

if TYPE_CHECKING:
    from memkit.pipeline.verify import VerificationReport

P = ParamSpec("P")
T = TypeVar("T")


class AsyncMemory:
    """A `Memory` that does not block the event loop; methods are those of `Memory`, awaited.

    ``memory`` is used as it is, and closed with this one. A call that is cancelled still ends in its thread;
    a stream that is left ends at the next token.
    """

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    def of(self, user: str | Owner) -> AsyncMemory:
        """The memories of another user; see `Memory.of`."""
        return AsyncMemory(self.memory.of(user))

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
        return await _apart(
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
        return await _apart(self.memory.objection, memory_id)

    async def compile(self, memory_id: str, *, progress: Progress = silent) -> MemoryInfo:
        """See `Memory.compile`."""
        return await _apart(self.memory.compile, memory_id, progress=progress)

    async def compiled(self, memory_id: str, *, progress: Progress = silent) -> tuple[MemoryInfo, Compiled]:
        """See `Memory.compiled`."""
        return await _apart(self.memory.compiled, memory_id, progress=progress)

    async def queue_age(self) -> float:
        """See `Memory.queue_age`."""
        return await _apart(self.memory.queue_age)

    async def wait(self) -> None:
        """See `Memory.wait`."""
        await _apart(self.memory.wait)

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
    ) -> Answer:
        """See `Memory.ask`."""
        return await _apart(
            self.memory.ask,
            question,
            history=history,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            system=system,
            within=within,
        )

    async def ask_many(
        self, questions: Sequence[str], *, max_tokens: int = 64, temperature: float = 0.0, seed: int = 0
    ) -> builtins.list[Answer]:
        """See `Memory.ask_many`."""
        how = {"max_tokens": max_tokens, "seed": seed}
        return await _apart(self.memory.ask_many, questions, temperature=temperature, **how)

    async def stream(
        self,
        question: str,
        *,
        history: Turns = (),
        max_tokens: int = 64,
        temperature: float = 0.0,
        seed: int = 0,
        system: str = "",
        within: str | None = None,
    ) -> AsyncGenerator[str | Answer, None]:
        """See `Memory.stream`."""
        pieces = self.memory.stream(
            question,
            history=history,
            max_tokens=max_tokens,
            temperature=temperature,
            seed=seed,
            system=system,
            within=within,
        )
        async with aclosing(stepped(pieces)) as made:
            async for piece in made:
                yield piece

    async def recall(self, question: str, *, max_tokens: int = 64) -> RecalledText:
        """See `Memory.recall`."""
        return await _apart(self.memory.recall, question, max_tokens=max_tokens)

    async def search(self, query: str, k: int = 4) -> builtins.list[SearchResult]:
        """See `Memory.search`."""
        return await _apart(self.memory.search, query, k)

    async def list(self) -> builtins.list[MemoryInfo]:
        """See `Memory.list`."""
        return await _apart(self.memory.list)

    async def show(self, memory_id: str) -> MemoryInfo:
        """See `Memory.show`."""
        return await _apart(self.memory.show, memory_id)

    async def verify(
        self, memory_id: str, *, replay: bool = False, progress: Progress = silent
    ) -> VerificationReport:
        """See `Memory.verify`."""
        return await _apart(self.memory.verify, memory_id, replay=replay, progress=progress)

    async def forget(
        self, memory_id: str, *, spans: Sequence[Span] | None = None, compile: bool = True
    ) -> builtins.list[Receipt]:
        """See `Memory.forget`."""
        return await _apart(self.memory.forget, memory_id, spans=spans, compile=compile)

    async def forget_matching(
        self, memory_id: str, text: str, *, compile: bool = True
    ) -> builtins.list[Receipt]:
        """See `Memory.forget_matching`."""
        return await _apart(self.memory.forget_matching, memory_id, text, compile=compile)

    async def forget_all(self) -> builtins.list[Receipt]:
        """See `Memory.forget_all`."""
        return await _apart(self.memory.forget_all)

    async def close(self) -> None:
        """See `Memory.close`."""
        await _apart(self.memory.close)

    async def __aenter__(self) -> AsyncMemory:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def _apart(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
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
