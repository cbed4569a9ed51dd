"""The second part: every store keeps and finds the same items, with precomputed vectors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

import numpy as np

from memkit.bank import Bank
from memkit.bench.peers.figures import Timing, add_ratios, costs, stopwatch, turns
from memkit.bench.peers.process import Environment, Peer
from memkit.document import Document, Span
from memkit.evals.timing import nbytes
from memkit.memory import Memory
from memkit.router.embedders import Vectors

Progress = Callable[[str, int, int], None]
DIM, TOP, TENANT, NAMESPACE = 384, 8, "bench", ("bench",)
KINDS = ("put", "search", "search_after_put", "get")
BATCH = 500  # items in one call
ROUNDS = 20  # of a put followed by a search
REFERENCE = "MemkitStore"
DURABLE = "SQLite, journal wal, synchronous FULL"  # memkit.bank.catalog
LANGGRAPH = Path(__file__).with_name("langgraph_worker.py")


@dataclass(frozen=True)
class Items:
    """Texts with vectors float32 [items, DIM], and a question about each with a vector near it."""

    vectors: Vectors
    asked: Vectors

    @classmethod
    def drawn(cls, count: int, seed: int) -> Items:
        rng = np.random.default_rng(seed)
        vectors = _unit(rng.standard_normal((count, DIM), dtype=np.float32))
        noise = rng.standard_normal((count, DIM), dtype=np.float32) / DIM**0.5
        return cls(vectors, _unit(vectors + noise))

    def text(self, number: int) -> str:
        return f"Item {number}: the boat to island {number} leaves at {number % 24}:{number % 60:02}."

    def question(self, number: int) -> str:
        return f"When does the boat to island {number} leave?"


def _unit(rows: Vectors) -> Vectors:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


class Store(Protocol):
    """A store under test. Calls return their time."""

    name: str
    durability: str

    def fill(self, numbers: range) -> None:
        """Store the items with these numbers, in one batch if possible; not timed."""

    def put(self, number: int) -> Timing:
        """Store the item with that number."""

    def search(self, number: int) -> tuple[bool, Timing]:
        """Whether the question about an item finds it among `TOP`."""

    def get(self, number: int) -> Timing:
        """Read an item."""

    def close(self) -> int:
        """Close the store; returns its size on disk in bytes."""


class MemkitBank:
    """memkit's bank, used directly."""

    name, durability = "Bank", DURABLE

    def __init__(self, folder: Path, items: Items) -> None:
        self._bank, self._folder, self._items = Bank(folder), folder, items
        self._ids = dict[int, str]()

    def fill(self, numbers: range) -> None:
        infos = self._bank.remember_many(TENANT, [self._memory(number) for number in numbers])
        self._ids |= {number: info.id for number, info in zip(numbers, infos, strict=True)}

    def _memory(self, number: int) -> tuple[Document, list[Span], Vectors]:
        document = Document(self._items.text(number))
        return document, [Span(0, len(document.text))], self._items.vectors[number][None]

    def put(self, number: int) -> Timing:
        memory = self._memory(number)
        elapsed = stopwatch()
        info = self._bank.remember(TENANT, *memory)
        timing = elapsed()
        self._ids[number] = info.id
        return timing

    def search(self, number: int) -> tuple[bool, Timing]:
        elapsed = stopwatch()
        hits = self._bank.search(TENANT, self._items.asked[number], TOP)
        timing = elapsed()
        return self._ids[number] in [hit.memory_id for hit in hits], timing

    def get(self, number: int) -> Timing:
        elapsed = stopwatch()
        self._bank.source(TENANT, self._ids[number])
        return elapsed()

    def close(self) -> int:
        self._bank.close()
        return nbytes(self._folder)


class PrecomputedVectors:
    """An embedder that returns a given vector, ``next``, for any text."""

    name, dim, min_similarity, by_sentence = f"given:{DIM}", DIM, 0.0, False
    next: Vectors

    def passages(self, texts: Sequence[str]) -> Vectors:
        return np.repeat(self.next[None], len(texts), axis=0)

    def question(self, text: str) -> Vectors:
        return self.next


class MemkitStoreBench:
    """memkit's store for LangGraph, called as LangGraph calls it."""

    name, durability = REFERENCE, DURABLE

    def __init__(self, folder: Path, items: Items) -> None:
        from memkit.integrations.langchain import MemkitStore

        self._folder, self._items, self._embedder = folder, items, PrecomputedVectors()
        self._memory = Memory(folder, embedder=self._embedder)
        self._store = MemkitStore(self._memory)

    def fill(self, numbers: range) -> None:
        for number in numbers:  # the store has no batch call
            self.put(number)

    def put(self, number: int) -> Timing:
        self._embedder.next = self._items.vectors[number]
        elapsed = stopwatch()
        self._store.put(NAMESPACE, str(number), {"text": self._items.text(number)})
        return elapsed()

    def search(self, number: int) -> tuple[bool, Timing]:
        self._embedder.next = self._items.asked[number]
        elapsed = stopwatch()
        items = self._store.search(NAMESPACE, query=self._items.question(number), limit=TOP)
        timing = elapsed()
        return str(number) in [item.key for item in items], timing

    def get(self, number: int) -> Timing:
        elapsed = stopwatch()
        self._store.get(NAMESPACE, str(number))
        return elapsed()

    def close(self) -> int:
        self._memory.close()
        return nbytes(self._folder)


