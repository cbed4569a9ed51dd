"""What users write, checked by mypy and pyright as they would check it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import assert_type

import numpy as np
from numpy.typing import NDArray

import memkit
from memkit import Answer, AsyncMemory, Memory, MemoryInfo, Owner, Receipt, Span, Stream
from memkit.config import Config
from memkit.router.gate import EMPTY, GateConfig
from memkit.router.router import Router
from memkit.router.types import RoutingState, Ruling


class NoMemory:
    """A gate."""

    def decide(self, router: Router, state: RoutingState) -> Ruling:
        return Ruling(EMPTY)


class Constant:
    """An embedder."""

    name = "constant"
    dim = 8
    min_similarity = 0.5
    by_sentence = False

    def passages(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return np.ones((len(texts), self.dim), dtype=np.float32)

    def question(self, text: str) -> NDArray[np.float32]:
        return np.ones(self.dim, dtype=np.float32)


def sync(folder: Path) -> str:
    config = Config.load(home=folder, model="nano")
    with Memory(config=config, user="mira", embedder=Constant(), gate=NoMemory()) as memory:
        info = memory.remember("Simsem lives in Lasces.", title="people", wait=True)
        assert_type(info, MemoryInfo)
        memory.remember([{"role": "user", "content": "I moved to Oslo."}], memory="profile", key="1")
        memory.remember("I live in Lima.", memory="profile", when=date(2026, 1, 5))
        answer = memory.ask("Where does Simsem live?", history=[("Hi", "Hello")], gate=GateConfig("rule"))
        assert_type(answer, Answer)
        assert_type(memory.ask_many(["Where?", "Who?"], gate="auto"), list[Answer])
        with memory.stream("Where does Simsem live?") as stream:
            assert_type(stream, Stream)
            text = "".join(piece.strip() for piece in stream)
        assert_type(stream.answer.trace.memory_id, str | None)
        jalo = memory.for_user(Owner("jalo", "acme"))
        assert_type(jalo.list_memories(), list[MemoryInfo])
        assert_type(memory.get(info.id).version, int)
        assert_type(memory.forget(info.id, spans=[Span(0, 6)]), list[Receipt])
        try:
            memory.forget(info.id)
        except memkit.NotFoundError as error:
            text += str(error)
        memory.forget_all()
    return text + memkit.ask("Where?", user="mira").text


async def asynchronous(memory: Memory) -> None:
    async with AsyncMemory(memory) as quick:
        info = await quick.remember("Simsem lives in Lasces.", compile=False)
        assert_type(info, MemoryInfo)
        async with quick.stream("Where does Simsem live?") as stream:
            async for piece in stream:
                assert_type(piece, str)
        assert_type(stream.answer, Answer)
        assert_type(await quick.for_user("jalo").list_memories(), list[MemoryInfo])
