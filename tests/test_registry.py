"""Compilers, embedders and gates come through the same door, whoever wrote them."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from memkit import Memory, registry
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import ConfigError
from memkit.router.embedders import LexicalEmbedder
from memkit.router.gate import EMPTY, GateConfig
from memkit.router.router import Router
from memkit.router.types import RoutingState, Ruling
from memkit.testing import TEXT, TINY_OPTIONS

ROOT = Path(__file__).resolve().parents[1]
QUESTION = "Where does Mira live?"


class Never:
    """A gate that uses no memory."""

    def __init__(self, config: GateConfig) -> None:
        self.config = config

    def decide(self, router: Router, state: RoutingState) -> Ruling:
        return Ruling(EMPTY)


def words(argument: str) -> LexicalEmbedder:
    return LexicalEmbedder(int(argument or 128))


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a package with a gate and an embedder were installed."""
    points = {
        registry.GATES: EntryPoint("never", f"{__name__}:Never", registry.GATES),
        registry.EMBEDDERS: EntryPoint("words", f"{__name__}:words", registry.EMBEDDERS),
    }
    ours, load = {"never": Never, "words": words}, EntryPoint.load
    monkeypatch.setattr(EntryPoint, "load", lambda self: ours.get(self.name) or load(self))
    installed = registry._installed
    monkeypatch.setattr(
        registry,
        "_installed",
        lambda group: installed(group) | ({points[group].name: points[group]} if group in points else {}),
    )


@pytest.fixture
def memory(tmp_path: Path, engine: TransformersEngine) -> Iterator[Memory]:
    with Memory(tmp_path / "bank", user="mira", engine=engine, options=TINY_OPTIONS) as made:
        made.remember(TEXT, compile=False)
        yield made


@pytest.mark.skipif(not (ROOT / "memkit").is_dir(), reason="needs the checkout")
def test_what_ships_is_declared_as_entry_points() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    for group, names in registry.SHIPPED.items():
        assert declared[group] == names
        for name in names:
            assert callable(registry.load(group, name))


@pytest.mark.parametrize("group", [registry.GROUP, registry.EMBEDDERS, registry.GATES])
def test_an_unknown_name_tells_which_there_are(group: str) -> None:
    with pytest.raises(ConfigError, match=", ".join(sorted(registry.SHIPPED[group]))):
        registry.load(group, "nonsense")


def test_a_gate_for_one_question(memory: Memory) -> None:
    assert memory.ask(QUESTION, max_tokens=1).route == "text"
    assert memory.ask(QUESTION, max_tokens=1, gate=Never(GateConfig())).route == "none"
    assert [a.route for a in memory.ask_many([QUESTION], max_tokens=1, gate=Never(GateConfig()))] == ["none"]
    with memory.stream(QUESTION, max_tokens=1, gate=Never(GateConfig())) as stream:
        assert stream.answer.route == "none"
    assert memory.ask(QUESTION, max_tokens=1, gate="rule").trace.gate == "rule"
    assert memory.ask(QUESTION, max_tokens=1).route == "text"  # the memory's own is as it was
    wrong: list[Any] = ["nonsense", 3, object()]
    for gate in wrong:
        with pytest.raises(ConfigError, match="gate"):
            memory.ask(QUESTION, gate=gate)


@pytest.mark.usefixtures("plugins")
def test_gates_and_embedders_of_other_packages(tmp_path: Path, engine: TransformersEngine) -> None:
    with Memory(tmp_path / "bank", user="mira", engine=engine, gate="never", embedder="words:256") as memory:
        memory.remember(TEXT, compile=False)
        assert memory.router.embedder.name == memory.bank.embedder("mira") == "lexical:256"
        assert memory.ask(QUESTION, max_tokens=1).route == "none"
        assert memory.ask(QUESTION, max_tokens=1, gate="auto").route == "text"
        assert memory.ask(QUESTION, max_tokens=1, gate=GateConfig("never")).route == "none"


def test_former_names_work_and_warn(memory: Memory) -> None:
    from memkit import bank

    (info,) = memory.list_memories()
    with pytest.warns(DeprecationWarning, match="for_user"):
        assert memory.of("jalo").user == "jalo"
    with pytest.warns(DeprecationWarning, match="get"):
        assert memory.show(info.id) == info
    with pytest.warns(DeprecationWarning, match="list_memories"):
        assert memory.list() == [info]
    with pytest.warns(DeprecationWarning, match="Message"):
        assert bank.Said is bank.Message
