"""The memories of those who call, ready to be asked: one for each, sharing bank and engine."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from memkit.bank.owners import Owner
from memkit.engine.base import Engine
from memkit.memory import Memory


@dataclass
class _Kept:
    memory: Memory
    uses: int = 0


class Pool:
    """At most ``size`` memories that nobody uses, and all that somebody does.

    What is pushed out detaches its artifacts, so that an engine holds no more than those in use need.
    """

    def __init__(self, root: Memory, size: int, engine: Engine | None) -> None:
        self.root, self._size, self._engine = root, size, engine
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    @contextmanager
    def of(self, owner: str) -> Iterator[Memory]:
        """One owner's memory, which stays as long as it is used."""
        with self._lock:
            kept = self._kept.get(owner)
            if kept is None:
                kept = self._kept[owner] = _Kept(self.root.of(Owner.of(owner)))
            self._kept.move_to_end(owner)
            kept.uses += 1
        try:
            yield kept.memory
        finally:
            with self._lock:
                kept.uses -= 1
                dropped = self._surplus()
            if dropped:  # in a thread, since it waits for the engine, and here may be the event loop
                threading.Thread(target=self._release, args=(dropped,), daemon=True).start()

    def _surplus(self) -> list[Memory]:
        idle = [owner for owner, kept in self._kept.items() if not kept.uses]
        return [self._kept.pop(owner).memory for owner in idle[: max(len(self._kept) - self._size, 0)]]

    def _release(self, dropped: list[Memory]) -> None:
        for memory in dropped:
            memory.router.release(self._engine)
