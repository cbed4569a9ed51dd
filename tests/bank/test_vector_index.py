"""Search indexes that grow: what they find is what an index built anew finds."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memkit.bank import Bank, vector_index, vector_rows
from memkit.bank.types import Message
from memkit.bank.vector_index import Chunk, TenantIndex
from memkit.document import Document, Span

DIM = 4
_vector = st.lists(st.integers(-4, 4), min_size=DIM, max_size=DIM)
_batches = st.lists(
    st.lists(st.tuples(st.integers(0, 4), _vector), min_size=0, max_size=6), min_size=1, max_size=5
)


def rows_of(batch: list[tuple[int, list[int]]], counts: dict[int, int]) -> tuple[list[Chunk], Any]:
    """Chunks of the catalog's order; each memory's are numbered on."""
    chunks, vectors = list[Chunk](), list[list[int]]()
    for memory, values in sorted(batch, key=lambda pair: pair[0]):
        number = counts.get(memory, 0)
        counts[memory] = number + 1
        chunks.append(Chunk(f"{memory:016x}", number, number, number + 1))
        vectors.append(values)
    return chunks, np.array(vectors, dtype=np.float32).reshape(len(chunks), DIM)


@given(_batches, _vector, st.integers(1, 8))
def test_a_grown_index_finds_what_a_new_one_finds(
    batches: list[list[tuple[int, list[int]]]], asked: list[int], k: int
) -> None:
    counts = dict[int, int]()
    parts = [rows_of(batch, counts) for batch in ([(0, [1, 0, 0, 0])], *batches)]
    grown = TenantIndex(0, *parts[0])
    for generation, (chunks, vectors) in enumerate(parts[1:], 1):
        following = grown.grown(generation, chunks, vectors)
        assert following is not None
        grown = following
    together = sorted(
        zip([c for chunks, _ in parts for c in chunks], np.concatenate([v for _, v in parts]), strict=True),
        key=lambda pair: (pair[0].memory_id, pair[0].number),
    )
    new = TenantIndex(9, [chunk for chunk, _ in together], np.stack([vector for _, vector in together]))
    query = np.array([asked], dtype=np.float32)
    everything = len(together)
    assert grown.search(query, everything) == new.search(query, everything)
    best, expected = grown.best(query, k), new.best(query, k)
    assert [hit.score for hit in best] == [hit.score for hit in expected]  # of equals FAISS takes any
    assert len({hit.memory_id for hit in best}) == len(best)
    for memory in counts:
        mine = f"{memory:016x}"
        assert grown.within(query, mine, everything) == new.within(query, mine, everything)
    assert grown.generation == len(batches)
    assert grown.nbytes >= new.nbytes


def test_an_index_is_built_anew_when_much_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_index, "TAIL_LEAST", 2)
    chunks, vectors = rows_of([(i, [i, 0, 0, 1]) for i in range(30)], {})
    base = TenantIndex(0, chunks[:20], vectors[:20])
    two = base.grown(1, chunks[20:22], vectors[20:22])
    assert two is not None
    assert two.grown(2, chunks[22:23], vectors[22:23]) is None
    assert len(base.best(np.ones((1, DIM), np.float32), 30)) == 20  # the old one is as it was


class Loads:
    """Counts how often a bank reads all of a tenant's chunks, and how often only new ones."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.since = list[int]()
        load = vector_rows.load_chunks

        def counted(connection: Any, tenant: str, since: int = -1) -> Any:
            self.since.append(since)
            return load(connection, tenant, since)

        monkeypatch.setattr(vector_rows, "load_chunks", counted)

    @property
    def whole(self) -> int:
        return self.since.count(-1)


def found(bank: Bank, at: int, tenant: str = "alice") -> list[str]:
    return [hit.memory_id for hit in bank.search(tenant, np.eye(DIM, dtype=np.float32)[at], 9)]


def remember(bank: Bank, text: str, at: int, tenant: str = "alice") -> str:
    vectors = np.eye(DIM, dtype=np.float32)[at][None]
    return bank.remember(tenant, Document(text), [Span(0, len(text))], vectors).id


def test_a_bank_reads_only_what_came_and_all_after_something_went(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = Loads(monkeypatch)
    with Bank(tmp_path / "a") as bank, Bank(tmp_path / "a") as other:
        first = remember(bank, "Mira lives in Keldor.", 0)
        assert found(bank, 0)[0] == first
        second = remember(other, "Bo lives in Lima.", 1)  # by another process
        remember(bank, "Cy lives in Rome.", 2, "bob")
        assert found(bank, 1)[0] == second
        assert loads.whole == 1
        bank.forget("alice", first)
        assert found(bank, 0) == [second]
        assert loads.whole == 2
        third = remember(bank, "Dee lives in Cork.", 3)
        assert found(bank, 3) == [third, second]
        assert loads.whole == 2
        assert found(bank, 2, "bob") != found(bank, 2)
        other.repair()
        assert found(bank, 3) == [third, second]
        assert loads.whole == 4  # one of them was bob's first


def test_an_entry_in_the_middle_moves_the_chunks_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def embed(document: Document) -> tuple[list[Span], Any]:
        at = sum(document.text.encode()) % DIM
        return [Span(0, len(document.text))], np.eye(DIM, dtype=np.float32)[at][None]

    def texts(bank: Bank, name: str) -> set[str]:
        hits = bank.search("alice", np.ones(DIM, dtype=np.float32), 9, within=name)
        return set(bank.excerpts("alice", hits))

    loads = Loads(monkeypatch)
    with Bank(tmp_path / "a") as bank:
        days = [datetime(2024, 1, day, tzinfo=UTC) for day in (1, 9, 5)]
        for number, day in enumerate(days):
            said = Message(f"thing {number} was said", "user", day)
            log = bank.logs.append("alice", "log", [said], embed)
            seen = texts(bank, log.id)
            assert seen == set(bank.source("alice", log.id).text.splitlines())
        assert loads.whole == 2  # the second came at the end, the third in the middle


def test_excerpts_of_long_and_short_texts(tmp_path: Path) -> None:
    with Bank(tmp_path / "a") as bank:
        long = "wörd " * 9_000
        for text, at in ((long, 0), ("Mira lives in Keldor.", 1)):
            remember(bank, text, at)
        hits = [hit for at in (0, 1) for hit in bank.search("alice", np.eye(DIM, dtype=np.float32)[at], 1)]
        part = [type(hit)(hit.memory_id, 0, 2, 9, hit.score) for hit in hits]
        gone = type(hits[0])("0" * 16, 0, 0, 5, 1.0)
        assert bank.excerpts("alice", [*part, gone]) == [long[2:9], "ra live", ""]
        assert bank.excerpts("alice", part, around=3) == [long[0:12], "Mira lives i"]
        assert bank.excerpts("bob", part) == ["", ""]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(["add", "forget", "ask"]), st.integers(0, 7)), max_size=12))
def test_any_order_of_changes_is_found_as_by_a_bank_opened_anew(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[str, int]]
) -> None:
    folder = tmp_path_factory.mktemp("bank")
    with Bank(folder) as bank:
        known = dict[int, str]()
        for action, number in changes:
            if action == "add":
                known[number] = remember(bank, f"Person {number} lives here.", number % DIM)
            elif action == "forget" and number in known:
                bank.forget("alice", known.pop(number))
            with Bank(folder) as new:
                for at in range(DIM):
                    assert sorted(found(bank, at)) == sorted(found(new, at)) == sorted(known.values())
