"""Benchmark the bank: ``memkit bench bank``.

Rows: ``put`` and ``get``, interleaved with raw files and SQLite at the same durability; ``shared``, several
concurrent processes; ``remember`` and ``open`` with many memories.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import random
import sqlite3
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from memkit.artifact.format import Artifact, Manifest
from memkit.bank import Bank, Message
from memkit.bank.artifact_store import sync_folder
from memkit.document import Document, Span
from memkit.errors import BankBusyError, NotFoundError
from memkit.evals.timing import copy_rate, stamp

DIM = 384
TENANT = "bench"
BATCH = 2000  # memories in one `remember_many`
LOG_PAGES = 1000  # pages of SQLite's write-ahead log before it wraps around
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class BankConfig:
    """How much is measured. Raises `ValueError` for values below 1."""

    memories: int = 100_000  # in the bank, for the rows remember and open
    processes: int = 8
    operations: int = 500  # of each process
    puts: int = 200
    nbytes: int = 200_000  # of an artifact
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("memories", "processes", "operations", "puts", "nbytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def bench(config: BankConfig, progress: Progress = lambda label, done, total: None) -> dict[str, Any]:
    """Measure; returns ``{"bench": "bank", "rows": [...]}``. Times are in milliseconds."""
    rows = list[dict[str, Any]]()
    parts: tuple[Callable[[BankConfig, Path], Iterator[dict[str, Any]]], ...] = (_beside_raw, _shared, _large)
    for done, part in enumerate(parts):
        progress(part.__name__.strip("_"), done, len(parts))
        with tempfile.TemporaryDirectory(prefix="memkit-bank-") as folder:
            rows += part(config, Path(folder))
    return {
        "bench": "bank",
        "seed": config.seed,
        **stamp(),
        "rows": rows,
    }


# -- beside raw files and SQLite ------------------------------------------------------------------
class _Raw:
    """The baseline: one file for each artifact, as durable as the bank's, and one row in SQLite."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self._database = sqlite3.connect(folder / "rows.sqlite3", isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.execute("CREATE TABLE artifacts (id TEXT PRIMARY KEY, digest TEXT)")

    def put(self, name: str, data: bytes) -> None:
        file = self._folder / name
        with file.with_suffix(".tmp").open("wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        file.with_suffix(".tmp").rename(file)
        sync_folder(self._folder)
        self.insert(name, hashlib.sha256(data).hexdigest())

    def insert(self, name: str, text: str) -> None:
        """Insert one row and sync it to disk: the minimum of a durable write."""
        self._database.execute("BEGIN IMMEDIATE")
        self._database.execute("INSERT INTO artifacts VALUES (?, ?)", (name, text))
        self._database.execute("COMMIT")

    def get(self, name: str) -> bytes:
        (digest,) = self._database.execute("SELECT digest FROM artifacts WHERE id = ?", (name,)).fetchone()
        data = (self._folder / name).read_bytes()
        if hashlib.sha256(data).hexdigest() != digest:
            raise OSError("the file is not what was written")
        return data

    def close(self) -> None:
        self._database.close()


def _beside_raw(config: BankConfig, folder: Path) -> Iterator[dict[str, Any]]:
    """Publishing and reading artifacts, by the bank and by the baseline; both verify the digest."""
    times: dict[str, list[float]] = {name: [] for name in ("put", "raw put", "get", "raw get")}
    with Bank(folder / "bank") as bank, closing(_Raw(folder / "raw")) as raw:
        ids = [bank.remember(TENANT, *_memory(n)).id for n in range(config.puts)]
        for n, memory_id in enumerate(ids):
            data = _artifact(TENANT, n, config.nbytes)
            with _timed(times["put"]):
                bank.publish(TENANT, memory_id, data)
            with _timed(times["raw put"]):
                raw.put(str(n), data)
        for n, memory_id in enumerate(ids):
            with _timed(times["get"]), bank.artifact(TENANT, memory_id) as artifact:
                artifact.tensor("data")
            with _timed(times["raw get"]):
                raw.get(str(n))
    copied = 1000 * config.nbytes / copy_rate()
    for name in ("put", "get"):
        bank_ms, raw_ms = (statistics.median(times[key]) for key in (name, f"raw {name}"))
        ratios = sorted(b / a for a, b in zip(times[name], times[f"raw {name}"], strict=True))
        yield {
            "row": name,
            "n": config.puts,
            "p50_ms": bank_ms,
            "raw_p50_ms": raw_ms,
            "floor_ms": copied,
            "rate_to_raw": raw_ms / bank_ms,
            "rate_to_raw_quartiles": [ratios[len(ratios) // 4], ratios[3 * len(ratios) // 4]],
        }


# -- several processes ----------------------------------------------------------------------------
def _shared(config: BankConfig, folder: Path) -> Iterator[dict[str, Any]]:
    """Mixed operations of several processes on one tenant; everything acknowledged must be in the bank."""
    started = time.perf_counter()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(config.processes, mp_context=context) as pool:
        jobs = [
            pool.submit(_operate, folder, worker, config.operations, config.seed)
            for worker in range(config.processes)
        ]
        results = [job.result() for job in jobs]
    seconds = time.perf_counter() - started
    done = sum((Counter(counts) for counts, _, _ in results), Counter[str]())
    acknowledged = {text for _, texts, _ in results for text in texts}
    entries = sum(count for _, _, count in results)
    with Bank(folder) as bank:
        infos = bank.list(TENANT)
        stored = {bank.source(TENANT, info.id).text for info in infos if not info.running}
        logged = sum(info.entries for info in infos)
        problems = bank.check(TENANT)
    yield {
        "row": "shared",
        "processes": config.processes,
        "operations": config.processes * config.operations,
        "lost": len(acknowledged ^ stored) + abs(entries - logged) + len(problems),
        "locked_errors": done.pop("busy", 0),
        "by_kind": dict(sorted(done.items())),
        "seconds": seconds,
    }


def _operate(folder: Path, worker: int, operations: int, seed: int) -> tuple[dict[str, int], list[str], int]:
    """The work of one process; returns counts by operation, its remaining texts and its number of entries."""
    rng, done, entries = random.Random(seed * 1000 + worker), Counter[str](), 0
    texts = dict[str, str]()  # by memory id
    with Bank(folder, timeout=60.0) as bank:
        for number in range(operations):
            kind = rng.choice(["remember", "append", "publish", "search", "list", "forget"])
            kind = kind if texts or kind not in ("publish", "forget") else "remember"
            try:
                if kind == "remember":
                    info = bank.remember(TENANT, *_memory(1_000_000 * worker + number))
                    texts[info.id] = bank.source(TENANT, info.id).text
                elif kind == "append":
                    text = f"worker {worker} says {number}"
                    bank.logs.append(TENANT, "profile", [Message(text)], _embed)
                    entries += 1
                elif kind == "publish":
                    bank.publish(TENANT, rng.choice(sorted(texts)), _artifact(TENANT, number, 1000))
                elif kind == "search":
                    bank.search(TENANT, _vector(number), 8)
                elif kind == "list":
                    bank.tenants()
                else:
                    memory_id = rng.choice(sorted(texts))
                    bank.forget(TENANT, memory_id)
                    del texts[memory_id]
                done[kind] += 1
            except (BankBusyError, NotFoundError):
                done["busy"] += 1
    return dict(done), list(texts.values()), entries


# -- many memories --------------------------------------------------------------------------------
def _large(config: BankConfig, folder: Path) -> Iterator[dict[str, Any]]:
    """Remembering one more document, and opening the bank, with many memories."""
    with Bank(folder) as bank:
        for start in range(0, config.memories, BATCH):
            numbers = range(start, min(start + BATCH, config.memories))
            bank.remember_many(TENANT, [_memory(n) for n in numbers])
    times, floors = list[float](), list[float]()
    with Bank(folder) as bank, closing(_Raw(folder / "raw")) as raw:
        bank.get(TENANT, bank.remember(TENANT, *_memory(config.memories)).id)
        for n in range(LOG_PAGES):  # from then on SQLite overwrites its log, as it does in the bank
            raw.insert(f"before {n}", "")
        for n in range(1, 101):
            document, spans, vectors = _memory(config.memories + n)
            with _timed(times):
                bank.remember(TENANT, document, spans, vectors)
            with _timed(floors):
                raw.insert(str(n), document.text)
    yield {
        "row": "remember",
        "memories": config.memories,
        "n": len(times),
        "p50_ms": statistics.median(times),
        "p95_ms": sorted(times)[94],
        "floor_ms": statistics.median(floors),
    }
    opened, searched = list[float](), list[float]()
    for n in range(5):
        with _timed(opened):
            bank = Bank(folder)
            bank.exists(TENANT)
        with _timed(searched), bank:  # the first search builds the index
            bank.search(TENANT, _vector(n), 8)
    yield {
        "row": "open",
        "memories": config.memories,
        "n": len(opened),
        "p50_ms": statistics.median(opened),
        "first_search_p50_ms": statistics.median(searched),
    }


@contextmanager
def _timed(into: list[float]) -> Iterator[None]:
    started = time.perf_counter()
    yield
    into.append((time.perf_counter() - started) * 1000)


def _memory(number: int) -> tuple[Document, list[Span], Any]:
    document = Document(f"memory {number} of a bench, about nothing at all")
    return document, [Span(0, len(document.text))], _vector(number)[None]


def _embed(document: Document) -> tuple[list[Span], Any]:
    return [Span(0, len(document.text))], _vector(len(document.text))[None]


def _vector(number: int) -> Any:
    return np.random.default_rng(number).standard_normal(DIM).astype("f4")


def _artifact(tenant: str, number: int, nbytes: int) -> bytes:
    import torch

    generator = torch.Generator().manual_seed(number)
    data = torch.randint(0, 255, (nbytes,), dtype=torch.uint8, generator=generator)
    manifest = Manifest("text", "none", "1", {"n": number}, 0, "f", 0, tenant, ())
    return Artifact.encode(manifest, {"data": (data, ("byte",))})
