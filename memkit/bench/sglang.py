"""Correctness and cost of serving through SGLang: ``memkit bench serve --engine sglang``.

Starts its own servers, in the environment that `memkit.bench.sglang_process.environment` finds.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from memkit.bench.sglang_fixtures import KINDS, Item, reference_logprobs
from memkit.bench.sglang_mixed_load import mixed_load
from memkit.bench.sglang_process import SGLANG, Server
from memkit.bench.sglang_run import QUESTION, TENANTS, TOKENS, Progress, ServeConfig, SGLangRun, flush
from memkit.bench.ttft import filler
from memkit.engine.base import Request
from memkit.engine.sglang.engine import SGLangEngine
from memkit.engine.transformers.engine import TransformersEngine
from memkit.evals.timing import stamp
from memkit.models.loading import served_path

QUICK = ServeConfig(
    pairs=6, pages=(1, 16), requests=60, concurrent=8, artifacts=12, lengths=(256,), repeats=10
)


def bench(config: ServeConfig, progress: Progress = lambda label, done, total: None) -> dict[str, Any]:
    """Measure equality with the in-process engine, mixed load, overhead and time to first token.

    Raises `ConfigError` where there is no environment with SGLang.
    """
    reference = TransformersEngine(config.model)
    rows = list[dict[str, Any]]()
    with tempfile.TemporaryDirectory(prefix="memkit-serve-") as folder:
        run = SGLangRun(config, reference, Path(folder), progress)
        parts: dict[str, Callable[[], list[dict[str, Any]]]] = {
            "equality": partial(equality, run),
            "mixed": lambda: [mixed_load(run)],
            "overhead": lambda: [overhead(run)],
            "ttft": partial(first_token, run),
        }
        for part in config.parts:
            rows += parts[part]()
    return {
        "bench": "serve",
        "engine": "sglang",
        "sglang": SGLANG,
        "config": asdict(config),
        **stamp("no GPU"),
        "rows": rows,
    }


def equality(run: SGLangRun) -> list[dict[str, Any]]:
    """Compare tokens and log-probabilities with those of the in-process engine.

    Each pair is requested cold and warm, alone and in a batch of all kinds and tenants after a cache flush;
    with the largest pages also with a chunked prefill of 64 tokens.
    """
    found: dict[str, list[tuple[bool, float]]] = {kind: [] for kind in KINDS}
    pages = run.config.pages
    for number, page in enumerate(pages):
        run.progress(f"equality, pages of {page}", number, len(pages))
        more = ["--chunked-prefill-size", "64"] if page == max(pages) else []
        items = {kind: _pairs(run, kind, page) for kind in KINDS}
        with run.serving(page=page, more=more) as (servers, engine):
            for kind, each in _compared(run, engine, servers[0], items):
                found[kind] += each
    return [
        {
            "row": kind,
            "pairs": run.config.pairs,
            "pages": list(pages),
            "answers": len(results),
            "token_equality": sum(equal for equal, _ in results) / len(results),
            "max_logprob_diff": max(difference for _, difference in results),
        }
        for kind, results in found.items()
    ]


def _pairs(run: SGLangRun, kind: str, page: int) -> list[Item]:
    items = list[Item]()
    while len(items) < run.config.pairs:
        tenant = TENANTS[len(items) // 8 % len(TENANTS)]
        items += run.maker.items(kind, tenant, 5, page)
    for item in items:
        run.artifacts.publish(item)
    return items[: run.config.pairs]


def _compared(
    run: SGLangRun, engine: SGLangEngine, server: Server, items: dict[str, list[Item]]
) -> Iterator[tuple[str, list[tuple[bool, float]]]]:
    expected = {kind: [_expected(run, item) for item in each] for kind, each in items.items()}
    for _ in ("cold", "warm"):
        for kind, each in items.items():
            got = [engine.token_logprobs(_request(run, engine, item)) for item in each]
            yield kind, [_compare(a, b) for a, b in zip(got, expected[kind], strict=True)]
    flush(engine, server)
    mix = [(kind, i) for i in range(run.config.pairs) for kind in items]
    with ThreadPoolExecutor(run.config.concurrent) as pool:
        requests = [_request(run, engine, items[kind][i]) for kind, i in mix]
        answers = list(pool.map(engine.token_logprobs, requests))
    for (kind, i), got_ in zip(mix, answers, strict=True):
        yield kind, [_compare(got_, expected[kind][i])]


def _request(run: SGLangRun, engine: SGLangEngine, item: Item) -> Request:
    return Request(item.question, handle=engine.attach(item.artifact), max_tokens=TOKENS)


def _expected(run: SGLangRun, item: Item) -> list[tuple[int, float]]:
    handle = run.reference.attach(item.artifact)
    expected = reference_logprobs(run.reference, Request(item.question, handle=handle, max_tokens=TOKENS))
    run.reference.detach(handle)
    return expected


def overhead(run: SGLangRun) -> dict[str, Any]:
    """The same prompts in turn to SGLang without memkit's plugin (``bare``), to SGLang with it (``plugin``),
    and through memkit's engine (``memkit``). LoRA is disabled.
    """
    import httpx

    text = filler(run.reference, 200)
    words = ["--model-path", served_path(run.config.model, "float32"), "--max-total-tokens", "16384"]
    bare = Server(run.folder / "bare", words, plugin=False)
    times: dict[str, list[float]] = {"bare": [], "plugin": [], "memkit": []}
    try:
        with run.serving(lora=0) as (servers, engine), httpx.Client(timeout=60) as client:
            bare.wait()
            for number in range(run.config.repeats + 3):
                run.progress("overhead", number, run.config.repeats)
                request = Request(f"{QUESTION} {number}", context=text, max_tokens=TOKENS)
                payload = _bare_payload(run, request)

                def raw(url: str, payload: dict[str, Any] = payload) -> None:
                    client.post(f"{url}/generate", json=payload).raise_for_status()

                def through(request: Request = request) -> None:
                    list(engine.generate([request]))

                calls: list[tuple[str, Callable[[], None]]] = [
                    ("bare", partial(raw, bare.url)),
                    ("plugin", partial(raw, servers[0].url)),
                    ("memkit", through),
                ]
                for name, call in calls[number % 3 :] + calls[: number % 3]:
                    seconds = _timed(call)
                    if number >= 3:  # the first ones warm up
                        times[name].append(seconds)
    finally:
        bare.kill()
    medians = {f"{name}_p50_ms": statistics.median(each) for name, each in times.items()}
    return {
        "row": "overhead",
        "repeats": run.config.repeats,
        **medians,
        "overhead": medians["memkit_p50_ms"] / medians["bare_p50_ms"] - 1,
        "of_engine": medians["memkit_p50_ms"] / medians["plugin_p50_ms"] - 1,
    }


def _bare_payload(run: SGLangRun, request: Request) -> dict[str, Any]:
    base, context = run.reference.base, request.context or ""
    ids = [*base.chat.header, *run.reference.encode(context)]
    ids += base.chat.query(base.tokenizer, request.question, True)
    sampling = {"max_new_tokens": TOKENS, "temperature": 0.0, "stop_token_ids": [base.chat.end]}
    return {"input_ids": ids, "sampling_params": sampling, "stream": True}


def first_token(run: SGLangRun) -> list[dict[str, Any]]:
    """Time to first token with an artifact of a sixteenth of the text's size, compared with the full text.

    ``cold`` is without the artifact in the server's cache, ``warm`` with it. The text is never cached.
    """
    rows, repeats = list[dict[str, Any]](), max(run.config.repeats // 10, 3)
    with run.serving() as (servers, engine):
        for number, length in enumerate(run.config.lengths):
            run.progress("first token", number, len(run.config.lengths))
            text = filler(run.reference, length)
            short = run.reference.decode(run.reference.encode(text)[: -(-length // 16)])
            item = Item(run.maker.artifact("kv", short, TENANTS[0]), QUESTION, "")
            run.artifacts.publish(item)
            latent = Request(QUESTION, handle=engine.attach(item.artifact), max_tokens=1)
            full = Request(QUESTION, context=text, max_tokens=1)
            times: dict[str, list[float]] = {"text": [], "cold": [], "warm": []}
            for repeat in range(repeats + 1):
                flush(engine, servers[0])
                first = {name: _first(engine, r) for name, r in _order(latent, full)}
                for name, each in times.items():
                    if repeat:
                        each.append(first[name])
            medians = {f"{name}_ms": statistics.median(each) for name, each in times.items()}
            rows.append(
                {
                    "row": "ttft",
                    "tokens": run.reference.count_tokens(text),
                    "artifact_tokens": item.artifact.manifest.tokens,
                    "repeats": repeats,
                    **medians,
                    "ratio_cold": medians["text_ms"] / medians["cold_ms"],
                    "ratio_warm": medians["text_ms"] / medians["warm_ms"],
                }
            )
    return rows


def _order(latent: Request, full: Request) -> list[tuple[str, Request]]:
    return [("text", full), ("cold", latent), ("warm", latent)]


def _first(engine: SGLangEngine, request: Request) -> float:
    """Time to first token in ms."""
    (completion,) = engine.generate([request])
    return completion.ttft_ms


def _timed(call: Callable[[], Any]) -> float:
    """Time of a call in ms."""
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000


def _compare(got: list[tuple[int, float]], expected: list[tuple[int, float]]) -> tuple[bool, float]:
    """Whether the tokens are equal, and the maximal difference of their log-probabilities."""
    same = [token for token, _ in got] == [token for token, _ in expected]
    pairs = zip(got, expected, strict=False)
    return same, max(abs(a - b) for (s, a), (t, b) in pairs if s == t or not same)
