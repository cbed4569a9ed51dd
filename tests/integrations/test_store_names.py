"""Whose items they are: names are compared byte by byte, whatever script they are in, through every door."""

from __future__ import annotations

import threading
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langgraph")

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from langchain.agents.middleware import ModelRequest
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import HumanMessage
from langgraph.runtime import Runtime
from langgraph.store.base import PutOp, SearchOp
from langgraph.store.memory import InMemoryStore

from memkit.bank.owners import Owner
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import ConfigError
from memkit.integrations.langchain import MemkitMiddleware, MemkitStore
from memkit.memory import Memory
from memkit.testing import TINY_LCC


@pytest.fixture
def memory(tmp_path: Path, engine: TransformersEngine) -> Iterator[Memory]:
    with Memory(tmp_path / "bank", user="app", engine=engine, **TINY_LCC) as made:
        yield made


def _fullwidth(text: str) -> str:
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


VARIANTS = (
    str.upper,
    str.title,
    str.casefold,
    _fullwidth,
    lambda text: unicodedata.normalize("NFD", text),
    lambda text: unicodedata.normalize("NFC", text),
    lambda text: text.replace("e", "é").replace("i", "İ"),
    lambda text: text + "%",
    lambda text: "%" + text,
    lambda text: text.replace(text[0], "_", 1),
    lambda text: text.replace(text[-1], "%"),
    lambda text: text + " ",
    lambda text: text + "\u200d",
    lambda text: text + "/n",
    lambda text: text + "#n",
    lambda text: text + "%23n",
    lambda text: text[:-1] or "x",
)
names = st.one_of(
    st.sampled_from(
        ["app", "é", "straße", "İstanbul", "用户", "a_b", "a%b", "acme/mira", "👩\u200d👩", "ſ", "ǆ"]
    ),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6),
)


@st.composite
def pairs(draw: st.DrawFn) -> tuple[str, str]:
    """Two names that are not the same, and look or sort alike."""
    one = draw(names)
    other = draw(st.sampled_from(VARIANTS))(one)
    return (one, other) if one != other else (one, one + "x")


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pair=pairs())
@example(pair=("app", "App"))
@example(pair=("app", "ap_"))
@example(pair=("app", "%"))
@example(pair=("app", "app#n"))
@example(pair=("mira", "acme/mira"))
def test_no_name_reads_what_is_anothers(memory: Memory, pair: tuple[str, str]) -> None:
    one, other = (memory.for_user(name) for name in pair)
    mine, theirs = MemkitStore(one), MemkitStore(other)
    label = pair[1].replace(".", "-").replace("\0", "-")  # LangGraph's labels have none of them
    try:
        mine.put(("n", label), "k", {"text": "Rolan keeps bees in Tarv."})
        one.remember("Simsem lives in Lasces.", compile=False)
        one.remember([{"role": "user", "content": "Keldor paints boats."}])
        assert theirs.search(()) == []
        assert theirs.search((), query="Who keeps bees?") == []
        assert theirs.list_namespaces() == []
        assert theirs.get(("n", label), "k") is None
        theirs.delete(("n", label), "k")
        assert [each.value for each in mine.search(())] == [{"text": "Rolan keeps bees in Tarv."}]
        assert mine.list_namespaces() == [("n", label)]
        assert other.list_memories() == []
        assert other.search("Where does Simsem live?") == []
        assert other.recall("Where does Simsem live?").text == ""
        assert _told(memory, pair[1]) == ""
        assert "Lasces" in _told(memory, pair[0])
    finally:
        for whose in (one.owner, other.owner):
            for space in [*memory.bank.items.spaces(whose), *{whose} & {*memory.bank.tenants()}]:
                memory.for_user(Owner.of(space)).forget_all()


def _told(memory: Memory, user: str) -> str:
    """What the middleware tells the model of an agent of that user."""
    heard = list[str]()

    def model(request: ModelRequest[Any]) -> Any:
        heard.append(request.system_message.text if request.system_message else "")

    asked = ModelRequest(
        model=FakeListChatModel(responses=[""]),
        messages=[HumanMessage("Where does Simsem live?")],
        runtime=Runtime(),
    )
    MemkitMiddleware(memory, user=lambda runtime: user).wrap_model_call(asked, model)
    return heard[0]


def test_namespaces_that_look_alike_are_apart(memory: Memory) -> None:
    store = MemkitStore(memory)
    spaces = [
        ("a",),
        ("A",),
        ("a", "b"),
        ("a/b",),
        ("a#b",),
        ("a%2Fb",),
        ("é",),
        ("e\u0301",),
        ("%",),
        ("_",),
    ]
    for number, space in enumerate(spaces):
        store.put(space, "k", {"n": number})
    assert sorted(store.list_namespaces()) == sorted(spaces)
    for number, space in enumerate(spaces):
        item = store.get(space, "k")
        assert item is not None
        assert item.value == {"n": number}
    assert [each.namespace for each in store.search(("A",))] == [("A",)]
    assert {each.namespace for each in store.search(("a",))} == {("a",), ("a", "b")}


