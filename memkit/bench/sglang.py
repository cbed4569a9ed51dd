"""What serving through SGLang gives and costs: ``memkit bench serve --engine sglang``.

It starts servers of its own, in the environment that `memkit.bench.sglang_process.environment` finds.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from memkit.bench.sglang_fixtures import KINDS, RANK, ArtifactFolder, ArtifactMaker, Item, reference_said
from memkit.bench.sglang_process import SGLANG, Server, servers
from memkit.bench.timing import stamp
from memkit.bench.ttft import filler
from memkit.engine.base import Request
from memkit.engine.sglang.engine import SGLangEngine
from memkit.engine.sglang.plugin.header import read_secret
from memkit.engine.sglang.plugin.server_args import ServerFlags
from memkit.engine.sglang.workers import SGLangConfig
from memkit.engine.transformers.engine import TransformersEngine
from memkit.models.loading import locate

Progress = Callable[[str, int, int], None]
TENANTS = ("mira", "jalo", "tovin", "keldor")
QUESTION = "Where does Mira live?"
TOKENS = 16  # of an answer
PARTS = ("equality", "mixed", "overhead", "ttft")


@dataclass(frozen=True)
class ServeConfig:
    """How much is measured.

    Equality: ``pairs`` of an artifact and a question of each kind, on servers with each of the ``pages``
    (tokens). Mixed: ``requests``, ``concurrent`` at once, over ``artifacts``, on two servers. First token:
    documents of ``lengths`` tokens. Overhead is measured ``repeats`` times, the first token a tenth as often.
    ``parts`` are those of `PARTS` that are measured.
    """

    model: str = "nano"
    pairs: int = 50
    pages: tuple[int, ...] = (1, 16, 64)
    requests: int = 1000
    concurrent: int = 32
    artifacts: int = 200
    lengths: tuple[int, ...] = (256, 512, 1024, 2000)
    repeats: int = 100
    parts: tuple[str, ...] = PARTS
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.parts or not set(self.parts) <= set(PARTS):
            raise ValueError(f"parts must be of {', '.join(PARTS)}, got {', '.join(self.parts)}")
        for name in ("pairs", "requests", "concurrent", "artifacts", "repeats"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("pages", "lengths"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise ValueError(f"{name} must be numbers from 1 on, got {getattr(self, name)}")


QUICK = ServeConfig(
    pairs=6, pages=(1, 16), requests=60, concurrent=8, artifacts=12, lengths=(256,), repeats=10
)


def bench(config: ServeConfig, progress: Progress = lambda label, done, total: None) -> dict[str, Any]:
    """Measure equality with the engine in this process, mixed load, overhead and the first token.

    Raises `ConfigError` where there is no environment with SGLang.
    """
    from memkit.bench.sglang_mixed_load import mixed

    reference = TransformersEngine(config.model)
    rows = list[dict[str, Any]]()
    with tempfile.TemporaryDirectory(prefix="memkit-serve-") as folder:
        run = Serve(config, reference, Path(folder), progress)
        work: dict[str, Callable[[], list[dict[str, Any]]]] = {
            "equality": run.equality,
            "mixed": lambda: [mixed(run)],
            "overhead": lambda: [run.overhead()],
            "ttft": run.first_token,
        }
        for part in config.parts:
            rows += work[part]()
    return {
        "bench": "serve",
        "engine": "sglang",
        "sglang": SGLANG,
        "config": asdict(config),
        **stamp("no GPU"),
        "rows": rows,
    }


class Serve:
    """One run: a shelf of artifacts, and servers that come and go."""

    def __init__(
        self, config: ServeConfig, reference: TransformersEngine, folder: Path, progress: Progress
    ) -> None:
        self.config, self.reference, self.folder, self.progress = config, reference, folder, progress
        self.maker = ArtifactMaker(reference, config.seed)
        self.shelf = ArtifactFolder(folder / "bank", reference.base)
        self._started = 0

    @contextmanager
    def serving(
        self, count: int = 1, page: int = 1, more: Sequence[str] = (), lora: int = RANK, **options: Any
    ) -> Iterator[tuple[list[Server], SGLangEngine]]:
        """Servers over the shelf, and an engine that uses them."""
        self._started += 1
        flags = ServerFlags(page=page, lora_rank=lora, loaded=8, batched=4, hidden_states=False)
        words = flags.of(locate(self.config.model)[0], self.shelf.config, "float32")
        words += ["--lora-backend", "torch_native"] if lora else []
        words += ["--max-total-tokens", "16384", *more]
        with servers(self.folder / str(self._started), words, count) as made:
            settings = SGLangConfig(tuple(each.url for each in made), **options)
            engine = SGLangEngine(settings, self.config.model, secret=read_secret(self.shelf.config.secret))
            try:
                yield made, engine
            finally:
                engine.close()

    # -- equality -------------------------------------------------------------------------------
    def equality(self) -> list[dict[str, Any]]:
        """Tokens and log-probabilities beside those of the engine in this process.

        Each pair is asked cold and warm, alone and in a batch of all kinds and tenants, and after the cache
        was flushed; with the largest pages also where a prompt is read 64 tokens at a time.
        """
        found: dict[str, list[tuple[bool, float]]] = {kind: [] for kind in KINDS}
        pages = self.config.pages
        for number, page in enumerate(pages):
            self.progress(f"equality, pages of {page}", number, len(pages))
            more = ["--chunked-prefill-size", "64"] if page == max(pages) else []
            items = {kind: self._pairs(kind, page) for kind in KINDS}
            with self.serving(page=page, more=more) as (made, engine):
                for kind, each in self._compared(engine, made[0], items):
                    found[kind] += each
        return [
            {
                "row": kind,
                "pairs": self.config.pairs,
                "pages": list(pages),
                "answers": len(results),
                "token_equality": sum(equal for equal, _ in results) / len(results),
                "max_logprob_diff": max(difference for _, difference in results),
            }
            for kind, results in found.items()
        ]

    def _pairs(self, kind: str, page: int) -> list[Item]:
        made = list[Item]()
        while len(made) < self.config.pairs:
            tenant = TENANTS[len(made) // 8 % len(TENANTS)]
            made += self.maker.items(kind, tenant, 5, page)
        for item in made:
            self.shelf.publish(item)
        return made[: self.config.pairs]

    def _compared(
        self, engine: SGLangEngine, server: Server, items: dict[str, list[Item]]
    ) -> Iterator[tuple[str, list[tuple[bool, float]]]]:
        wanted = {kind: [self._wanted(item) for item in each] for kind, each in items.items()}
        for _ in ("cold", "warm"):
            for kind, each in items.items():
                got = [engine.said(self._request(engine, item)) for item in each]
                yield kind, [_compare(a, b) for a, b in zip(got, wanted[kind], strict=True)]
        flush(engine, server)
        mix = [(kind, i) for i in range(self.config.pairs) for kind in items]
        with ThreadPoolExecutor(self.config.concurrent) as pool:
            requests = [self._request(engine, items[kind][i]) for kind, i in mix]
            said = list(pool.map(engine.said, requests))
        for (kind, i), got_ in zip(mix, said, strict=True):
            yield kind, [_compare(got_, wanted[kind][i])]

    def _request(self, engine: SGLangEngine, item: Item) -> Request:
        return Request(item.question, handle=engine.attach(item.artifact), max_tokens=TOKENS)

    def _wanted(self, item: Item) -> list[tuple[int, float]]:
        handle = self.reference.attach(item.artifact)
        said = reference_said(self.reference, Request(item.question, handle=handle, max_tokens=TOKENS))
        self.reference.detach(handle)
        return said

    # -- costs ----------------------------------------------------------------------------------
    def overhead(self) -> dict[str, Any]:
        """The same prompts, turn by turn: to an SGLang without memkit's plugin (``bare``), to one with it,
        both as they are (``plugin``), and through the engine (``memkit``). No server serves LoRAs.
        """
        import httpx

        text = filler(self.reference, 200)
        words = ["--model-path", locate(self.config.model)[0], "--max-total-tokens", "16384"]
        bare = Server(self.folder / "bare", words, plugin=False)
        times: dict[str, list[float]] = {"bare": [], "plugin": [], "memkit": []}
        try:
            with self.serving(lora=0) as (made, engine), httpx.Client(timeout=60) as client:
                bare.wait()
                for number in range(self.config.repeats + 3):
                    self.progress("overhead", number, self.config.repeats)
                    request = Request(f"{QUESTION} {number}", context=text, max_tokens=TOKENS)
                    payload = self._bare_payload(request)

                    def raw(url: str, payload: dict[str, Any] = payload) -> None:
                        client.post(f"{url}/generate", json=payload).raise_for_status()

                    def through(request: Request = request) -> None:
                        list(engine.generate([request]))

                    runs: list[tuple[str, Callable[[], None]]] = [
                        ("bare", partial(raw, bare.url)),
                        ("plugin", partial(raw, made[0].url)),
                        ("memkit", through),
                    ]
                    for name, run in runs[number % 3 :] + runs[: number % 3]:
                        taken = _timed(run)
                        if number >= 3:  # the first ones warm up
                            times[name].append(taken)
        finally:
            bare.kill()
        medians = {f"{name}_p50_ms": statistics.median(each) for name, each in times.items()}
        return {
            "row": "overhead",
            "repeats": self.config.repeats,
            **medians,
            "overhead": medians["memkit_p50_ms"] / medians["bare_p50_ms"] - 1,
            "of_engine": medians["memkit_p50_ms"] / medians["plugin_p50_ms"] - 1,
        }

    def _bare_payload(self, request: Request) -> dict[str, Any]:
        base, context = self.reference.base, request.context or ""
        ids = [*base.chat.header, *self.reference.encode(context)]
        ids += base.chat.query(base.tokenizer, request.question, True)
        sampling = {"max_new_tokens": TOKENS, "temperature": 0.0, "stop_token_ids": [base.chat.end]}
        return {"input_ids": ids, "sampling_params": sampling, "stream": True}

    def first_token(self) -> list[dict[str, Any]]:
        """Time to the first token with an artifact of a sixteenth of the text's size, beside the whole text.

        ``cold``: nothing of it is in the server's cache; ``warm``: it is. The text is never cached.
        """
        rows, repeats = list[dict[str, Any]](), max(self.config.repeats // 10, 3)
        with self.serving() as (made, engine):
            for number, length in enumerate(self.config.lengths):
                self.progress("first token", number, len(self.config.lengths))
                text = filler(self.reference, length)
                short = self.reference.decode(self.reference.encode(text)[: -(-length // 16)])
                item = Item(self.maker.artifact("kv", short, TENANTS[0]), QUESTION, "")
                self.shelf.publish(item)
                latent = Request(QUESTION, handle=engine.attach(item.artifact), max_tokens=1)
                full = Request(QUESTION, context=text, max_tokens=1)
                times: dict[str, list[float]] = {"text": [], "cold": [], "warm": []}
                for repeat in range(repeats + 1):
                    flush(engine, made[0])
                    taken = {name: _first(engine, r) for name, r in _order(latent, full)}
                    for name, each in times.items():
                        if repeat:
                            each.append(taken[name])
                medians = {f"{name}_ms": statistics.median(each) for name, each in times.items()}
                rows.append(
                    {
                        "row": "ttft",
                        "tokens": self.reference.count_tokens(text),
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
    """Time to the first token in ms."""
    (completion,) = engine.generate([request])
    return completion.ttft_ms


def _timed(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return (time.perf_counter() - started) * 1000


def _compare(got: list[tuple[int, float]], wanted: list[tuple[int, float]]) -> tuple[bool, float]:
    """Whether the tokens are the same, and how far their log-probabilities are apart at most."""
    same = [token for token, _ in got] == [token for token, _ in wanted]
    pairs = zip(got, wanted, strict=False)
    return same, max(abs(a - b) for (s, a), (t, b) in pairs if s == t or not same)


def flush(engine: SGLangEngine, server: Server) -> None:
    """Empty a server's cache."""
    import httpx

    for _ in range(50):
        if httpx.post(f"{server.url}/flush_cache", timeout=60).status_code == 200:
            return
        time.sleep(0.1)  # a request is just ending
    raise RuntimeError(f"{server.url} does not flush its cache")
