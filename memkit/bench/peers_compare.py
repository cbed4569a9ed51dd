"""Compare memkit with other memory systems: ``memkit bench peers``.

Peers run in their own interpreters (`memkit.bench.peers`), with the same documents, model and embedder.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memkit.bench.http_server import served
from memkit.bench.peers import questions, stores
from memkit.bench.peers.process import Environment
from memkit.bench.peers.systems import TOKENS, Mem0, Memkit, Rag, Reader, System
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import ConfigError
from memkit.evals.records import generated
from memkit.evals.timing import stamp
from memkit.router.embedders import resolve_embedder
from memkit.server.config import ServerConfig

Progress = Callable[[str, int, int], None]
PEERS = ("mem0", "langgraph", "rag")
QUESTIONS_NOTE = (
    "Questions about remembered documents: one model in this process answers for all systems, with at most "
    f"{TOKENS} tokens, and all use the lexical embedder; mem0 calls it over HTTP on loopback (embed_p50_ms, "
    "included in its search). rag writes its files without fsync. Ratios are of median wall-clock times, "
    f"relative to {questions.REFERENCE}; cpu_ms is processor time."
)
STORES_NOTE = (
    "Items in stores, with precomputed vectors: a search returns eight items, search_after_put follows a "
    "write, found is the share of questions whose item is among the eight. Ratios are of median wall-clock "
    f"times, relative to {stores.REFERENCE}; cpu_ms is processor time."
)


@dataclass(frozen=True)
class PeersConfig:
    """What to measure. Raises `ConfigError` for invalid values."""

    documents: int = 12  # generated ones of eight facts, with a question for each fact
    compilers: tuple[str, ...] = ()  # memkit also answers from artifacts of these
    options: Mapping[str, Any] = field(default_factory=dict)  # of the compilers
    sizes: tuple[int, ...] = (1_000, 10_000)  # items in a store
    measured: int = 100  # timed calls of each kind
    only: tuple[str, ...] = PEERS  # peers to compare with
    peers: Path | None = None  # folder with the peers' environments
    model: str = "nano"
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.only or not set(self.only) <= set(PEERS):
            raise ConfigError(f"only may name {', '.join(PEERS)}, got {', '.join(self.only) or 'nothing'}")
        if self.documents < 1:
            raise ConfigError(f"documents must be at least 1, got {self.documents}")
        if not self.sizes or not 1 <= self.measured <= min(self.sizes):
            raise ConfigError(f"measured must be from 1 to the least of the sizes, got {self.measured}")


QUICK: Mapping[str, Any] = {"documents": 2, "sizes": (200,), "measured": 40}


def bench(
    config: PeersConfig,
    progress: Progress = lambda label, done, total: None,
    engine: TransformersEngine | None = None,
) -> dict[str, Any]:
    """Measure; a peer without an environment has a row that says so.

    ``engine`` may be an engine with the configuration's model.
    """
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0  # of other programs
    environments, absent = _environments(config)
    rows, notes = list[dict[str, Any]](), [load_note(load, os.cpu_count() or 1)]
    with tempfile.TemporaryDirectory(prefix="memkit-peers-") as folder:
        if "rag" in config.only or "mem0" in environments:
            rows, failures = _asked(config, environments.get("mem0"), Path(folder), progress, engine)
            notes += [QUESTIONS_NOTE, *_compiled(config), *failures]
        notes += [STORES_NOTE] if "langgraph" in environments else []
        for size in config.sizes if "langgraph" in environments else ():
            place = Path(folder) / f"stores-{size}"
            rows += stores.compare(
                place, environments["langgraph"], size, config.measured, config.seed, progress
            )
    return {
        "bench": "peers",
        "model": config.model,
        "documents": config.documents,
        "seed": config.seed,
        "versions": {name: environment.version for name, environment in environments.items()},
        **stamp(),
        "notes": notes,
        "rows": rows + absent,
    }


def load_note(load: float, cores: int) -> str:
    """A note on the load average before the run and its effect on the figures."""
    note = f"Load average before: {load:.1f} on {cores} cores."
    if load < cores / 2:
        return note
    return (
        f"{note} The machine was busy with other programs, so wall-clock times (p50, p95) and their ratios "
        "are misleading; compare cpu_ms."
    )


def _compiled(config: PeersConfig) -> list[str]:
    """A note on the rows of compilers, if there are any."""
    if not config.compilers:
        return []
    chosen = ", ".join(f"{key}={value}" for key, value in config.options.items()) or "the defaults"
    return [
        f"memkit, {', '.join(config.compilers)}: artifacts made with {chosen}; where the gate trusts none, "
        "the text answers (latent_share: the others). Its search includes the probes of the model."
    ]


def _environments(config: PeersConfig) -> tuple[dict[str, Environment], list[dict[str, Any]]]:
    """The environments of the available peers, and a row for each missing one."""
    environments, absent = dict[str, Environment](), list[dict[str, Any]]()
    for name in config.only:
        if name == "rag":
            continue
        try:
            environments[name] = Environment.of(name, config.peers)
        except ConfigError as error:
            absent.append({"row": name, "absent": str(error)})
    return environments, absent


def _asked(
    config: PeersConfig,
    mem0: Environment | None,
    folder: Path,
    progress: Progress,
    engine: TransformersEngine | None,
) -> tuple[list[dict[str, Any]], list[str]]:
    engine = engine or TransformersEngine(config.model)
    reader = Reader(engine)
    with ExitStack() as stack:
        systems: list[System] = [Memkit(folder / "text", engine)]
        systems += [Memkit(folder / name, engine, name, config.options) for name in config.compilers]
        if "rag" in config.only:
            systems.append(Rag(folder / "rag", reader, resolve_embedder("lexical")))
        if mem0 is not None:
            home = folder / "served"
            settings = ServerConfig(home, config.model, embedder="lexical", rate=10**9, compile=False)
            server = stack.enter_context(served(settings, engine))
            for infer in (False, True):
                systems.append(Mem0(folder / f"mem0-{infer}", mem0, server, reader, infer=infer))
        records = list(generated(config.documents, config.seed))
        return questions.compare(systems, records, progress)
