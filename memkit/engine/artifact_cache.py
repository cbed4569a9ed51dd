"""A reference-counted LRU cache of the artifacts that an engine has ready."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

CAPACITY = 64  # unused artifacts that stay ready
T = TypeVar("T")


@dataclass
class _Entry(Generic[T]):
    value: T
    uses: int = 0
    pinned: bool = False  # until `unpin`
    kept: bool = False  # stays when unused, until it is evicted


class ArtifactCache(Generic[T]):
    """Values by artifact id: the single owner of everything that is attached to an engine.

    `pin` keeps a value until `unpin`; `use` and `free` count its users. Up to ``capacity`` values that are
    neither pinned nor used stay ready, evicted least recently used first. ``drop`` is called with the id and
    value of each one removed. Thread-safe.
    """

    def __init__(self, drop: Callable[[str, T], None], capacity: int = CAPACITY) -> None:
        self._drop, self._capacity = drop, capacity
        self._entries: OrderedDict[str, _Entry[T]] = OrderedDict()
        self._lock = threading.RLock()

    def __contains__(self, artifact_id: object) -> bool:
        return artifact_id in self._entries

    def __iter__(self) -> Iterator[str]:
        with self._lock:
            return iter(list(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, artifact_id: str) -> T | None:
        """The value of an artifact; None if it is not in the cache."""
        with self._lock:
            entry = self._entries.get(artifact_id)
            return None if entry is None else entry.value

    def pin(self, artifact_id: str, make: Callable[[], T]) -> None:
        """Keep a value, created by ``make`` if absent, until it is unpinned."""
        with self._lock:
            self._entry(artifact_id, make).pinned = True

    def unpin(self, artifact_id: str) -> None:
        """Remove a value, now or when its last user is done."""
        with self._lock:
            if (entry := self._entries.get(artifact_id)) is not None:
                entry.pinned = entry.kept = False
                self._remove_if_unneeded(artifact_id, entry)

    def use(self, artifact_id: str, make: Callable[[], T], keep: bool) -> None:
        """Count a user of a value, created by ``make`` if absent; with ``keep`` it stays ready afterwards."""
        with self._lock:
            entry = self._entry(artifact_id, make)
            entry.uses += 1
            entry.kept |= keep
            self._entries.move_to_end(artifact_id)

    def free(self, artifact_id: str) -> None:
        """Count a user of a value as done."""
        with self._lock:
            entry = self._entries.get(artifact_id)
            if entry is None:  # it was discarded
                return
            entry.uses -= 1
            self._remove_if_unneeded(artifact_id, entry)
            unused = [key for key, each in self._entries.items() if not each.uses and not each.pinned]
            for key in unused[: max(len(unused) - self._capacity, 0)]:
                self._drop(key, self._entries.pop(key).value)

    def discard(self, artifact_id: str) -> None:
        """Remove a value at once, even while it is used."""
        with self._lock:
            if (entry := self._entries.pop(artifact_id, None)) is not None:
                self._drop(artifact_id, entry.value)

    def _entry(self, artifact_id: str, make: Callable[[], T]) -> _Entry[T]:
        entry = self._entries.get(artifact_id)
        if entry is None:
            entry = self._entries[artifact_id] = _Entry(make())
        return entry

    def _remove_if_unneeded(self, artifact_id: str, entry: _Entry[T]) -> None:
        if entry.uses <= 0 and not entry.pinned and not entry.kept:
            del self._entries[artifact_id]
            self._drop(artifact_id, entry.value)
