"""Whose memories they are: no name spells another, and every door compares names byte by byte."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memkit.bank import Bank
from memkit.bank.owners import MAX_OWNER, Owner
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import ConfigError, NotFoundError
from memkit.memory import Memory

anything = st.text(st.characters(codec="utf-8"), max_size=8) | st.text("aA/#%_.2F\x00", max_size=5)
owners = st.builds(Owner, anything.filter(bool), anything, st.lists(anything, max_size=3).map(tuple))
alike = st.sampled_from(  # what people take for one name, or a careless query does
    [
        *("app", "App", "APP", "ａｐｐ", "app ", "àpp", "a\u0300pp", "a%", "a_p", "%", "_", "app/n", "app#n"),
        *("app%2Fn", "app\u200b", "ap", "app2", "ﬀ", "ff", "ı", "i", "I", "ß", "ss", "/app", "app/", "#app"),
        *("Å", "A\u030a", "Å"),
    ]
)


@settings(max_examples=500)
@given(owners, owners)
def test_no_name_spells_another(one: Owner, other: Owner) -> None:
    assert Owner.of(one.name) == one
    assert (one.name == other.name) == (one == other)
    together = one.tenant == other.tenant and (bool(one.tenant) or one.user == other.user)
    assert (one.group == other.group) == together


@settings(max_examples=500)
@given(owners, owners)
def test_what_lies_beneath_is_told_from_its_name(one: Owner, other: Owner) -> None:
    mine = (one.user, one.tenant) == (other.user, other.tenant)
    assert other.name.startswith(one.namespaces) == (mine and bool(other.namespace))
    if one.tenant:
        assert other.name.startswith(one.users) == (one.tenant == other.tenant)


def test_what_cannot_be_named() -> None:
    for bad in ("", None, 7, b"mira", "half \ud83d"):
        with pytest.raises(ConfigError):
            Owner(bad)  # type: ignore[arg-type] # what is tested
    with pytest.raises(ConfigError, match="1,024 bytes"):
        Owner("я" * (MAX_OWNER // 2 + 1))
    assert Owner("я" * (MAX_OWNER // 2)).name


def test_a_user_is_no_tenant_and_no_namespace(tmp_path: Path, engine: TransformersEngine) -> None:
    whose = [
        Owner("acme/mira"),
        Owner("mira", "acme"),
        Owner("acme"),
        Owner(tenant="acme"),
        Owner("acme", namespace=("mira",)),
        Owner("acme#mira"),
    ]
    with Memory(tmp_path / "bank", engine=engine) as root:
        for number, owner in enumerate(whose):
            root.for_user(owner).remember(f"Mira has {number} dogs.", compile=False)
        for number, owner in enumerate(whose):
            (info,) = root.for_user(owner).list_memories()
            assert root.bank.source(owner.name, info.id).text == f"Mira has {number} dogs."


Door = Callable[[Memory, str], list[str]]
DOORS: dict[str, Door] = {
    "list": lambda memory, text: [info.id for info in memory.list_memories()],
    "search": lambda memory, text: [found.memory.id for found in memory.search(text, 8)],
    "recall": lambda memory, text: [each] if (each := memory.recall(text).memory_id) else [],
    "running": lambda memory, text: (
        [info.id] if (info := memory.bank.logs.find(memory.owner, "profile")) else []
    ),
    "excerpts": lambda memory, text: [i.id for i in memory.bank.get_many(memory.owner, ids(memory)).values()],
    "versions": lambda memory, text: [
        version.artifact_id for version in memory.bank.versions.of(memory.owner)
    ],
    "keys": lambda memory, text: [key.id for key in memory.bank.keys.list(memory.owner)],
    "beneath": lambda memory, text: memory.bank.tenants_with_prefix(memory.whose.namespaces),
    "items": lambda memory, text: memory.bank.items.spaces(memory.owner),
}


def ids(memory: Memory) -> list[str]:
    """Ids of all memories of all, as a caller might guess them."""
    return [info.id for owner in memory.bank.tenants() for info in memory.bank.list(owner)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, engine: TransformersEngine) -> Iterator[Memory]:
    with Memory(tmp_path_factory.mktemp("owners") / "bank", engine=engine) as memory:
        yield memory


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(alike, alike, st.sampled_from(sorted(DOORS)))
def test_users_that_look_alike_do_not_meet(shared: Memory, one: str, other: str, door: str) -> None:
    if one == other:
        return
    mine, theirs = shared.for_user(one), shared.for_user(other)
    (fact,) = mine.list_memories() or [mine.remember("Mira lives in Lima.", compile=False)]
    for owner in [name for name in shared.bank.tenants() if name != mine.owner]:
        shared.bank.forget(owner)
    question = "Where does Mira live?"
    assert DOORS[door](theirs, question) == []
    if door in ("list", "search", "recall"):
        assert DOORS[door](mine, question) == [fact.id]
    with pytest.raises(NotFoundError):
        theirs.get(fact.id)
    with pytest.raises(NotFoundError):
        theirs.forget(fact.id)
    theirs.forget_all()
    assert [info.id for info in mine.list_memories()] == [fact.id]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_normal_forms_of_a_name_are_two_users(tmp_path: Path, form: str) -> None:
    with Bank(tmp_path / "bank") as bank:
        composed, decomposed = unicodedata.normalize("NFC", "Zoë"), unicodedata.normalize("NFD", "Zoë")
        name, other = (composed, decomposed) if form == "NFC" else (decomposed, composed)
        secret = bank.keys.create(name)[1]
        found = bank.keys.find(secret)
        assert found is not None
        assert found.tenant == name != other
        assert bank.keys.list(other) == []
