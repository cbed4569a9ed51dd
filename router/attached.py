"""Artifacts that are ready in the engine: opened and checked at every use, attached once."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection

from memkit.bank import Bank, MemoryInfo
from memkit.engine.base import Engine, Handle
from memkit.errors import ArtifactError, EngineError, NotFoundError

CAPACITY = 64  # artifacts that stay attached


class Attached:
    """One tenant's artifacts in one engine; those used longest ago are detached beyond a capacity."""

    def __init__(self, bank: Bank, tenant: str, capacity: int = CAPACITY) -> None:
        self._bank, self._tenant, self._capacity = bank, tenant, capacity
        self._handles: OrderedDict[str, Handle] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, info: MemoryInfo, engine: Engine) -> Handle | str:
        """The memory's handle, or why its artifact cannot be used with this model."""
        if info.artifact_id is None:
            return f"it could not be compiled: {info.error}" if info.error else "it is not compiled yet"
        try:
            with self._bank.artifact(self._tenant, info.id) as artifact:
                artifact.require(engine.fingerprint)
                handle = engine.attach(artifact)
        except (ArtifactError, NotFoundError, EngineError) as error:
            return str(error)
        with self._lock:
            self._handles[handle.artifact_id] = handle
            self._handles.move_to_end(handle.artifact_id)
        return handle

    def trim(self, engine: Engine, used: Collection[Handle]) -> None:
        """Detach what was used longest ago, but for ``used``, until the rest is within the capacity."""
        keep = {handle.artifact_id for handle in used}
        with self._lock:
            spare = [key for key in self._handles if key not in keep]
            drop = [self._handles.pop(key) for key in spare[: max(len(self._handles) - self._capacity, 0)]]
        for handle in drop:
            engine.detach(handle)

    def forget(self, artifact_id: str, engine: Engine | None) -> None:
        """Detach one artifact, if it is attached."""
        with self._lock:
            handle = self._handles.pop(artifact_id, Handle(artifact_id, 0))
        if engine is not None:
            engine.detach(handle)

    def clear(self, engine: Engine | None) -> None:
        """Detach all of them."""
        with self._lock:
            handles, self._handles = list(self._handles.values()), OrderedDict()
        if engine is not None:
            for handle in handles:
                engine.detach(handle)
