"""One run of the SGLang benchmarks: its configuration, the artifacts and the servers.

`memkit.bench.sglang` and `memkit.bench.sglang_mixed_load` measure with it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memkit.bench.sglang_fixtures import RANK, ArtifactFolder, ArtifactMaker
from memkit.bench.sglang_process import Server, servers
from memkit.engine.sglang.engine import SGLangEngine
from memkit.engine.sglang.plugin.header import read_secret
from memkit.engine.sglang.plugin.server_args import ServerFlags
from memkit.engine.sglang.workers import SGLangConfig
from memkit.engine.transformers.engine import TransformersEngine
from memkit.models.loading import served_path

Progress = Callable[[str, int, int], None]  # label, done, total
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


class SGLangRun:
    """A folder of published artifacts, the reference engine, and servers started over that folder."""

    def __init__(
        self, config: ServeConfig, reference: TransformersEngine, folder: Path, progress: Progress
    ) -> None:
        self.config, self.reference, self.folder, self.progress = config, reference, folder, progress
        self.maker = ArtifactMaker(reference, config.seed)
        self.artifacts = ArtifactFolder(folder / "bank", reference.base)
        self._started = 0

    @contextmanager
    def serving(
        self, count: int = 1, page: int = 1, more: Sequence[str] = (), lora: int = RANK, **options: Any
    ) -> Iterator[tuple[list[Server], SGLangEngine]]:
        """Start ``count`` servers over the artifacts, and an engine that uses them.

        ``page`` is in tokens and ``lora`` the highest rank of an adapter (0: no LoRA is served); ``more`` are
        further arguments of the servers and ``options`` fields of `SGLangConfig`.
        """
        self._started += 1
        flags = ServerFlags(page=page, lora_rank=lora, loaded=8, batched=4, hidden_states=False)
        arguments = flags.of(served_path(self.config.model, "float32"), self.artifacts.config, "float32")
        arguments += ["--lora-backend", "torch_native"] if lora else []
        arguments += ["--max-total-tokens", "16384", *more]
        with servers(self.folder / str(self._started), arguments, count) as started:
            settings = SGLangConfig(tuple(each.url for each in started), **options)
            engine = SGLangEngine(
                settings, self.config.model, secret=read_secret(self.artifacts.config.secret)
            )
            try:
                yield started, engine
            finally:
                engine.close()


def flush(engine: SGLangEngine, server: Server) -> None:
    """Empty a server's cache."""
    import httpx

    for _ in range(50):
        if httpx.post(f"{server.url}/flush_cache", timeout=60).status_code == 200:
            return
        time.sleep(0.1)  # a request is just ending
    raise RuntimeError(f"{server.url} does not flush its cache")
