"""Agents with memory: what helps is remembered and recalled."""

from __future__ import annotations

import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langchain")

from agents_kit import FACT, Reader, clock, entries, last_text
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver

from memkit.engine.transformers.engine import TransformersEngine
from memkit.integrations.langchain import ChatMemkit, MemkitMiddleware
from memkit.memory import Memory
from memkit.testing import TINY_LCC

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def memory(tmp_path: Path, engine: TransformersEngine) -> Iterator[Memory]:
    with Memory(tmp_path / "bank", user="mira", engine=engine, **TINY_LCC) as made:
        made.remember(FACT, compile=False)
        yield made


TURNS = [
    ("Where does Simsem live?", "In Lasces."),
    ("where does Simsem live", "In Lasces."),
    ("Rolan lives in Tarv.", "I do not know."),
    ("I would like to visit Simsem at home some day.", "I do not know."),
    ("Where does Simsem live?", "In Lasces."),
    ("Could you tell me: where does Simsem live?", "In Lasces."),
    ("I keep thinking about where Simsem may live.", "I do not know."),
    ("Simsem is a friend of mine. Where does Simsem live?", "In Lasces."),
    ("Thanks! Where does Mira live?", "I do not know."),
    ("Where does Simsem live?", "In Lasces."),
]
STATED = [
    "Rolan lives in Tarv.",
    "I would like to visit Simsem at home some day.",
    "I keep thinking about where Simsem may live.",
    "Simsem is a friend of mine.",
]


# -- what is remembered helps --------------------------------------------------------------------
@pytest.mark.parametrize("remember", ["user", "all"])
@pytest.mark.parametrize("tools_first", [0, 3])
@pytest.mark.parametrize("one_thread", [True, False])
def test_ten_turns_keep_the_fact(memory: Memory, remember: Any, tools_first: int, one_thread: bool) -> None:
    model = Reader(tools_first=tools_first)
    agent = create_agent(
        model,
        [clock],
        middleware=[MemkitMiddleware(memory, remember=remember)],
        checkpointer=InMemorySaver(),
    )
    for number, (text, answer) in enumerate(TURNS):
        thread: Any = {"configurable": {"thread_id": "one" if one_thread else str(number)}}
        assert last_text(agent.invoke({"messages": [HumanMessage(text)]}, thread)) == answer, text
        if "Simsem live" in text:
            calls = model.read[-tools_first - 1 :]
            assert all(FACT in str(messages[0].text) for messages in calls)
    assert entries(memory) == [("user", text) for text in STATED]


def test_ten_turns_on_nano(tmp_path: Path) -> None:
    with Memory(tmp_path / "bank", "nano", user="mira") as memory:
        model = ChatMemkit(memory=memory.for_user("nobody"))
        agent = create_agent(model, middleware=[MemkitMiddleware(memory)])
        answers = []
        for text in [FACT, "Rolan keeps bees in Tarv.", *["Where does Simsem live?"] * 4, *["hi"] * 2]:
            answers.append(last_text(agent.invoke({"messages": [HumanMessage(text)]})))
        assert answers[2:6] == ["Lasces"] * 4
        for question in ("where does Simsem live?", "Where does Rolan keep bees?"):
            answers.append(last_text(agent.invoke({"messages": [HumanMessage(question)]})))
        assert answers[-2:] == ["Lasces", "Tarv"]
        assert memory.ask("Where does Simsem live?").text == "Lasces"
        assert entries(memory) == [("user", FACT), ("user", "Rolan keeps bees in Tarv.")]


