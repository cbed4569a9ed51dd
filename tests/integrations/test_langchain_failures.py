"""Memory ends no agent's run, whatever the messages hold, and costs little."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain")

from agents_kit import FACT, Reader, clock, entries, last_text
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    SystemMessage,
)
from langgraph.checkpoint.memory import InMemorySaver

from memkit.bank.owners import Owner
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import BankBusyError, BankReadOnlyError, ConfigError, ModelError
from memkit.integrations.langchain import ChatMemkit, MemkitChatMessageHistory, MemkitMiddleware
from memkit.integrations.langchain.messages import clean, parse_conversation
from memkit.memory import Memory
from memkit.testing import TINY_LCC


@pytest.fixture
def memory(tmp_path: Path, engine: TransformersEngine) -> Iterator[Memory]:
    with Memory(tmp_path / "bank", user="mira", engine=engine, **TINY_LCC) as made:
        made.remember(FACT, compile=False)
        yield made


# -- memory ends no run --------------------------------------------------------------------------
IMAGE = {"type": "image_url", "image_url": {"url": "https://x.org/y.png"}}
TOLD = "Rolan lives in Tarv."
ODD: dict[str, tuple[BaseMessage, list[tuple[str, str]]]] = {
    "image": (HumanMessage([{"type": "text", "text": TOLD}, IMAGE]), [("user", TOLD)]),
    "image alone": (HumanMessage([IMAGE]), []),
    "file": (HumanMessage([{"type": "file", "base64": "eA==", "mime_type": "x/y"}, TOLD]), [("user", TOLD)]),
    "text file": (HumanMessage([{"type": "text-plain", "text": TOLD}]), [("user", TOLD)]),
    "audio": (
        HumanMessage([{"type": "input_audio", "input_audio": {}}, {"type": "text", "text": TOLD}]),
        [("user", TOLD)],
    ),
    "no type": (HumanMessage([{"text": "x"}, {"type": "text", "text": TOLD}]), [("user", f"x\n{TOLD}")]),
    "no type alone": (HumanMessage([{"text": TOLD}]), [("user", TOLD)]),
    "not seen": (HumanMessage("\u200b"), []),
    "two texts": (
        HumanMessage([{"type": "text", "text": "Who is Rolan?"}, IMAGE, {"type": "text", "text": TOLD}]),
        [("user", TOLD)],
    ),
    "NUL": (HumanMessage("Rolan lives\0 in Tarv."), [("user", TOLD)]),
    "surrogate": (HumanMessage("Rolan lives\ud83d in Tarv."), [("user", TOLD)]),
    "two halves": (HumanMessage("Rolan is \ud83d\ude42."), [("user", "Rolan is 🙂.")]),
    "escape": (HumanMessage("\x1b[1;31mRolan\x1b[0m lives in \x1b]8;;x\x07Tarv."), [("user", TOLD)]),
    "controls": (HumanMessage("\x01\x02\x03\x04\x05\x06\x07"), []),
    "nothing": (HumanMessage(""), []),
    "long id": (HumanMessage(TOLD, id="\0é\n" * 500), [("user", TOLD)]),
    "odd id": (HumanMessage(TOLD, id="\ud83d"), [("user", TOLD)]),
}
MODEL_PARTS: list[Any] = [
    [{"type": "thinking", "thinking": "hm", "signature": "x"}, {"type": "text", "text": "Keldor is old."}],
    [{"type": "refusal", "refusal": "No."}, {"type": "text", "text": "Keldor is old."}],
    [{"type": "tool_use", "id": "1", "name": "x", "input": {}}, {"type": "text", "text": "Keldor is old."}],
    [{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "Keldor "}, "is old."],
]


def after(memory: Memory, *messages: BaseMessage, **settings: Any) -> MemkitMiddleware:
    """A middleware that saw these messages, before and after a model's call, in both ways."""
    middleware, model = MemkitMiddleware(memory, **settings), Reader()
    agent, given = create_agent(model, middleware=[middleware]), list[Any](messages)
    agent.invoke({"messages": given})
    asyncio.run(agent.ainvoke({"messages": given}))
    return middleware


