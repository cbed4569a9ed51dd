"""Batches, streams, history, and the memory for asyncio."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from memkit.answer import Answer
from memkit.async_memory import AsyncMemory, stepped
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import ConfigError, EngineError, NotFoundError
from memkit.memory import Memory
from memkit.testing import TEXT, TINY_LCC

QUESTIONS = ["Where does Mira live?", "What is the capital of France?", "What is the name of Mira's dog?"]


@pytest.fixture
def memory(tmp_path: Path, engine: TransformersEngine) -> Iterator[Memory]:
    with Memory(tmp_path / "bank", user="mira", engine=engine, **TINY_LCC) as made:
        made.remember(TEXT, wait=True)
        made.remember("Rolan keeps bees in Tarv.", compile=False)
        yield made


def test_many_answers_are_those_of_one_question_each(memory: Memory) -> None:
    together = memory.ask_many(QUESTIONS, max_tokens=8)
    alone = [memory.ask(question, max_tokens=8) for question in QUESTIONS]
    assert [(a.text, a.route, a.trace.question) for a in together] == [
        (a.text, a.route, a.trace.question) for a in alone
    ]
    assert memory.ask_many([]) == []


def test_a_stream_ends_with_the_answer(memory: Memory) -> None:
    stream = memory.stream(QUESTIONS[0], max_tokens=8)
    text = "".join(stream)
    answer = stream.answer
    assert isinstance(answer, Answer)
    assert text == answer.text == memory.ask(QUESTIONS[0], max_tokens=8).text
    assert answer.trace.memory_id is not None
    assert answer.trace.completion_tokens > 0


def test_a_stream_that_is_closed_works_no_more(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = memory.stream("Rolan keeps", max_tokens=64)
    assert isinstance(next(stream), str)
    stream.close()
    assert list(stream) == []
    with pytest.raises(EngineError, match="closed before"):
        _ = stream.answer


def test_a_stream_gives_its_answer_without_being_read(memory: Memory) -> None:
    with memory.stream(QUESTIONS[0], max_tokens=8) as stream:
        assert stream.answer.text == memory.ask(QUESTIONS[0], max_tokens=8).text
        assert stream.finished
    assert stream.answer.text  # also when it is closed
    assert list(stream) == []


def test_history_stands_in_front_of_the_question(memory: Memory) -> None:
    bare = memory.ask(QUESTIONS[0], max_tokens=4)
    behind = memory.ask(QUESTIONS[0], max_tokens=4, history=[("Hello?", "Hello."), ("Who are you?", "nano")])
    assert behind.trace.prompt_tokens > bare.trace.prompt_tokens
    assert behind.trace.memory_id == bare.trace.memory_id


def test_history_that_is_too_long_loses_its_oldest_turns(memory: Memory) -> None:
    window = memory.engine.window
    long = [("Who is it? " * 12, "Mira. " * 12)] * 40
    answer = memory.ask(QUESTIONS[0], max_tokens=8, history=long)
    assert answer.trace.prompt_tokens + 8 <= window


def test_instructions_are_read_and_not_routed(memory: Memory) -> None:
    bare = memory.ask(QUESTIONS[0], max_tokens=4)
    told = memory.ask(QUESTIONS[0], max_tokens=4, system="Rolan keeps bees in Tarv. Rolan! Bees! Tarv!")
    assert told.trace.prompt_tokens > bare.trace.prompt_tokens
    assert told.trace.candidates == bare.trace.candidates


def test_recall_gives_the_passages_of_what_the_gate_would_use(memory: Memory) -> None:
    answer, recalled = memory.ask(QUESTIONS[0], max_tokens=4), memory.recall(QUESTIONS[0])
    assert answer.route == "latent"
    assert recalled.memory_id == answer.trace.memory_id
    assert "Mira" in recalled.text
    assert recalled.text == "\n".join(TEXT[s.start : s.end].strip() for s in recalled.spans)
    nothing = memory.recall("zzz qqq vvv")
    assert (nothing.text, nothing.memory_id, nothing.spans) == ("", None, ())


def test_search_finds_the_best_passage_of_each_memory(memory: Memory) -> None:
    found = memory.search("Who keeps bees?", 2)
    assert found[0].text == "Rolan keeps bees in Tarv."
    assert len({each.memory.id for each in found}) == 2
    assert memory.search(" ") == []
    assert memory.for_user("nobody").search("bees") == []
    with pytest.raises(ConfigError, match="at least 1"):
        memory.search("bees", 0)


@pytest.mark.parametrize("settings", [{"max_tokens": 0}, {"temperature": -0.5}])
def test_bad_settings_are_refused(memory: Memory, settings: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        memory.ask(QUESTIONS[0], **settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="empty"):
        list(memory.stream(" "))


def test_the_async_memory_does_the_same(memory: Memory) -> None:
    async def work() -> None:
        quick = AsyncMemory(memory)
        other = quick.for_user("rolan")
        info = await other.remember("Rolan lives in Tarv.", compile=False)
        assert [each.id for each in await other.list_memories()] == [info.id]
        assert (await other.get(info.id)).title == info.title
        first, second = await asyncio.gather(
            quick.ask(QUESTIONS[0], max_tokens=4), quick.ask_many(QUESTIONS, max_tokens=4)
        )
        assert first.text == second[0].text
        async with quick.stream(QUESTIONS[0], max_tokens=4) as stream:
            with pytest.raises(EngineError, match="not complete"):
                _ = stream.answer
            pieces = [piece async for piece in stream]
            assert "".join(pieces) == stream.answer.text == first.text
        assert (await quick.stream(QUESTIONS[0], max_tokens=4).get_answer()).text == first.text
        assert len(await other.forget(info.id)) == 1
        assert await other.list_memories() == []

    asyncio.run(work())


def test_a_cancelled_stream_is_closed_after_its_step() -> None:
    started, release, closed = threading.Event(), threading.Event(), threading.Event()

    def pieces() -> Iterator[int]:
        try:
            yield 1
            started.set()
            release.wait(5)
            yield 2
        finally:
            closed.set()

    async def work() -> None:
        async def read() -> None:
            async for _ in stepped(pieces()):
                pass

        task = asyncio.ensure_future(read())
        await asyncio.to_thread(started.wait, 5)
        task.cancel()
        await asyncio.sleep(0)
        assert not closed.is_set()  # its step is still under way
        release.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(work())
    assert closed.is_set()


def test_a_stream_keeps_its_error(memory: Memory) -> None:
    stream = memory.stream("Rolan keeps", max_tokens=4, within="0" * 16)
    for _ in range(2):
        with pytest.raises(NotFoundError):
            _ = stream.answer


def test_an_async_stream_that_is_closed_before_it_begins(memory: Memory) -> None:
    async def work() -> None:
        stream = AsyncMemory(memory).stream("Rolan keeps", max_tokens=4)
        await stream.aclose()
        with pytest.raises(EngineError, match="closed before"):
            await stream.get_answer()
        with pytest.raises(EngineError, match="closed before"):
            _ = stream.answer

    asyncio.run(work())


def test_two_readers_share_a_stream(memory: Memory) -> None:
    stream, pieces, failures = memory.stream("Rolan keeps", max_tokens=32), list[str](), list[Exception]()

    def read() -> None:
        try:
            pieces.extend(stream)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted("".join(pieces)) == sorted(stream.answer.text)