@pytest.mark.parametrize("example", ["docs/howto/langchain.md", "examples/langchain_agent.py"])
def test_what_the_documents_show_is_answered(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With nano, as whoever tries it has it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEMKIT_MODEL", "nano")
    file = ROOT / example
    if example.endswith(".py"):
        runpy.run_path(str(file), run_name="__main__")
        wanted = ["Where does Simsem live? Lasces"] * 2 + ["remembered: ['Simsem lives in Lasces.']"]
        assert capsys.readouterr().out.splitlines()[1:] == wanted
        return
    names: dict[str, Any] = {}
    for _ in range(2):  # again, in the bank that it left behind
        for block in re.findall(r"```python\n(.*?)```", file.read_text(), re.DOTALL):
            exec(compile(block, example, "exec"), names)
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "Where does Simsem live? Lasces"
        assert lines[2:4] == ["Where does Rolan keep bees? Tarv", "Lasces text"]
        assert lines[4:] == ["{'text': 'Rolan lives in Tarv.'}", "Tarv"]
        names["memory"].close()


def test_what_the_run_itself_said_is_not_recalled_to_it(memory: Memory) -> None:
    model = Reader()
    agent = create_agent(model, middleware=[MemkitMiddleware(memory)])
    state = agent.invoke({"messages": [HumanMessage("Rolan lives in Tarv. He is old.")]})
    asked = HumanMessage("Where does Rolan live?")
    agent.invoke({"messages": [*state["messages"], asked]})
    assert "Tarv" not in model.system_text
    assert last_text(agent.invoke({"messages": [asked]})) == "In Tarv."  # another run


def test_no_part_of_what_the_run_said_is_recalled_to_it(memory: Memory) -> None:
    told = " ".join(f"Rolan lives in Tarv{number} now and likes it there very much." for number in range(40))
    model = Reader()
    agent = create_agent(model, middleware=[MemkitMiddleware(memory)])
    state = agent.invoke({"messages": [HumanMessage(told)]})
    agent.invoke({"messages": [*state["messages"], HumanMessage("Where does Rolan live?")]})
    assert "Rolan" not in model.system_text
    agent.invoke({"messages": [HumanMessage("Where does Rolan live?")]})
    assert "Rolan lives in Tarv" in model.system_text


def test_questions_of_earlier_versions_are_not_recalled(memory: Memory) -> None:
    for text in (
        "Where does Simsem live?",
        "where does Simsem live",
        "Simsem is old. Where does Simsem live?",
    ):
        memory.remember([{"role": "user", "content": text}])
    model = Reader()
    agent = create_agent(model, middleware=[MemkitMiddleware(memory)])
    assert last_text(agent.invoke({"messages": [HumanMessage("Where does Simsem live?")]})) == "In Lasces."
    assert "Where" not in model.system_text
    assert "Simsem is old." in model.system_text


def test_what_is_about_nothing_recalls_nothing(memory: Memory) -> None:
    model = Reader()
    agent = create_agent(model, middleware=[MemkitMiddleware(memory)])
    agent.invoke({"messages": [HumanMessage("Hi! How do bicycles stay upright on a road?")]})
    assert model.system_text == ""


def test_a_model_is_remembered_where_it_says_something_new(memory: Memory) -> None:
    model = Reader(says="Her horse is called Shopux. ")
    agent = create_agent(model, middleware=[MemkitMiddleware(memory, remember="all")])
    for _ in range(2):
        agent.invoke({"messages": [HumanMessage("Where does Simsem live?")]})
    assert entries(memory) == [("assistant", "Her horse is called Shopux.")]


@pytest.mark.parametrize(
    "says",
    [
        "I'm afraid I have no information about Keldor's boats. ",
        "Let me look up the harbour. ",
        "I do not know that harbour. ",
        "I’m sorry, but I can’t find any boats. ",
        "<think>Keldor may paint boats. The harbour is near.</think>",
        "Keldor may paint boats.</think>",
    ],
)
def test_what_a_model_says_of_itself_is_no_news(memory: Memory, says: str) -> None:
    agent = create_agent(Reader(says=says), middleware=[MemkitMiddleware(memory, remember="all")])
    agent.invoke({"messages": [HumanMessage("Where does Simsem live?")]})
    assert entries(memory) == []


def test_all_since_the_last_answer_is_recalled_for(memory: Memory) -> None:
    model = Reader()
    agent = create_agent(model, middleware=[MemkitMiddleware(memory)])
    asked = HumanMessage("Where does Simsem live?")
    for later in ("\u200b", "Be quick, my ferry leaves at nine."):
        agent.invoke({"messages": [HumanMessage("Hi"), AIMessage("Hello."), asked, HumanMessage(later)]})
        assert FACT in model.system_text


def test_the_latest_of_what_was_said_is_told(memory: Memory) -> None:
    model = Reader()
    agent = create_agent(model, middleware=[MemkitMiddleware(memory)])
    for text in ("Rolan lives in Tarv.", "Rolan lives in Osk.", "Rolan lives in Tarv."):
        agent.invoke({"messages": [HumanMessage(text)]})
    assert last_text(agent.invoke({"messages": [HumanMessage("Where does Rolan live?")]})) == "In Tarv."
    assert re.findall(r"Rolan lives in (\w+)", model.system_text) == ["Osk", "Tarv"]


def test_a_summary_is_not_the_users(memory: Memory) -> None:
    summary = HumanMessage("Rolan lives in Tarv.", additional_kwargs={"lc_source": "summarization"})
    agent = create_agent(Reader(), middleware=[MemkitMiddleware(memory)])
    agent.invoke({"messages": [summary, HumanMessage("Keldor paints boats.")]})
    assert entries(memory) == [("user", "Keldor paints boats.")]