@pytest.mark.parametrize("name", ODD)
def test_odd_messages_end_no_run(memory: Memory, name: str, caplog: pytest.LogCaptureFixture) -> None:
    message, kept = ODD[name]
    message = message.model_copy(update={"id": message.id or "1"})
    after(memory, message)
    assert entries(memory) == kept
    assert not [record for record in caplog.records if "failed" in record.message]


@pytest.mark.parametrize("parts", MODEL_PARTS)
def test_what_a_model_says_may_have_any_parts(
    memory: Memory, parts: Any, caplog: pytest.LogCaptureFixture
) -> None:
    said = AIMessage(parts, id="2")
    with caplog.at_level(logging.WARNING, "memkit.langchain"):
        after(memory, HumanMessage("Hi!", id="1"), said, HumanMessage("Hello!", id="3"), remember="all")
    assert entries(memory) == [("assistant", "Keldor is old.")]
    told = [record.getMessage() for record in caplog.records if record.name == "memkit.langchain"]
    assert len(told) == 1
    assert repr(parts[0]["type"]) in told[0]


def test_an_edited_message_is_remembered_once_more(memory: Memory) -> None:
    middleware = after(memory, HumanMessage("Rolan lives in Osk.", id="1"))
    for _ in range(3):
        for text in ("Rolan lives in Tarv.", "Rolan lives in Tarv. Where is that?"):
            middleware.after_model({"messages": [HumanMessage(text, id="1")]}, None)  # type: ignore[arg-type]
    assert entries(memory) == [("user", "Rolan lives in Osk."), ("user", "Rolan lives in Tarv.")]
    after(memory, HumanMessage("Rolan lives in Tarv.", id="1"))  # another process
    assert len(entries(memory)) == 2


def test_a_message_that_is_edited_back_is_remembered_again(memory: Memory) -> None:
    middleware = MemkitMiddleware(memory)
    texts = [f"Rolan lives in {town}." for town in ("Osk", "Tarv", "Osk", "Osk", "Tarv")]
    for text in texts:
        middleware.after_model({"messages": [HumanMessage(text, id="1")]}, None)  # type: ignore[arg-type]
    assert [text for _, text in entries(memory)] == [*texts[:3], texts[4]]
    after(memory, HumanMessage(texts[4], id="1"))  # another process
    assert len(entries(memory)) == 4


