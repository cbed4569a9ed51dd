"""`MemkitStore` does what LangGraph's own store does, and forgets for real."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langgraph")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from langgraph.store.base import (
    BaseStore,
    GetOp,
    InvalidNamespaceError,
    ListNamespacesOp,
    MatchCondition,
    PutOp,
    SearchItem,
    SearchOp,
)
from langgraph.store.memory import InMemoryStore

from memkit.bank.owners import Owner
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import ConfigError
from memkit.integrations.langchain import MemkitStore
from memkit.integrations.langchain import store as store_module
from memkit.memory import Memory
from memkit.testing import TEXT, TINY_LCC


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 5, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def memory(tmp_path: Path, engine: TransformersEngine) -> Iterator[Memory]:
    with Memory(tmp_path / "bank", user="app", engine=engine, **TINY_LCC) as made:
        yield made


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(memory: Memory, clock: Clock) -> MemkitStore:
    return MemkitStore(memory, clock=clock)


def within(memory: Memory, *labels: str) -> Memory:
    """The memories of a namespace of the store of "app"."""
    return memory.for_user(Owner("app", namespace=labels))


labels = st.sampled_from(["a", "b", "a/b", "é %2F", "*"])
namespaces = st.lists(labels, min_size=1, max_size=3).map(tuple)
keys = st.sampled_from(["k", "l", "k/l"])
values = st.dictionaries(
    st.sampled_from(["text", "n", "deep"]),
    st.one_of(st.integers(0, 3), st.sampled_from(["bees", "boats"]), st.lists(st.integers(0, 1), max_size=2)),
    max_size=2,
)
filters = st.one_of(
    st.none(),
    st.dictionaries(
        st.sampled_from(["text", "n"]), st.one_of(st.integers(0, 3), st.just("bees")), max_size=1
    ),
    st.builds(lambda n: {"n": {"$ne": n}}, st.integers(0, 3)),
)
paths = st.lists(st.one_of(labels, st.just("*")), min_size=1, max_size=2).map(tuple)
conditions = st.lists(
    st.builds(MatchCondition, st.sampled_from(["prefix", "suffix"]), paths), max_size=2
).map(tuple)
anywhere = st.one_of(st.just(()), namespaces)
operations = st.one_of(
    st.builds(lambda n, k: GetOp(n, k), namespaces, keys),
    st.builds(lambda n, k, v: PutOp(n, k, v), namespaces, keys, st.one_of(values, values, st.none())),
    st.builds(lambda n, f: SearchOp(n, f, 100), anywhere, filters),
    st.builds(
        lambda c, depth, limit: ListNamespacesOp(c, depth, limit),
        conditions,
        st.one_of(st.none(), st.integers(1, 3)),
        st.integers(0, 5),
    ),
)


def plain(result: Any) -> Any:
    if isinstance(result, list):
        return [plain(each) for each in result]
    if result is None or isinstance(result, tuple):
        return result
    return result.namespace, result.key, result.value


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(operations, max_size=4), max_size=6))
def test_it_does_what_langgraphs_store_does(memory: Memory, batches: list[list[Any]]) -> None:
    mine, theirs = MemkitStore(memory), InMemoryStore()
    try:
        for batch in batches:
            ops = sorted(batch, key=lambda op: not isinstance(op, ListNamespacesOp))
            for empty in [space for space, kept in theirs._data.items() if not kept]:
                del theirs._data[empty]  # theirs lists namespaces that were only looked into
            for op, got, wanted in zip(ops, mine.batch(ops), theirs.batch(ops), strict=True):
                if isinstance(op, SearchOp):  # namespaces come in another order
                    assert sorted(plain(got), key=repr) == sorted(plain(wanted), key=repr)
                else:
                    assert plain(got) == plain(wanted)
    finally:
        for space in memory.bank.items.spaces(memory.user):
            memory.for_user(Owner.of(space)).forget_all()


def test_the_usual_calls(store: MemkitStore) -> None:
    store.put(("users", "mira"), "home", {"text": "Mira lives in Lasces."})
    item = store.get(("users", "mira"), "home")
    assert item is not None
    assert (item.key, item.namespace, item.value) == (
        "home",
        ("users", "mira"),
        {"text": "Mira lives in Lasces."},
    )
    assert store.list_namespaces(prefix=("users",)) == [("users", "mira")]
    store.delete(("users", "mira"), "home")
    store.delete(("users", "mira"), "home")
    assert store.get(("users", "mira"), "home") is None
    assert store.list_namespaces() == []


def test_async_calls(store: MemkitStore) -> None:
    async def work() -> None:
        await store.aput(("a",), "k", {"text": "bees"})
        found = await store.asearch(("a",), query="bees")
        assert [each.key for each in found] == ["k"]
        await store.adelete(("a",), "k")
        assert await store.aget(("a",), "k") is None

    asyncio.run(work())


def test_search_ranks_by_the_query(store: MemkitStore) -> None:
    store.put(("n",), "ferry", {"text": "The ferry to Osk leaves at nine."})
    store.put(("n",), "bees", {"about": "Rolan", "text": "He keeps bees in Tarv."})
    store.put(("m",), "boats", {"text": "Keldor paints boats."})
    store.put(("n",), "secret", {"text": "Bees, bees, bees."}, index=False)
    found = store.search((), query="Who keeps bees?", limit=4)
    assert found[0].key == "bees"
    assert found[-1].key == "secret"
    assert found[-1].score is None
    assert [each.key for each in store.search(("n",), query="the ferry", limit=1)] == ["ferry"]
    assert all(isinstance(each, SearchItem) for each in found)


def test_paths_choose_what_is_searched(memory: Memory) -> None:
    store = MemkitStore(memory, index=["title"])
    store.put(("n",), "a", {"title": "ferries", "body": "bees"})
    store.put(("n",), "b", {"title": "boats", "body": "ferries"}, index=["body"])
    inner = within(memory, "n")
    texts = {each.title: memory.bank.source(inner.owner, each.id).text for each in inner.list_memories()}
    assert texts == {"a": "ferries", "b": "ferries"}


def test_an_item_is_a_memory_that_answers(store: MemkitStore, memory: Memory) -> None:
    store.put(("users", "mira"), "bio", {"text": TEXT})
    answer = within(memory, "users", "mira").ask("Where does Mira live?", max_tokens=4)
    assert answer.route == "text"
    assert memory.ask("Where does Mira live?", max_tokens=4).route == "none"


def test_deleting_and_replacing_forget_for_real(store: MemkitStore, memory: Memory) -> None:
    mira = within(memory, "mira")
    store.put(("mira",), "bio", {"text": TEXT})
    (info,) = mira.list_memories()
    mira.compile(info.id)
    artifacts = list(memory.bank.path.rglob("*.mka"))
    assert len(artifacts) == 1
    store.put(("mira",), "bio", {"text": "Mira moved away."})
    assert [each.id for each in mira.list_memories()] != [info.id]
    assert len(mira.list_memories()) == 1
    assert not artifacts[0].exists()
    store.put(("mira",), "bio", None)  # type: ignore[arg-type] # LangGraph's way to delete
    assert mira.list_memories() == []
    whole = b"".join(p.read_bytes() for p in memory.bank.path.rglob("*") if p.is_file())
    assert b"Mira moved away" not in whole
    assert TEXT[:30].encode() not in whole


def test_items_with_one_text_have_a_memory_each(store: MemkitStore, memory: Memory) -> None:
    store.put(("n",), "a", {"text": "Rolan keeps bees."})
    store.put(("n",), "b", {"text": "Rolan keeps bees."})
    inner = within(memory, "n")
    assert len({each.id for each in inner.list_memories()}) == 2
    store.delete(("n",), "a")
    item = store.get(("n",), "b")
    assert item is not None
    assert item.value == {"text": "Rolan keeps bees."}
    store.put(("n",), "b", {"text": "Rolan keeps cats."})
    assert [memory.bank.source(inner.owner, m.id).text for m in inner.list_memories()] == [
        "Rolan keeps cats."
    ]
    inner.remember("Rolan keeps cats.", compile=False)  # a document is none of the store's
    store.delete(("n",), "b")
    assert [each.title for each in inner.list_memories()] == [""]


def test_forgetting_a_user_takes_the_items_along(store: MemkitStore, memory: Memory) -> None:
    store.put(("n",), "a", {"text": "Rolan keeps bees."})
    within(memory, "n").forget_all()
    assert store.get(("n",), "a") is None
    assert store.search(()) == []


def test_items_expire(store: MemkitStore, clock: Clock, memory: Memory) -> None:
    store.put(("n",), "short", {"text": "bees"}, ttl=10)
    store.put(("n",), "long", {"text": "boats"}, ttl=None)
    clock.now += timedelta(minutes=9)
    assert store.get(("n",), "short") is not None  # lives ten minutes from now
    clock.now += timedelta(minutes=9)
    assert [each.key for each in store.search(("n",), refresh_ttl=False)] == ["short", "long"]
    clock.now += timedelta(minutes=2)
    assert store.get(("n",), "short") is None
    assert [each.key for each in store.search(("n",))] == ["long"]
    store.put(("n",), "new", {"text": "ferries"})
    assert sorted(m.title for m in within(memory, "n").list_memories()) == ["long", "new"]


def test_no_store_sees_what_is_not_beneath_its_user(memory: Memory) -> None:
    mine, other = MemkitStore(memory), MemkitStore(memory.for_user("app2"))
    wide = MemkitStore(memory.for_user("ap"))
    memory.for_user("app").remember("Rolan keeps bees.", compile=False)
    mine.put(("/", "app2"), "k", {"text": "bees"})
    mine.put(("a/b",), "k", {"text": "boats"})
    for store in (other, wide):
        assert store.search(()) == []
        assert store.list_namespaces() == []
        assert store.get(("a/b",), "k") is None
    assert mine.get(("a", "b"), "k") is None
    assert mine.list_namespaces() == [("/", "app2"), ("a/b",)]


def test_bad_input_is_refused(store: MemkitStore) -> None:
    with pytest.raises(ConfigError, match="JSON"):
        store.put(("n",), "k", {"text": object()})
    for key in ("k" * 1025, "\ud83d"):
        with pytest.raises(ConfigError, match="key"):
            store.put(("n",), key, {"text": "bees"})
    with pytest.raises(ConfigError, match="namespace"):
        store.put(("n" * 2000,), "k", {"text": "bees"})
    with pytest.raises(ConfigError, match="ttl"):
        store.put(("n",), "k", {"text": "bees"}, ttl=-1)
    with pytest.raises(ConfigError, match="ttl"):
        store.put(("n",), "k", {"text": "bees"}, ttl=1e12)
    with pytest.raises(InvalidNamespaceError):
        store.put((), "k", {"text": "bees"})
    store.put(("n",), "k", {"n": 1})
    with pytest.raises(ConfigError, match="filter"):
        store.search(("n",), filter={"n": {"$like": 1}})
    assert isinstance(store, BaseStore)


def test_few_of_many_items_are_what_all_of_them_would_be(
    memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemkitStore(memory)
    for n in range(60):
        store.put(("many",), f"{n:02d}", {"text": f"bee number {n}", "even": n % 2 == 0})
    store.put(("many",), "aside", {"text": "bee number 33"}, index=False)

    def found(**how: Any) -> list[str]:
        return [each.key for each in store.search(("many",), query="bee number 33", **how)]

    few = [found(limit=2), found(limit=2, offset=1), found(limit=3, filter={"even": True})]
    assert few[0][0] == "33"
    assert "aside" not in few[0]
    assert all(int(key) % 2 == 0 for key in few[2])
    monkeypatch.setattr(store_module, "MAX_RANKED", 0)  # all items are read
    assert [found(limit=2), found(limit=2, offset=1)] == few[:2]
    assert found(limit=100)[-1] == "aside"  # which is not searched
    assert len(found(limit=100)) == 61


def test_what_cannot_be_seen_is_no_text(store: MemkitStore) -> None:
    store.put(("a",), "hidden", {"text": "\u200b"})
    store.put(("a",), "seen", {"text": "Rolan keeps bees."})
    assert store.get(("a",), "hidden").value == {"text": "\u200b"}  # type: ignore[union-attr]
    assert store.search(("a",), query="Who keeps bees?")[0].key == "seen"


@pytest.mark.parametrize(
    "bad",
    [
        PutOp(("a",), "bad", {"text": {1, 2}}),
        PutOp(("a",), "k" * 2000, {"text": "x"}),
        PutOp(("a",), "bad", {"text": "x" * 1_100_000}),
        PutOp(("a",), "bad", {"text": "x"}, ttl=-1),
    ],
)
def test_a_batch_that_cannot_be_kept_writes_nothing(store: MemkitStore, bad: PutOp) -> None:
    with pytest.raises(ConfigError):
        store.batch([PutOp(("a",), "good", {"text": "Rolan keeps bees."}), bad])
    assert store.get(("a",), "good") is None
