"""What an engine holds ready for artifacts: counted while it is used, and bounded while it is not."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

CAPACITY = 64  # artifacts that stay ready while nobody uses them
T = TypeVar("T")


@dataclass
class _Held(Generic[T]):
    value: T
    uses: int = 0
    pinned: bool = False  # until it is detached
    kept: bool = False  # until it is pushed out


class ArtifactCache(Generic[T]):
    """Values by artifact id. The one owner of what is attached to an engine, whoever asks for it.

    `pin` holds a value until `unpin`; `use` counts a user, `free` one who is done. What nobody uses or has
    pinned stays ready up to a ``capacity``, what was used longest ago going first. ``drop`` is called with
    what goes. May be used from several threads.
    """

    def __init__(self, drop: Callable[[str, T], None], capacity: int = CAPACITY) -> None:
        self._drop, self._capacity = drop, capacity
        self._held: OrderedDict[str, _Held[T]] = OrderedDict()
        self._lock = threading.RLock()

    def __contains__(self, artifact_id: object) -> bool:
        return artifact_id in self._held

    def __iter__(self) -> Iterator[str]:
        with self._lock:
            return iter(list(self._held))

    def __len__(self) -> int:
        return len(self._held)

    def get(self, artifact_id: str) -> T | None:
        """The value of an artifact that is held."""
        with self._lock:
            held = self._held.get(artifact_id)
            return None if held is None else held.value

    def pin(self, artifact_id: str, make: Callable[[], T]) -> None:
        """Hold a value, made if need be, until it is unpinned."""
        with self._lock:
            self._there(artifact_id, make).pinned = True

    def unpin(self, artifact_id: str) -> None:
        """Let a value go, now or when its last user is done."""
        with self._lock:
            if (held := self._held.get(artifact_id)) is not None:
                held.pinned = held.kept = False
                self._settle(artifact_id, held)

    def use(self, artifact_id: str, make: Callable[[], T], keep: bool) -> None:
        """Count one user of a value, made if need be; with ``keep`` it stays ready afterwards."""
        with self._lock:
            held = self._there(artifact_id, make)
            held.uses += 1
            held.kept |= keep
            self._held.move_to_end(artifact_id)

    def free(self, artifact_id: str) -> None:
        """One user of a value is done."""
        with self._lock:
            held = self._held.get(artifact_id)
            if held is None:  # it was discarded
                return
            held.uses -= 1
            self._settle(artifact_id, held)
            spare = [key for key, each in self._held.items() if not each.uses and not each.pinned]
            for key in spare[: max(len(spare) - self._capacity, 0)]:
                self._drop(key, self._held.pop(key).value)

    def discard(self, artifact_id: str) -> None:
        """Let a value go at once, whoever uses it."""
        with self._lock:
            if (held := self._held.pop(artifact_id, None)) is not None:
                self._drop(artifact_id, held.value)

    def _there(self, artifact_id: str, make: Callable[[], T]) -> _Held[T]:
        held = self._held.get(artifact_id)
        if held is None:
            held = self._held[artifact_id] = _Held(make())
        return held

    def _settle(self, artifact_id: str, held: _Held[T]) -> None:
        if held.uses <= 0 and not held.pinned and not held.kept:
            del self._held[artifact_id]
            self._drop(artifact_id, held.value)