class Langgraph:
    """One of LangGraph's own stores, in its own interpreter, where calls are timed."""

    def __init__(self, kind: str, folder: Path, items: Items, environment: Environment) -> None:
        self._data, self._items = folder / "data", items
        self._data.mkdir(parents=True)
        settings = {"kind": kind, "dim": DIM, "data": str(self._data)}
        self._peer = Peer(environment.python, LANGGRAPH, folder, settings)
        self.name, self.durability = kind, str(self._peer.call("durability").result)

    def fill(self, numbers: range) -> None:
        for start in range(numbers.start, numbers.stop, BATCH):
            batch = range(start, min(start + BATCH, numbers.stop))
            items = [(str(n), self._items.text(n), self._items.vectors[n].tolist()) for n in batch]
            self._peer.call("fill", items=items)

    def put(self, number: int) -> Timing:
        vector = self._items.vectors[number].tolist()
        return self._peer.call("put", key=str(number), text=self._items.text(number), vector=vector).took

    def search(self, number: int) -> tuple[bool, Timing]:
        text, vector = self._items.question(number), self._items.asked[number].tolist()
        called = self._peer.call("search", text=text, vector=vector, k=TOP)
        return str(number) in called.result, called.took

    def get(self, number: int) -> Timing:
        return self._peer.call("get", key=str(number)).took

    def close(self) -> int:
        self._peer.close()
        return nbytes(self._data)


class Run:
    """The stores of one run, with the times of their calls by store and kind."""

    def __init__(self, stores: Sequence[Store], progress: Progress) -> None:
        self.stores, self._progress = stores, progress
        self.times = {store.name: defaultdict[str, list[Timing]](list) for store in stores}
        self.found = {store.name: list[bool]() for store in stores}

    def fill(self, size: int, measured: int) -> None:
        """Store ``size`` items, of which the last ``measured`` are timed."""
        for done, store in enumerate(self.stores):
            self._progress(f"fill {store.name}", done, len(self.stores))
            store.fill(range(size - measured))
        for number in range(size - measured, size):
            self._progress("put", number - size + measured, measured)
            for store in turns(self.stores, number):
                self.times[store.name]["put"].append(store.put(number))

    def read(self, numbers: Sequence[int]) -> None:
        """Search and read these items."""
        for store in self.stores:
            store.search(0)  # warms up
        for turn, number in enumerate(numbers):
            self._progress("search", turn, len(numbers))
            for store in turns(self.stores, turn):
                hit, timing = store.search(number)
                self.found[store.name].append(hit)
                self.times[store.name]["search"].append(timing)
                self.times[store.name]["get"].append(store.get(number))

    def alternate(self, numbers: Sequence[int]) -> None:
        """Store further items, with a search after each."""
        for number in numbers:
            for store in turns(self.stores, number):
                store.put(number)
                self.times[store.name]["search_after_put"].append(store.search(number)[1])

    def rows(self, size: int) -> Iterator[dict[str, Any]]:
        for store in self.stores:
            times = self.times[store.name]
            yield {
                "row": store.name,
                "items": size,
                "durability": store.durability,
                "n": len(times["search"]),
                "found": fmean(self.found[store.name]),
                **{key: value for name in KINDS for key, value in costs(name, times[name]).items()},
            }


def compare(
    folder: Path, environment: Environment, size: int, measured: int, seed: int, progress: Progress
) -> list[dict[str, Any]]:
    """A row for each store with ``size`` items, with ``measured`` timed calls of each kind.

    ``found`` is the share of questions whose item was among the best eight; ``search_after_put`` is a search
    directly after a write.
    """
    items = Items.drawn(size + ROUNDS, seed)
    queries = np.random.default_rng(seed).integers(0, size, measured).tolist()
    with ExitStack() as stack:
        stores = list[Store]()
        sizes = dict[str, int]()
        for store in _opened(folder, environment, items):
            stack.callback(_closed, store, sizes)
            stores.append(store)
        run = Run(stores, progress)
        run.fill(size, measured)
        run.read(queries)
        run.alternate(range(size, size + ROUNDS))
        rows = list(run.rows(size))
    for row in rows:
        row["bytes"] = sizes[row["row"]]
    add_ratios(rows, REFERENCE, KINDS)
    return rows


def _closed(store: Store, sizes: dict[str, int]) -> None:
    sizes[store.name] = store.close()


def _opened(folder: Path, environment: Environment, items: Items) -> Iterator[Store]:
    yield MemkitStoreBench(folder / "store", items)
    yield MemkitBank(folder / "bank", items)
    for kind in ("InMemoryStore", "SqliteStore"):
        yield Langgraph(kind, folder / kind, items, environment)
