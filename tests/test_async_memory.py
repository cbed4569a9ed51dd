"""`AsyncMemory` has all that `Memory` has, with the same parameters."""

from __future__ import annotations

import asyncio
import inspect
from pathlib import Path

import pytest

from memkit.async_memory import AsyncMemory
from memkit.engine.transformers.engine import TransformersEngine
from memkit.memory import Memory
from memkit.testing import TEXT, TINY_LCC

PUBLIC = sorted(
    name for name, value in vars(Memory).items() if inspect.isfunction(value) and not name.startswith("_")
)
FORMER = {"of", "show", "list", "compiled"}  # they work, with a warning


@pytest.mark.parametrize("name", PUBLIC)
def test_every_method_is_there(name: str) -> None:
    sync, other = (inspect.signature(getattr(kind, name)) for kind in (Memory, AsyncMemory))
    assert list(sync.parameters.values()) == list(other.parameters.values())
    if name == "stream":
        assert other.return_annotation == "AsyncStream"
    elif name in FORMER:
        assert other.return_annotation.replace("builtins.", "").endswith(
            sync.return_annotation.replace("builtins.", "")
        )
    elif name != "for_user":
        assert inspect.iscoroutinefunction(getattr(AsyncMemory, name))
        known = sync.return_annotation.replace("builtins.list", "list")
        assert other.return_annotation.replace("builtins.list", "list") == known


@pytest.mark.parametrize("name", ["owner", "user", "tenant", "model"])
def test_every_name_is_there(name: str) -> None:
    assert isinstance(vars(Memory)[name], property)
    assert isinstance(vars(AsyncMemory)[name], property)


def test_it_does_what_it_says(tmp_path: Path, engine: TransformersEngine) -> None:
    async def use() -> None:
        async with AsyncMemory(Memory(tmp_path / "bank", engine=engine, **TINY_LCC)) as root:
            mira = root.for_user("mira")
            info = await mira.remember(TEXT, compile=False)
            assert (await mira.objection(info.id)) == ""
            assert (await mira.recall("Where does Mira live?")).memory_id == info.id
            assert [found.memory.id for found in await mira.search("Mira")] == [info.id]
            assert (await mira.ask_many(["Where does Mira live?"], max_tokens=1))[0].route == "text"
            assert len(await mira.forget_all()) == 1
            assert await mira.list_memories() == []

    asyncio.run(use())
