"""LangChain's own test suites, and what they leave out."""

from __future__ import annotations

import asyncio
import tempfile
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain_tests")
pytest.importorskip("langchain_classic")

from langchain.agents import create_agent
from langchain_core.documents import Document as Passage
from langchain_core.language_models import BaseChatModel, GenericFakeChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables.history import RunnableWithMessageHistory
from langchain_tests.integration_tests import ChatModelIntegrationTests, RetrieversIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests

from memkit.answer import Answer
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import BankBusyError, ConfigError
from memkit.integrations.langchain import (
    ChatMemkit,
    MemkitChatMessageHistory,
    MemkitMemory,
    MemkitMiddleware,
    MemkitRetriever,
)
from memkit.integrations.langchain.chat import until_stop
from memkit.integrations.langchain.messages import parse_conversation
from memkit.memory import Memory
from memkit.testing import TEXT, TINY_LCC, build_tiny_model

FACTS = ("Rolan keeps bees in Tarv.", "The ferry to Osk leaves at nine.", "Keldor paints boats.")


@cache
def shared() -> Memory:
    """A memory for LangChain's suites, which make models and retrievers without fixtures."""
    folder = Path(tempfile.mkdtemp(prefix="memkit-langchain-"))
    engine = TransformersEngine(str(build_tiny_model(folder / "model")))
    memory = Memory(folder / "bank", user="suite", engine=engine, **TINY_LCC)
    for text in (TEXT, *FACTS):
        memory.remember(text, compile=False)
    return memory


@pytest.fixture
def memory(tmp_path: Path, engine: TransformersEngine) -> Iterator[Memory]:
    with Memory(tmp_path / "bank", user="mira", engine=engine, **TINY_LCC) as made:
        for text in (TEXT, *FACTS):
            made.remember(text, compile=False)
        yield made


class _Chat:
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatMemkit

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"memory": shared()}

    @property
    def has_tool_calling(self) -> bool:
        return False

    @property
    def has_structured_output(self) -> bool:
        return False


class TestChatModelUnit(_Chat, ChatModelUnitTests):
    pass


@pytest.mark.filterwarnings("ignore:The test .* is marked with")
@pytest.mark.asyncio
class TestChatModelIntegration(_Chat, ChatModelIntegrationTests):
    pass


@pytest.mark.filterwarnings("ignore:The test .* is marked with")
@pytest.mark.asyncio
class TestRetriever(RetrieversIntegrationTests):
    @property
    def retriever_constructor(self) -> type[MemkitRetriever]:
        return MemkitRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"memory": shared()}

    @property
    def retriever_query_example(self) -> str:
        return "Who keeps bees?"


# -- the chat model ------------------------------------------------------------------------------
def test_an_answer_tells_what_it_was_made_from(memory: Memory) -> None:
    said = ChatMemkit(memory=memory, max_tokens=8).invoke("Where does Rolan keep bees?")
    plain = memory.ask("Where does Rolan keep bees?", max_tokens=8)
    assert isinstance(said, AIMessage)
    assert said.content == plain.text
    assert said.response_metadata["memkit"]["memory_id"] == plain.trace.memory_id
    assert said.usage_metadata is not None
    assert said.usage_metadata["input_tokens"] == plain.trace.prompt_tokens


def test_the_last_human_message_is_routed(memory: Memory) -> None:
    chat = ChatMemkit(memory=memory, max_tokens=4)
    bare = chat.invoke("Where does Rolan keep bees?")
    behind = chat.invoke(
        [
            SystemMessage("Be brief."),
            HumanMessage("When does the ferry leave?"),
            AIMessage("at nine"),
            HumanMessage("Where does Rolan keep bees?"),
        ]
    )
    assert behind.response_metadata["memkit"] == bare.response_metadata["memkit"]
    assert behind.usage_metadata["input_tokens"] > bare.usage_metadata["input_tokens"]  # type: ignore[index]


def test_a_stream_adds_up_to_the_answer(memory: Memory) -> None:
    chat = ChatMemkit(memory=memory, max_tokens=8)
    chunks = list(chat.stream("Who keeps bees?"))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    assert whole.content == chat.invoke("Who keeps bees?").content
    assert isinstance(whole, AIMessageChunk)
    assert whole.usage_metadata is not None


@pytest.mark.parametrize(
    ("pieces", "ends", "said"),
    [
        (["one two", " three"], [], "one two three"),
        (["one t", "wo three"], ["two"], "one "),
        (["one ", "tw"], ["two"], "one tw"),
        (["ab", "ab", "c"], ["abc"], "ab"),
        (["stop"], ["stop"], ""),
    ],
)
def test_a_stream_ends_where_it_should(pieces: list[str], ends: list[str], said: str) -> None:
    assert "".join(until_stop(iter(pieces), ends)) == said