def test_a_namespace_is_an_owner_with_a_store_beneath(memory: Memory) -> None:
    MemkitStore(memory).put(("a", "b"), "k", {"text": "Rolan keeps bees in Tarv."})
    inner = memory.for_user(Owner("app", namespace=("a",)))
    assert [each.namespace for each in MemkitStore(inner).search(())] == [("b",)]
    assert memory.for_user(Owner("app", namespace=("a", "b"))).recall("Who keeps bees?").text
    acme = memory.for_user(Owner("app", "acme"))
    assert MemkitStore(acme).search(()) == []
    MemkitStore(acme).put(("n",), "k", {"n": 1})
    assert MemkitStore(memory).list_namespaces() == [("a", "b")]
    assert MemkitStore(memory.for_user(Owner(tenant="acme"))).list_namespaces() == []


def test_a_user_of_the_middleware_names_nobody_elses_tenant(memory: Memory) -> None:
    memory.for_user(Owner("mira", "acme")).remember("Simsem lives in Lasces.", compile=False)
    assert _told(memory, "acme/mira") == ""
    assert _told(memory, "acme/") == ""
    acme = memory.for_user(Owner("rolan", "acme"))
    assert "Lasces" in _told(acme, "mira")  # a user of the same tenant
    with pytest.raises(ConfigError, match="user"):
        MemkitMiddleware(memory, user="")


keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=keys, label=keys.filter(lambda label: label and not {"\0", "."} & {*label}))
@example(key="👩\u200d👩\u200d👧", label="می\u200cخواهم")
@example(key="a\u00a0b", label="\u00a0")
@example(key="Ж" * 256, label="Ж" * 256)
@example(key="\x1b[31m\n\t\x7f", label="\x1b[0m\n")
@example(key="", label=" ")
@example(key="\0", label="%")
@example(key="\ufdd0\0\ufdd00\ufdd011", label="%00")
def test_keys_and_namespaces_in_any_script(memory: Memory, key: str, label: str) -> None:
    mine, theirs = MemkitStore(memory), InMemoryStore()
    ops = [PutOp((label, "x"), key, {"text": key, "n": 1}), PutOp((label, "x"), key + "2", {})]
    for store in (mine, theirs):
        store.batch(ops)
    try:
        for store in (mine, theirs):
            found: Any = store.batch([SearchOp((label,))])[0]
            assert [(each.namespace, each.key) for each in found] == [
                ((label, "x"), k) for k in (key, key + "2")
            ]
            item = store.get((label, "x"), key)
            assert item is not None
            assert item.value == {"text": key, "n": 1}
    finally:
        memory.for_user(Owner("app", namespace=(label, "x"))).forget_all()


def test_values_hold_any_character(memory: Memory) -> None:
    store = MemkitStore(memory)
    for value in ("a\0b", "half \ud83d", "\x1b[31mred", "\x7f" * 40, "\0", "line\u2028line", " "):
        store.put(("n",), "k", {"text": value})
        item = store.get(("n",), "k")
        assert item is not None
        assert item.value == {"text": value}
        assert [each.key for each in store.search(("n",), query="red half")] == ["k"]
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(ConfigError, match="JSON"):
        store.put(("n",), "k", {"deep": deep}, index=False)


ROUNDS = 154


def test_deleting_one_item_loses_no_other_of_the_same_value(memory: Memory) -> None:
    store, together = MemkitStore(memory), threading.Barrier(2)
    values = [{"text": f"Rolan keeps {number} bees in Tarv."} for number in range(ROUNDS + 1)]

    def delete() -> None:
        for number in range(ROUNDS):
            together.wait()
            store.delete(("n",), f"one {number}")

    other = threading.Thread(target=delete)
    store.put(("n",), "one 0", values[0])
    other.start()
    for number in range(ROUNDS):
        together.wait()
        store.put(("n",), f"other {number}", values[number])
        store.put(("n",), f"one {number + 1}", values[number + 1])
    other.join()
    store.delete(("n",), f"one {ROUNDS}")
    found = {each.key: each.value for each in store.search(("n",), limit=2 * ROUNDS)}
    assert found == {f"other {number}": values[number] for number in range(ROUNDS)}


def test_writers_of_one_key_leave_one_value_and_its_memory(memory: Memory) -> None:
    store = MemkitStore(memory)

    def write(who: int) -> None:
        for number in range(20):
            store.put(("n",), "k", {"text": f"writer {who} says {number}"})

    writers = [threading.Thread(target=write, args=(who,)) for who in range(3)]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
    inner = memory.for_user(Owner("app", namespace=("n",)))
    (info,), item = inner.list_memories(), store.get(("n",), "k")
    assert item is not None
    assert memory.bank.source(inner.owner, info.id).text == item.value["text"]
    store.delete(("n",), "k")
    assert inner.list_memories() == []
