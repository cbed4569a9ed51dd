"""The memories of those who call, ready to be asked: one for each, sharing bank, engine and queue."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from memkit.bank.owners import Owner
from memkit.memory import Memory


class MemoryPool:
    """At most ``size`` memories, those asked for last. What is attached for them is the engine's to bound."""

    def __init__(self, root: Memory, size: int) -> None:
        self.root, self._size = root, size
        self._kept: OrderedDict[str, Memory] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    @contextmanager
    def of(self, owner: str) -> Iterator[Memory]:
        """One owner's memory."""
        with self._lock:
            memory = self._kept.get(owner)
            if memory is None:
                memory = self._kept[owner] = self.root.for_user(Owner.of(owner))
            self._kept.move_to_end(owner)
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)
        yield memory
