"""LoRA artifacts on SGLang servers: loaded where they are needed; the least recently used make room."""

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

UNBOUNDED = 64  # adapters that are kept on a server which names no limit
WAIT = 60.0  # seconds for which an adapter waits for room


@dataclass
class Held:
    """The adapters of one server, in the order of their last use, and how many requests use each."""

    used: OrderedDict[str, int] = field(default_factory=OrderedDict)
    lock: threading.Condition = field(default_factory=threading.Condition)


class LoraCache:
    """What is loaded on each server, never more than its ``--max-loaded-loras``."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._held = {worker.url: Held() for worker in workers.all}

    @contextmanager
    def using(self, worker: Worker, claims: Sequence[Claim]) -> Iterator[None]:
        """While this lasts the artifacts are loaded on a server."""
        wanted = {claim.adapter: claim for claim in claims}
        held, taken = self._held[worker.url], list[str]()
        try:
            for name, claim in wanted.items():
                self._take(worker, held, name, claim)
                taken.append(name)
            yield
        finally:
            with held.lock:
                for name in taken:
                    if name in held.used:
                        held.used[name] -= 1
                held.lock.notify_all()

    def _take(self, worker: Worker, held: Held, name: str, claim: Claim) -> None:
        info = self._workers.ready(worker)
        if not info.get("lora"):
            raise EngineError(
                f"{worker.url} serves no LoRA; start it with the flags of memkit sglang-args --lora-rank"
            )
        limit = int(info.get("max_loaded_loras") or UNBOUNDED)
        with held.lock:  # servers load one at a time, too
            if name not in held.used:
                self._room(worker, held, limit)
                self._load(worker, name, claim)
                held.used[name] = 0
            held.used[name] += 1
            held.used.move_to_end(name)

    def _room(self, worker: Worker, held: Held, limit: int) -> None:
        deadline = time.monotonic() + WAIT
        while len(held.used) >= limit:
            idle = next((name for name, count in held.used.items() if not count), None)
            if idle is not None:
                self._unload(worker, held, idle)
            elif not held.lock.wait(deadline - time.monotonic()):
                raise EngineError(
                    f"{worker.url} has {limit} LoRAs loaded, all in use: raise --max-loaded-loras"
                )

    def _load(self, worker: Worker, name: str, claim: Claim) -> None:
        payload = {"lora_name": name, "lora_path": claim.key, "pinned": False}
        try:
            self._workers.ask(worker, "/load_lora_adapter", payload)
        except EngineError as error:
            if "already" not in str(error):  # by another process of this bank
                raise

    def _unload(self, worker: Worker, held: Held, name: str) -> None:
        with suppress(EngineError):  # the server has let it go by itself
            self._workers.ask(worker, "/unload_lora_adapter", {"lora_name": name})
        held.used.pop(name, None)

    def forget(self, worker: Worker) -> None:
        """A server that was lost has nothing loaded when it comes back."""
        held = self._held[worker.url]
        with held.lock:
            held.used.clear()

    def drop(self, claim: Claim) -> None:
        """Unload an artifact wherever it is loaded and idle; a server that is down has let it go."""
        for worker in self._workers.all:
            held = self._held[worker.url]
            with held.lock:
                if held.used.get(claim.adapter) == 0:
                    try:
                        self._unload(worker, held, claim.adapter)
                    except WorkerError:
                        held.used.clear()

    def loaded(self, worker: Worker) -> list[str]:
        """The adapters of a server."""
        held: Any = self._held[worker.url]
        with held.lock:
            return list(held.used)
