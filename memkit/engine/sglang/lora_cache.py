"""LoRA artifacts on SGLang servers: loaded on use, unloaded least recently used first."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from memkit.engine.sglang.plugin.protocol import Claim
from memkit.engine.sglang.workers import Worker, WorkerError, Workers
from memkit.errors import EngineError

DEFAULT_LIMIT = 64  # loaded adapters on a server that reports no limit
WAIT = 60.0  # seconds to wait until a loaded adapter is idle


@dataclass
class LoadedAdapters:
    """The adapters loaded on one server, least recently used first, with the number of requests for each."""

    uses: OrderedDict[str, int] = field(default_factory=OrderedDict)
    lock: threading.Condition = field(default_factory=threading.Condition)


class LoraCache:
    """Keeps track of the adapters on each server, never more than its ``--max-loaded-loras``."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._loaded = {worker.url: LoadedAdapters() for worker in workers.all}

    @contextmanager
    def using(self, worker: Worker, claims: Sequence[Claim]) -> Iterator[None]:
        """Keeps the artifacts loaded on a server for the duration of the context.

        Raises `EngineError` for a server without LoRA, or whose adapters all stay in use.
        """
        needed = {claim.adapter: claim for claim in claims}
        loaded, acquired = self._loaded[worker.url], list[str]()
        try:
            for name, claim in needed.items():
                self._acquire(worker, loaded, name, claim)
                acquired.append(name)
            yield
        finally:
            with loaded.lock:
                for name in acquired:
                    if name in loaded.uses:
                        loaded.uses[name] -= 1
                loaded.lock.notify_all()

    def _acquire(self, worker: Worker, loaded: LoadedAdapters, name: str, claim: Claim) -> None:
        info = self._workers.ready(worker)
        if not info.get("lora"):
            raise EngineError(
                f"{worker.url} serves no LoRA; start it with the flags of memkit sglang-args --lora-rank"
            )
        limit = int(info.get("max_loaded_loras") or DEFAULT_LIMIT)
        with loaded.lock:  # servers load one adapter at a time, too
            if name not in loaded.uses:
                self._make_room(worker, loaded, limit)
                self._load(worker, name, claim)
                loaded.uses[name] = 0
            loaded.uses[name] += 1
            loaded.uses.move_to_end(name)

    def _make_room(self, worker: Worker, loaded: LoadedAdapters, limit: int) -> None:
        deadline = time.monotonic() + WAIT
        while len(loaded.uses) >= limit:
            idle = next((name for name, count in loaded.uses.items() if not count), None)
            if idle is not None:
                self._unload(worker, loaded, idle)
            elif not loaded.lock.wait(deadline - time.monotonic()):
                raise EngineError(
                    f"{worker.url} has {limit} LoRAs loaded, all in use: raise --max-loaded-loras"
                )

    def _load(self, worker: Worker, name: str, claim: Claim) -> None:
        payload = {"lora_name": name, "lora_path": claim.key, "pinned": False}
        try:
            self._workers.request(worker, "/load_lora_adapter", payload)
        except EngineError as error:
            if "already" not in str(error):  # another process of this bank has loaded it
                raise

    def _unload(self, worker: Worker, loaded: LoadedAdapters, name: str) -> None:
        with suppress(EngineError):  # the server has unloaded it by itself
            self._workers.request(worker, "/unload_lora_adapter", {"lora_name": name})
        loaded.uses.pop(name, None)

    def forget(self, worker: Worker) -> None:
        """Forget what was loaded on a server that was lost: it restarts without adapters."""
        loaded = self._loaded[worker.url]
        with loaded.lock:
            loaded.uses.clear()

    def drop(self, claim: Claim) -> None:
        """Unload an artifact from every server where it is loaded and idle."""
        for worker in self._workers.all:
            loaded = self._loaded[worker.url]
            with loaded.lock:
                if loaded.uses.get(claim.adapter) == 0:
                    try:
                        self._unload(worker, loaded, claim.adapter)
                    except WorkerError:
                        loaded.uses.clear()

    def loaded(self, worker: Worker) -> list[str]:
        """The names of the adapters loaded on a server."""
        loaded: Any = self._loaded[worker.url]
        with loaded.lock:
            return list(loaded.uses)
