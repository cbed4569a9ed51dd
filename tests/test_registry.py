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
from memkit.router.gate import EMPTY, Decision, GateConfig
from memkit.router.router import Router
from memkit.router.types import RoutingState, Ruling
from memkit.testing import TEXT, TINY_LCC

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
    with Memory(tmp_path / "bank", user="mira", engine=engine, **TINY_LCC) as made:
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


def test_rulings_of_other_peoples_gates_are_checked(memory: Memory) -> None:
    class Fixed:
        def __init__(self, ruling: Any) -> None:
            self.ruling = ruling

        def decide(self, router: Router, state: RoutingState) -> Any:
            return self.ruling(state) if callable(self.ruling) else self.ruling

    theirs = list[Any]()
    other = memory.for_user("jalo")
    other.remember("Jalo keeps bees in Tarv.", compile=False)

    def noted(state: RoutingState) -> Ruling:
        theirs.append(state)
        return Ruling(EMPTY)

    other.ask("Where are the bees?", max_tokens=1, gate=Fixed(noted))
    foreign = theirs[0].ranked[0]
    wrong: list[tuple[Any, str]] = [
        (None, "returns a Ruling"),
        ("none", "returns a Ruling"),
        (Ruling(Decision("banana", None, "")), "known route"),  # type: ignore[arg-type]
        (Ruling(Decision("text", foreign, ""), "Jalo keeps bees."), "own candidates"),
        (lambda s: Ruling(Decision("latent", s.ranked[0], "")), "cannot be used: it is not compiled"),
    ]
    for ruling, message in wrong:
        with pytest.raises(ConfigError, match=message) as raised:
            memory.ask(QUESTION, max_tokens=1, gate=Fixed(ruling))
        assert "Jalo" not in str(raised.value)
    text = memory.ask(QUESTION, max_tokens=1, gate=Fixed(lambda s: Ruling(Decision("text", s.ranked[0], ""))))
    assert (text.route, len(text.trace.parts)) == ("text", 1)  # the router reads the text that was left to it
    with pytest.raises(ConfigError, match="gate is"):
        memory.ask(QUESTION, gate=Never)  # type: ignore[arg-type] # the class


@pytest.mark.usefixtures("plugins")
def test_an_entry_point_that_cannot_be_loaded_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for group in (registry.GROUP, registry.EMBEDDERS, registry.GATES):
        for value, message in ((f"nowhere.{group}:x", "nowhere"), (f"{__name__}:absent", "absent")):
            point = EntryPoint("broken", value, group)
            monkeypatch.setattr(registry, "_installed", lambda _, point=point: {"broken": point})
            with pytest.raises(ConfigError, match=f"broken.*{message}"):
                registry.load(group, "broken")
