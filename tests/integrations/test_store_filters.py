"""Filters of `MemkitStore`, beside LangGraph's own store: the same items, or an error of the same kind."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("langgraph")

from hypothesis import given, settings
from hypothesis import strategies as st
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore

from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import MemkitError
from memkit.integrations.langchain import MemkitStore
from memkit.integrations.langchain.filters import matches_filter
from memkit.memory import Memory
from memkit.testing import TINY_LCC


@pytest.fixture
def memory(tmp_path: Path, engine: TransformersEngine) -> Iterator[Memory]:
    with Memory(tmp_path / "bank", user="app", engine=engine, **TINY_LCC) as made:
        yield made


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([0.5, 1.0, -2.5, 10**400, "1", "2.5", "", "bees", "2026-06-01", "2026-06-02T08:00:00Z"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=2), st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2)
    ),
    max_leaves=4,
)
operators = st.sampled_from(["$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$like"])
wanted = st.one_of(values, st.dictionaries(operators, values, min_size=1, max_size=2))
conditions = st.dictionaries(
    st.sampled_from(["x", "y"]), st.one_of(wanted, st.dictionaries(st.just("a"), wanted)), max_size=2
)
items = st.lists(st.dictionaries(st.sampled_from(["x", "y"]), values, max_size=2), max_size=3)


def outcome(found: Callable[[], list[str]]) -> tuple[list[str], Exception | None]:
    try:
        return found(), None
    except Exception as error:  # compared with the other store's
        return [], error


def compare(mine: Callable[[], list[str]], theirs: Callable[[], list[str]]) -> None:
    got, wanted = outcome(mine), outcome(theirs)
    assert got[0] == wanted[0]
    assert (got[1] is None) == (wanted[1] is None)
    if wanted[1] is not None:
        assert isinstance(got[1], MemkitError)
    if isinstance(wanted[1], TypeError | ValueError):
        assert isinstance(got[1], TypeError if isinstance(wanted[1], TypeError) else ValueError)


def search(store: BaseStore, condition: dict[str, Any]) -> list[str]:
    return [each.key for each in store.search(("n",), filter=condition, limit=100)]


CASES: list[tuple[list[dict[str, Any]], dict[str, Any]]] = [
    ([{"x": "2026-06-02"}], {"x": {"$gte": "2026-06-01"}}),
    ([{"x": 1}, {}], {"x": {"$gt": 0}}),
    ([{"x": "5"}, {"x": 5}], {"x": {"$gt": 4, "$lt": "6"}}),
    ([{"x": True}, {"x": 1}, {"x": 1.0}], {"x": {"$gte": 1}}),
    ([{"x": True}, {"x": 1}, {"x": "1"}], {"x": 1}),
    ([{"x": {"a": 2}}], {"x": {"a": {"$lte": 2}}}),
    ([{"x": [1, 2]}, {"x": [1]}], {"x": [1, {"$gt": 1}]}),
    ([{"x": [1, 2]}, {"x": None}], {"x": {"$ne": [1, 2]}}),
    ([{"x": None}, {}], {"x": None}),
    ([{"x": 1}], {"x": {"$like": 1}}),
    ([{"x": 10**400}], {"x": {"$gt": 1}}),
    ([{"x": {"a": 1}}, {"x": 1}], {"x": {"$eq": {"a": 1}}}),
]


@pytest.mark.parametrize(("kept", "condition"), CASES)
def test_a_search_is_that_of_langgraph(
    memory: Memory, kept: list[dict[str, Any]], condition: dict[str, Any]
) -> None:
    mine, theirs = MemkitStore(memory), InMemoryStore()
    for number, value in enumerate(kept):
        for store in (mine, theirs):
            store.put(("n",), str(number), value)
    compare(lambda: search(mine, condition), lambda: search(theirs, condition))


@settings(max_examples=500, deadline=None)
@given(kept=items, condition=conditions)
def test_filters_are_those_of_langgraph(kept: list[dict[str, Any]], condition: dict[str, Any]) -> None:
    theirs = InMemoryStore()
    for number, value in enumerate(kept):
        theirs.put(("n",), str(number), value)
    stored = {str(number): json.dumps(value) for number, value in enumerate(kept)}
    compare(
        lambda: [key for key, value in stored.items() if matches_filter(value, condition)],
        lambda: search(theirs, condition),
    )


def test_a_filter_that_cannot_be_applied_says_what_to_do(memory: Memory) -> None:
    store = MemkitStore(memory)
    store.put(("n",), "k", {"day": "2026-06-02", "at": 1780358400})
    with pytest.raises(ValueError, match="'day' is '2026-06-02'"):
        store.search(("n",), filter={"day": {"$gte": "2026-06-01"}})
    assert [each.key for each in store.search(("n",), filter={"at": {"$gte": 1780272000}})] == ["k"]
    assert [each.key for each in store.search(("n",), filter={"day": {"$eq": "2026-06-02"}})] == ["k"]