def test_what_cannot_be_asked_is_refused() -> None:
    for messages in ([], [SystemMessage("x")], [HumanMessage("a"), AIMessage("b")], [HumanMessage(" ")]):
        with pytest.raises(ConfigError, match="question"):
            parse_conversation(messages)
    image = HumanMessage([{"type": "image_url", "image_url": {"url": "https://x/y.png"}}])
    with pytest.raises(ConfigError, match="text only"):
        parse_conversation([image])
    joined = parse_conversation(
        [HumanMessage("a"), HumanMessage("b"), AIMessage("c"), ToolMessage("d", tool_call_id="1")]
    )
    assert (joined.question, joined.history) == ("a\nb", (("a\nb", "c\nd"),))


@pytest.mark.parametrize(("found", "history"), [("nothing", (("Q", "nothing"),)), ("", ())])
def test_what_a_tool_gave_is_no_question(found: str, history: tuple[tuple[str, str], ...]) -> None:
    call = AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "1"}])
    read = parse_conversation([HumanMessage("Q"), call, ToolMessage(found, tool_call_id="1")])
    assert (read.question, read.history) == ("Q", history)
    again = [HumanMessage("P"), call, ToolMessage("x", tool_call_id="1"), AIMessage("y"), HumanMessage("Q")]
    assert parse_conversation(again).history == (("P", "x\ny"),)
    assert parse_conversation([HumanMessage([{"text": "Q"}])]).question == "Q"


def test_a_fact_is_answered_behind_a_tools_message(memory: Memory) -> None:
    call = AIMessage("", tool_calls=[{"name": "f", "args": {}, "id": "1"}])
    asked = HumanMessage("Where does Rolan keep bees?")
    chat = ChatMemkit(memory=memory, max_tokens=4)
    said = chat.invoke([asked, call, ToolMessage("nothing", tool_call_id="1")])
    assert said.response_metadata["memkit"] == chat.invoke([asked]).response_metadata["memkit"]


def test_the_chat_model_calls_no_tools(memory: Memory) -> None:
    chat = ChatMemkit(memory=memory)
    assert chat.bind_tools([]) is chat
    with pytest.raises(ConfigError, match="calls no tools: leave"):
        create_agent(chat, tools=[len]).invoke({"messages": [HumanMessage("Where does Rolan keep bees?")]})


# -- the retriever -------------------------------------------------------------------------------
def test_a_passage_tells_where_it_stands(memory: Memory) -> None:
    (found,) = MemkitRetriever(memory=memory, k=1).invoke("Who keeps bees?")
    assert isinstance(found, Passage)
    assert found.page_content == FACTS[0]
    assert memory.get(found.metadata["memory_id"]).characters == found.metadata["end"]
    assert asyncio.run(MemkitRetriever(memory=memory, k=1).ainvoke("Who keeps bees?"))[0] == found


# -- the middleware ------------------------------------------------------------------------------
class Listening(GenericFakeChatModel):
    """Says what it was told to, and keeps what it read."""

    read: list[Any] = []  # noqa: RUF012 # pydantic copies it

    def _generate(self, messages: Any, *args: Any, **kwargs: Any) -> Any:
        self.read.append(messages)
        return super()._generate(messages, *args, **kwargs)


def agent(memory: Memory, **settings: Any) -> tuple[Any, Listening]:
    model = Listening(messages=iter([AIMessage("In Tarv."), AIMessage("Indeed.")]))
    return create_agent(model, middleware=[MemkitMiddleware(memory, **settings)], system_prompt="Hi."), model


@pytest.mark.parametrize("quick", [False, True])
def test_an_agent_recalls_and_remembers(memory: Memory, quick: bool) -> None:
    running, model = agent(memory, remember="all")
    asked = {"messages": [HumanMessage("Where does Rolan keep bees?")]}
    if quick:
        asyncio.run(running.ainvoke(asked))
    else:
        running.invoke(asked)
    system = model.read[0][0]
    assert isinstance(system, SystemMessage)
    assert system.text.startswith("Hi.")
    assert FACTS[0] in system.text
    assert memory.bank.logs.find("mira", "profile") is None  # it was asked, and answered from what is known
    told = {"messages": [HumanMessage("Osk is an island. Where is Tarv?")]}
    if quick:
        asyncio.run(running.ainvoke(told))
    else:
        running.invoke(told)
    info = memory.bank.logs.find("mira", "profile")
    assert info is not None
    said = [(entry.speaker, entry.text) for entry in memory.bank.logs.entries("mira", info.id)]
    assert said == [("user", "Osk is an island."), ("assistant", "Indeed.")]