@pytest.mark.parametrize(
    "error",
    [
        BankBusyError("locked"),
        BankReadOnlyError("r/o"),
        ModelError("no model"),
        ConfigError("x"),
        OSError(),
        KeyError(1),
    ],
)
@pytest.mark.parametrize("broken", ["recall", "search", "remember"])
def test_no_failure_ends_a_run(
    memory: Memory,
    error: Exception,
    broken: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error

    monkeypatch.setattr(memory, broken, fail)
    agent = create_agent(Reader(), middleware=[MemkitMiddleware(memory, remember="all")])
    with caplog.at_level(logging.WARNING, "memkit.langchain"):
        for _ in range(3):
            state = agent.invoke({"messages": [HumanMessage("Keldor is old. Where does Simsem live?")]})
            asyncio.run(agent.ainvoke({"messages": [HumanMessage("Keldor is old.")]}))
    assert last_text(state) == ("In Lasces." if broken == "remember" else "I do not know.")
    told = [record for record in caplog.records if "goes on without memory" in record.getMessage()]
    assert len(told) == 1


@pytest.mark.parametrize("user", ["", None, 7, "\0", "\ud83d", "x" * 2000])
def test_whoever_is_nobody_gets_nobodys_memories(memory: Memory, user: Any) -> None:
    model = Reader()
    agent = create_agent(model, middleware=[MemkitMiddleware(memory, user=lambda runtime: user)])
    state = agent.invoke({"messages": [HumanMessage("Keldor is old. Where does Simsem live?")]})
    assert last_text(state) == "I do not know."
    assert entries(memory) == []
    failing = MemkitMiddleware(memory, user=lambda runtime: runtime.context["user"])
    agent = create_agent(model, middleware=[failing])
    assert (
        last_text(agent.invoke({"messages": [HumanMessage("Where does Simsem live?")]})) == "I do not know."
    )


# -- costs ---------------------------------------------------------------------------------------
def test_each_message_is_embedded_once(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, embedder = list[str](), memory.router.embedder
    passages = embedder.passages

    def counting(texts: Sequence[str]) -> Any:
        seen.extend(texts)
        return passages(texts)

    monkeypatch.setattr(embedder, "passages", counting)
    agent = create_agent(
        Reader(tools_first=2), [clock], middleware=[MemkitMiddleware(memory)], checkpointer=InMemorySaver()
    )
    thread: Any = {"configurable": {"thread_id": "one"}}
    for number in range(6):
        agent.invoke({"messages": [HumanMessage(f"Number {number} is called Osk {number}.")]}, thread)
    assert len(seen) == 6
    assert len(entries(memory)) == 6


def test_users_are_kept_ready(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    made, of = list[str | Owner](), memory.for_user

    def counting(user: str | Owner) -> Memory:
        made.append(user)
        return of(user)

    monkeypatch.setattr(memory, "for_user", counting)
    names = iter(["rolan", "keldor"] * 5)
    agent = create_agent(Reader(), middleware=[MemkitMiddleware(memory, user=lambda r: next(names))])
    for _ in range(5):
        agent.invoke({"messages": [HumanMessage("Where does Simsem live?")]})
    assert made == [Owner("rolan"), Owner("keldor")]


# -- system messages -----------------------------------------------------------------------------
BLOCKS: list[Any] = [
    {"type": "text", "text": "You are kind.", "cache_control": {"type": "ephemeral"}},
    {"type": "text", "text": "Be brief."},
]


class _Blocks(AgentMiddleware[Any, Any, Any]):
    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        return handler(request.override(system_message=SystemMessage(BLOCKS, name="rules")))


def test_blocks_of_a_system_message_stay_as_they_are(memory: Memory) -> None:
    model = Reader()
    agent = create_agent(model, middleware=[_Blocks(), MemkitMiddleware(memory, introduction="Known:")])
    agent.invoke({"messages": [HumanMessage("Where does Simsem live?")]})
    system = model.read[0][0]
    assert system.content == [*BLOCKS, {"type": "text", "text": f"Known:\n{FACT}"}]
    assert system.name == "rules"
    plain = create_agent(model, middleware=[MemkitMiddleware(memory)], system_prompt="Hi.")
    plain.invoke({"messages": [HumanMessage("Where does Simsem live?")]})
    assert model.system_text.startswith("Hi.\n\nWhat you remember")


# -- the other doors -----------------------------------------------------------------------------
def test_a_chat_model_reads_the_text_that_is_there(memory: Memory, caplog: pytest.LogCaptureFixture) -> None:
    chat = ChatMemkit(memory=memory, max_tokens=4)
    asked = HumanMessage([{"type": "text", "text": "Where does \ud83dSimsem live?"}, IMAGE])
    with caplog.at_level(logging.WARNING, "memkit.langchain"):
        said = [chat.invoke([asked]) for _ in range(2)]
    plain = chat.invoke("Where does Simsem live?")
    assert said[0].content == plain.content
    assert said[0].response_metadata["memkit"].pop("left_out") == ["image_url"]
    assert said[0].response_metadata == plain.response_metadata
    assert len(caplog.records) == 1
    with pytest.raises(ConfigError, match="some text; memkit reads text only, and leaves out: image_url"):
        parse_conversation([HumanMessage([IMAGE])])


def test_a_history_takes_any_message(memory: Memory) -> None:
    history = MemkitChatMessageHistory("session", memory)
    odd = [message for message, _ in ODD.values()]
    history.add_messages(
        [*odd, *(AIMessage(parts) for parts in MODEL_PARTS), ChatMessage(content="x", role="\n\0" * 99)]
    )
    kept = [message.content for message in history.messages]
    assert kept.count(TOLD) == 10
    assert kept.count("Keldor is old.") == 4
    assert kept[-1] == "x"


def test_what_is_no_text_is_cleaned_away() -> None:
    assert clean("a\r\nb\rc\x0bd\u0085e") == "a\nb\nc\nd\ne"
    assert clean("\x9b31mred \x1b(B\x1b7x") == "red x"
    assert clean("👩\u200d👩 می\u200cخواهم\u00a0\ufeff") == "👩\u200d👩 می\u200cخواهم\u00a0\ufeff"
