"""The cost of searching and probing memories: ``memkit bench route`` and ``memkit bench gate``."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from memkit.bank import Bank
from memkit.bank.types import Vectors
from memkit.bank.vector_index import EXACT_BELOW, Chunk, TenantIndex
from memkit.document import Document, Span
from memkit.errors import ConfigError
from memkit.evals.timing import stamp

TENANT = "benchmark"
TOP = 8  # memories
TOPIC = 20  # memories about the same topic
QUESTION = "Where does Mira live?"
ANSWER = "He lives in Keldor."  # only its length matters
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class RouteConfig:
    """A bank of ``memories`` memories with ``chunks`` vectors ``[dim]`` each, searched ``queries`` times.

    The vectors of a memory cluster around a centre, and the centres around topics, like those of texts.
    Raises `ConfigError` for values below 1.
    """

    memories: int = 1000
    chunks: int = 4
    dim: int = 384
    queries: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("memories", "chunks", "dim", "queries"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")


def vectors_of(config: RouteConfig) -> tuple[Vectors, Vectors]:
    """Unit vectors float32 [memories * chunks, dim], and of questions float32 [queries, dim]."""
    rng = np.random.default_rng(config.seed)

    def near(points: Vectors, spread: float) -> Vectors:
        noise = rng.standard_normal(points.shape, dtype=np.float32) * spread / config.dim**0.5
        moved = points + noise
        return np.asarray(moved / np.linalg.norm(moved, axis=1, keepdims=True), dtype=np.float32)

    topics = rng.standard_normal((-(-config.memories // TOPIC), config.dim), dtype=np.float32)
    centres = near(near(np.repeat(topics, TOPIC, axis=0)[: config.memories], 0.0), 1.0)
    rows = near(np.repeat(centres, config.chunks, axis=0), 0.8)
    sources = rng.integers(0, len(rows), config.queries)
    return rows, near(rows[sources], 0.6)


def route(config: RouteConfig, progress: Progress = lambda label, done, total: None) -> dict[str, Any]:
    """Compare search in a bank, including its catalog, with raw FAISS over the same vectors.

    ``ratio_to_faiss_p50`` is the ratio of median times to raw exact search, ``recall_ratio_to_faiss`` the
    share of its best eight memories that were found, ``bytes_ratio_to_faiss`` the ratio of index sizes,
    including the chunk table.
    """
    rows, questions = vectors_of(config)
    progress("faiss", 0, 3)
    raw, truth = _raw(rows, questions, config)
    progress("exact", 1, 3)
    exact = _index(rows, questions, config, truth, raw, len(rows) + 1)
    progress("inverted", 2, 3)
    inverted = _index(rows, questions, config, truth, raw, 0)
    bank = _bank(rows, questions, config, truth, raw)
    progress("done", 3, 3)
    return _report("route", {"memories": config.memories, "chunks": config.chunks, "dim": config.dim}) | {
        "exact_below": EXACT_BELOW,
        "queries": config.queries,
        "seed": config.seed,
        "rows": [raw, exact, inverted, bank],
    }


def _timed(call: Callable[[Vectors], Any], questions: Vectors) -> tuple[list[Any], dict[str, float]]:
    results, times = list[Any](), list[float]()
    call(questions[0])  # warms up
    for question in questions:
        started = time.perf_counter()
        results.append(call(question))
        times.append((time.perf_counter() - started) * 1000)
    return results, {"p50_ms": statistics.median(times), "p95_ms": float(np.quantile(times, 0.95))}


def _raw(rows: Vectors, questions: Vectors, config: RouteConfig) -> tuple[dict[str, Any], list[set[int]]]:
    """Raw FAISS: exact search of enough chunks to include the best eight memories."""
    import faiss

    started = time.perf_counter()
    index = faiss.IndexFlatIP(config.dim)
    index.add(rows)
    built = time.perf_counter() - started
    width = min(TOP * config.chunks, len(rows))
    results, times = _timed(lambda q: index.search(q[None], width)[1][0], questions)
    truth = [set(list(dict.fromkeys(int(i) // config.chunks for i in ids))[:TOP]) for ids in results]
    size = int(rows.nbytes)
    return {"row": "faiss", **times, "build_s": built, "bytes": size}, truth


def _compared(
    name: str, times: dict[str, float], recall: float, size: int, raw: dict[str, Any]
) -> dict[str, Any]:
    return {
        "row": name,
        **times,
        "bytes": size,
        "ratio_to_faiss_p50": times["p50_ms"] / raw["p50_ms"],
        "recall_ratio_to_faiss": recall,
        "bytes_ratio_to_faiss": size / raw["bytes"],
    }


def _recall(retrieved: Sequence[set[int]], truth: Sequence[set[int]]) -> float:
    return float(np.mean([len(a & b) / len(b) for a, b in zip(retrieved, truth, strict=True)]))


def _index(
    rows: Vectors,
    questions: Vectors,
    config: RouteConfig,
    truth: list[set[int]],
    raw: dict[str, Any],
    exact_below: int,
) -> dict[str, Any]:
    """One kind of index, without the bank around it."""
    chunks = [Chunk(f"{i // config.chunks:016x}", i % config.chunks, 0, 1) for i in range(len(rows))]
    started = time.perf_counter()
    index = TenantIndex(0, chunks, rows, exact_below)
    built = time.perf_counter() - started
    results, times = _timed(lambda q: index.best(q[None], TOP), questions)
    recall = _recall([{int(hit.memory_id, 16) for hit in hits} for hits in results], truth)
    name = "exact" if index.exact else "inverted"
    return _compared(name, times, recall, index.nbytes, raw) | {"build_s": built}


def _bank(
    rows: Vectors, questions: Vectors, config: RouteConfig, truth: list[set[int]], raw: dict[str, Any]
) -> dict[str, Any]:
    """`Bank.search` as called for a question."""
    spans = [Span(i, i + 1) for i in range(config.chunks)]
    with tempfile.TemporaryDirectory() as folder, Bank(Path(folder)) as bank:
        documents = [
            (
                Document(f"{i:08d}".ljust(config.chunks, "x")),
                spans,
                rows[i * config.chunks : (i + 1) * config.chunks],
            )
            for i in range(config.memories)
        ]
        ids = {info.id: i for i, info in enumerate(bank.remember_many(TENANT, documents))}
        started = time.perf_counter()
        bank.search(TENANT, questions[0], TOP)
        built = time.perf_counter() - started
        results, times = _timed(lambda q: bank.search(TENANT, q, TOP), questions)
        size = bank.index_bytes(TENANT)
    recall = _recall([{ids[hit.memory_id] for hit in hits} for hits in results], truth)
    return _compared("memkit", times, recall, size, raw) | {"build_s": built}


# --- probes ------------------------------------------------------------------------------------
def gate(
    model: str = "nano",
    tokens: int = 200,
    ratio: float = 16.0,
    counts: Sequence[int] = (1, 2, 4, 8, 16),
    repeats: int = 9,
    progress: Progress = lambda label, done, total: None,
) -> dict[str, Any]:
    """The FLOPs and median time (ms) of probing N candidates, compared with the first token of an answer from
    the full text of one of them.

    Probing N candidates is one pass over the question after each artifact and, for N > 1, without any.
    ``flops_apart`` are the FLOPs if header and artifact were computed for each candidate, ``overhead_flops``
    those of the probes that the answer does not continue from, relative to a short answer.
    """
    from memkit.engine.base import Request
    from memkit.engine.transformers.engine import TransformersEngine
    from memkit.evals.probe_flops import RequestFlops

    if min(counts) < 1 or repeats < 1 or tokens < 1:
        raise ConfigError("counts, repeats and tokens must be at least 1")
    engine = TransformersEngine(model)
    handles, text = _artifacts(engine, tokens, ratio, max(counts), progress)
    flops = RequestFlops(engine)
    full = Request(QUESTION, context=text, max_tokens=1)
    prefill = flops.probe(full)
    alone = Request(QUESTION)  # only with several candidates, as in the router
    probes = {
        n: [*(Request(QUESTION, handle=h) for h in handles[:n]), *([alone] if n > 1 else [])] for n in counts
    }
    times: dict[int, list[float]] = {n: [] for n in (0, *counts)}
    for repeat in range(repeats + 1):
        progress("probe", repeat, repeats)
        for n in times:  # interleaved, so that other load affects all of them
            started = time.perf_counter()
            if n:
                engine.score(probes[n])
            else:
                list(engine.generate([full]))
            if repeat:  # the first one warms up
                times[n].append((time.perf_counter() - started) * 1000)
    whole = statistics.median(times[0])
    rows = [
        {
            "row": f"{n} candidates",
            "n": n,
            "flops": sum(map(flops.probe, probes[n])),
            "flops_apart": sum(2 * flops.without_cache(r) for r in probes[n][:n]),
            "overhead_flops": sum(map(flops.probe, probes[n][1:])) / flops.answer(probes[n][0], ANSWER),
            "flops_ratio_to_prefill": sum(map(flops.probe, probes[n])) / prefill,
            "ms": statistics.median(times[n]),
            "ms_ratio_to_prefill": statistics.median(times[n]) / whole,
        }
        for n in counts
    ]
    about = {"model": engine.model, "context_tokens": engine.count_tokens(text), "repeats": repeats}
    return _report("gate", about) | {"prefill_ms": whole, "prefill_flops": prefill, "rows": rows}


def _artifacts(
    engine: Any, tokens: int, ratio: float, count: int, progress: Progress
) -> tuple[list[Any], str]:
    """``count`` attached artifacts and their text; their quality does not affect their speed."""
    from memkit.artifact.format import Artifact
    from memkit.bench.ttft import OPTIONS, filler
    from memkit.compilers.lcc.compiler import LCC

    text, handles = filler(engine, tokens), []
    for number in range(count):
        progress("compile", number, count)
        compiler = LCC({**OPTIONS, "ratio": ratio, "seed": number})
        compiled = compiler.compile(Document(text), engine.base, tenant=TENANT)
        handles.append(engine.attach(Artifact.decode(compiled.data)))
    return handles, text


def _report(name: str, about: dict[str, Any]) -> dict[str, Any]:
    return {
        "bench": name,
        **about,
        **stamp(),
    }