def test_a_conversation_that_goes_on_is_remembered_once(memory: Memory) -> None:
    running, _ = agent(memory)
    state = running.invoke({"messages": [HumanMessage("Rolan keeps bees.")]})
    running.invoke({"messages": [*state["messages"], HumanMessage("He keeps many bees.")]})
    info = memory.bank.logs.find("mira", "profile")
    assert info is not None
    said = [entry.text for entry in memory.bank.logs.entries("mira", info.id)]
    assert said == ["Rolan keeps bees.", "He keeps many bees."]


def test_an_agent_sees_its_users_memories_alone(memory: Memory) -> None:
    running, model = agent(memory, user=lambda runtime: "rolan")
    running.invoke({"messages": [HumanMessage("I am Rolan. Where does Rolan keep bees?")]})
    assert FACTS[0] not in model.read[0][0].text
    assert memory.bank.logs.find("mira", "profile") is None
    assert memory.bank.logs.find("rolan", "profile") is not None


def test_nothing_is_remembered_if_so_wished(memory: Memory) -> None:
    running, _ = agent(memory, remember="none")
    running.invoke({"messages": [HumanMessage("Rolan is old. Where does Rolan keep bees?")]})
    assert memory.bank.logs.find("mira", "profile") is None
    with pytest.raises(ValueError, match="remember"):
        MemkitMiddleware(memory, remember="some")  # type: ignore[arg-type]


# -- what LangChain leaves behind ----------------------------------------------------------------
def test_a_history_is_a_running_memory(memory: Memory) -> None:
    history = MemkitChatMessageHistory("session 1", memory)
    said = [HumanMessage("I live in Lima."), AIMessage("Noted."), ToolMessage("42", tool_call_id="1")]
    history.add_messages([*said, AIMessage("")])
    assert [(m.type, m.content) for m in history.messages] == [
        ("human", "I live in Lima."),
        ("ai", "Noted."),
        ("chat", "42"),
    ]
    assert memory.ask("Who lives in Lima?", max_tokens=4).trace.candidates[0].title == "session 1"
    assert MemkitChatMessageHistory("session 2", memory).messages == []
    history.clear()
    history.clear()
    assert history.messages == []


def test_a_history_works_under_runnables(memory: Memory) -> None:
    prompt = ChatPromptTemplate([MessagesPlaceholder("history"), ("human", "{question}")])
    model = Listening(messages=iter([AIMessage("Hello."), AIMessage("In Lima.")]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LangChain says that it is deprecated
        chain = RunnableWithMessageHistory(
            prompt | model,
            lambda session_id: MemkitChatMessageHistory(session_id, memory),
            input_messages_key="question",
            history_messages_key="history",
        )
        for question in ("I live in Lima.", "Where do I live?"):
            chain.invoke({"question": question}, {"configurable": {"session_id": "s"}})
    assert [m.content for m in model.read[1]] == ["I live in Lima.", "Hello.", "Where do I live?"]


def test_the_classic_memory(memory: Memory) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LangChain says that it is deprecated
        classic = MemkitMemory(memory=memory, session="chat")
    assert classic.memory_variables == ["history"]
    assert FACTS[0] in classic.load_memory_variables({"input": "Where does Rolan keep bees?"})["history"]
    classic.save_context({"input": "I live in Lima. Where is that?"}, {"output": "I do not know."})
    classic.save_context({"input": "where does Rolan keep bees"}, {"output": "In Tarv."})
    assert [m.content for m in MemkitChatMessageHistory("chat", memory).messages] == ["I live in Lima."]
    assert "Lima" in classic.load_memory_variables({"input": "Who lives in Lima?"})["history"]
    with pytest.raises(ConfigError, match="input_key"):
        classic.load_memory_variables({"a": "1", "b": "2"})
    classic.clear()
    assert memory.bank.logs.find("mira", "chat") is None


def test_the_classic_memory_ends_no_chain(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise BankBusyError("locked")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LangChain says that it is deprecated
        classic = MemkitMemory(memory=memory, session="chat")
    odd = {"input": HumanMessage([{"type": "image_url"}, "I live in\ud83d Lima.\0"])}
    classic.save_context(odd, {"output": "\x1b[1mNoted."})
    assert [m.content for m in MemkitChatMessageHistory("chat", memory).messages] == [
        "I live in Lima.",
        "Noted.",
    ]
    monkeypatch.setattr(memory, "recall", fail)
    monkeypatch.setattr(memory, "remember", fail)
    assert classic.load_memory_variables({"input": "Where do I live?"}) == {"history": ""}
    classic.save_context({"input": "Who?"}, {"output": "You."})


def test_an_answer_type_is_what_a_stream_ends_with(memory: Memory) -> None:
    assert isinstance(memory.stream("Who keeps bees?", max_tokens=2).answer, Answer)
