"""`AsyncMemory`: a memory for asyncio, whose work is done in threads."""

from __future__ import annotations

import asyncio
import builtins
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from typing import Any, ParamSpec, TypeVar

from memkit.answers import Answer
from memkit.bank import MemoryInfo, Receipt
from memkit.document import Document
from memkit.memory import Memory, Message

P = ParamSpec("P")
T = TypeVar("T")


class AsyncMemory:
    """A `Memory` that does not block the event loop; methods are those of `Memory`, awaited.

    ``memory`` is used as it is, and closed with this one. A call that is cancelled still ends in its thread;
    a stream that is left ends at the next token.
    """

    def __init__(self, memory: Memory) -> None:
        self.memory = memory

    def of(self, user: str) -> AsyncMemory:
        """The memories of another user; see `Memory.of`."""
        return AsyncMemory(self.memory.of(user))

    async def remember(self, document: str | Document | Sequence[Message], **settings: Any) -> MemoryInfo:
        """See `Memory.remember`."""
        return await _apart(self.memory.remember, document, **settings)

    async def ask(self, question: str, **settings: Any) -> Answer:
        """See `Memory.ask`."""
        return await _apart(self.memory.ask, question, **settings)

    async def ask_many(self, questions: Sequence[str], **settings: Any) -> builtins.list[Answer]:
        """See `Memory.ask_many`."""
        return await _apart(self.memory.ask_many, questions, **settings)

    async def stream(self, question: str, **settings: Any) -> AsyncGenerator[str | Answer, None]:
        """See `Memory.stream`."""
        async with aclosing(stepped(self.memory.stream(question, **settings))) as pieces:
            async for piece in pieces:
                yield piece

    async def compile(self, memory_id: str) -> MemoryInfo:
        """See `Memory.compile`."""
        return await _apart(self.memory.compile, memory_id)

    async def list(self) -> builtins.list[MemoryInfo]:
        """See `Memory.list`."""
        return await _apart(self.memory.list)

    async def show(self, memory_id: str) -> MemoryInfo:
        """See `Memory.show`."""
        return await _apart(self.memory.show, memory_id)

    async def forget(self, memory_id: str | None = None, **settings: Any) -> builtins.list[Receipt]:
        """See `Memory.forget`."""
        return await _apart(self.memory.forget, memory_id, **settings)

    async def wait(self) -> None:
        """See `Memory.wait`."""
        await _apart(self.memory.wait)

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
