"""The bench of peers: by hand what needs no peer, and with the real ones where they are installed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")

from memkit.bench.peers import questions as asking
from memkit.bench.peers import stores
from memkit.bench.peers.figures import Timing, add_ratios, costs, turns
from memkit.bench.peers.process import Environment
from memkit.bench.peers.systems import PeerAnswer
from memkit.bench.peers_compare import PeersConfig, bench, load_note
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import ConfigError, EngineError
from memkit.evals.records import Question as Question
from memkit.evals.records import Record
from memkit.evals.reports.markdown import render

FAKE_STORE = """
class Worker:
    def __init__(self, kind, dim, data):
        self.items = {}

    def durability(self):
        return "none"

    def fill(self, items):
        for each in items:
            self.put(*each)

    def put(self, key, text, vector):
        self.items[key] = (text, vector)

    def search(self, text, vector, k):
        near = lambda key: -sum(a * b for a, b in zip(self.items[key][1], vector))
        return sorted(self.items, key=near)[:k]

    def get(self, key):
        return self.items[key][0]
"""
MINE = {"memkit, text", "rag, top 1", "rag, top 3"}


class Fake:
    """A system that knows one answer, and refuses one document."""

    def __init__(self, name: str, answer: str, refused: str = "") -> None:
        self.name, self._answer, self._refused = name, answer, refused
        self.closed = False

    def remember(self, text: str) -> tuple[int, Timing]:
        if text == self._refused:
            raise EngineError("too long,\n it says")
        return 2, Timing(4.0, 1.0)

    def prepare(self) -> list[float]:
        return []

    def ask(self, question: str) -> Iterator[PeerAnswer]:
        yield PeerAnswer("top 1", self._answer, 1.0, 2.0, 3.0)

    def close(self) -> int:
        self.closed = True
        return 7


def silent(label: str, done: int, total: int) -> None: ...


def test_systems_are_compared_and_failures_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "REFERENCE", "ours, top 1")
    questions = (Question("Where?", ("Lima",)), Question("Who?", ("Rolan",)))
    records = [Record("1", "a text", questions), Record("2", "another", questions[:1])]
    systems = [Fake("ours", "In Lima."), Fake("theirs", "Nowhere.", refused="another")]
    (ours, theirs), notes = asking.compare(systems, records, silent)
    assert (ours["row"], ours["n"], ours["contains"], ours["memories"]) == ("ours, top 1", 3, 2 / 3, 4)
    assert (theirs["failed"], theirs["memories"], theirs["contains"], theirs["bytes"]) == (1, 2, 0.0, 7)
    assert notes == ["theirs: 1 documents could not be remembered; the first: too long, it says"]
    assert (ours["ask_p50_ms"], theirs["ask_ratio_to_memkit"]) == (3.0, 1.0)
    assert all(system.closed for system in systems)


def test_nothing_measured_is_no_figure() -> None:
    rows: list[dict[str, Any]] = [
        {"row": "a", **costs("put", [])},
        {"row": "b", **costs("put", [Timing(2, 1)])},
    ]
    add_ratios(rows, "b", ["put"])
    assert [row["put_ratio_to_memkit"] for row in rows] == [None, 1.0]
    assert rows[0]["put_p95_ms"] is rows[0]["put_cpu_ms"] is None


def test_everybody_begins_once() -> None:
    assert [turns("abc", turn)[0] for turn in range(4)] == ["a", "b", "c", "a"]
    assert sorted(turns("abc", 2)) == ["a", "b", "c"]


def test_stores_are_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("langgraph")
    script = tmp_path / "worker.py"
    script.write_text(FAKE_STORE)
    monkeypatch.setattr(stores, "LANGGRAPH", script)
    here = Environment(Path(sys.executable), "0")
    rows = stores.compare(tmp_path / "run", here, 12, 6, 0, silent)
    assert [row["row"] for row in rows] == ["MemkitStore", "Bank", "InMemoryStore", "SqliteStore"]
    assert all(row["found"] == 1.0 and row["n"] == 6 and row["items"] == 12 for row in rows)
    assert [row["durability"] for row in rows[1:3]] == [stores.DURABLE, "none"]
    assert rows[0]["bytes"] > rows[2]["bytes"] == 0


@pytest.mark.slow
def test_what_is_absent_is_told_and_the_rest_is_measured(tmp_path: Path, engine: TransformersEngine) -> None:
    config = PeersConfig(documents=1, peers=tmp_path, model="tiny")
    result = bench(config, engine=engine)
    rows = {row["row"]: row for row in result["rows"]}
    assert set(rows) == {*MINE, "mem0", "langgraph"}
    for name in ("mem0", "langgraph"):
        assert rows[name]["absent"] == f"there is no environment of {name}: tests/peers_env.sh makes it"
    assert {rows[name]["n"] for name in MINE} == {8}


def test_a_busy_machine_is_told() -> None:
    assert load_note(0.4, 2) == "Load average before: 0.4 on 2 cores."
    assert "compare cpu_ms" in load_note(5.1, 2)


def test_notes_are_in_the_report(tmp_path: Path) -> None:
    text = (
        '{"bench": "peers", "machine": "m", "date": "d", "notes": ["What it means."], "rows": [{"row": "a"}]}'
    )
    (tmp_path / "1-peers.json").write_text(text)
    assert "`memkit bench peers`, measured on m, d.\n\nWhat it means.\n" in render(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"only": ("zep",)}, "only may name mem0, langgraph, rag, got zep"),
        ({"only": ()}, "got nothing"),
        ({"documents": 0}, "documents must be at least 1"),
        ({"sizes": (100,), "measured": 101}, "measured must be"),
    ],
)
def test_settings_are_checked(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        PeersConfig(**wrong)


def test_the_command(cli: Callable[..., Any], tmp_path: Path) -> None:
    done = cli("bench", "peers", "--only", "langgraph", "--peers", tmp_path, "--quick", "--json", "-")
    assert done.json["rows"][0]["row"] == "langgraph"
    assert "tests/peers_env.sh" in done.json["rows"][0]["absent"]


# -- the real ones ------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def installed() -> None:
    for name in ("mem0", "langgraph"):
        try:
            Environment.of(name)
        except ConfigError as error:
            pytest.skip(str(error))


@pytest.mark.peers
def test_real_peers(installed: None, engine: TransformersEngine) -> None:
    pytest.importorskip("langgraph")
    result = bench(PeersConfig(documents=1, sizes=(30,), measured=10, model="tiny"), engine=engine)
    rows = {row["row"]: row for row in result["rows"]}
    version = result["versions"]["mem0"]
    assert set(rows) > {*MINE, f"mem0 {version}, top 1", f"mem0 {version}, infer, top 3"}
    kept, inferred = rows[f"mem0 {version}, top 1"], rows[f"mem0 {version}, infer, top 1"]
    assert (kept["memories"], kept["failed"], kept["n"]) == (1, 0, 8)
    assert (inferred["memories"], inferred["failed"]) == (0, 1)
    assert any("LLM extraction failed" in note for note in result["notes"])
    assert rows["InMemoryStore"]["durability"] == "memory only"
    assert rows["SqliteStore"]["durability"] == "SQLite, journal delete, synchronous FULL"
    assert {rows[name]["found"] for name in ("MemkitStore", "Bank", "InMemoryStore", "SqliteStore")} == {1.0}
