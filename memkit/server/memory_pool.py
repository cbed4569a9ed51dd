"""One `Memory` per caller, sharing bank, engine and queue."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from memkit.bank.owners import Owner
from memkit.memory import Memory


class MemoryPool:
    """At most ``size`` memories, the most recently used. The engine bounds what is attached for them."""

    def __init__(self, root: Memory, size: int) -> None:
        self.root, self._size = root, size
        self._kept: OrderedDict[str, Memory] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    @contextmanager
    def of(self, owner: str) -> Iterator[Memory]:
        """The memory of an owner, by the owner's name in the bank."""
        with self._lock:
            memory = self._kept.get(owner)
            if memory is None:
                memory = self._kept[owner] = self.root.for_user(Owner.of(owner))
            self._kept.move_to_end(owner)
            while len(self._kept) > self._size:
                self._kept.popitem(last=False)
        yield memory
