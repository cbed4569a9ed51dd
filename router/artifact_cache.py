"""A memory's artifact in front of a question: opened and checked at every use, attached while it lasts."""

from __future__ import annotations

from contextlib import ExitStack

from memkit.bank import Bank, MemoryInfo
from memkit.engine.base import Engine, Handle
from memkit.errors import ArtifactError, EngineError, NotFoundError


def open_artifact(bank: Bank, tenant: str, info: MemoryInfo, engine: Engine, held: ExitStack) -> Handle | str:
    """The memory's handle until ``held`` is closed, or why its artifact cannot be used with this model."""
    if info.artifact_id is None:
        return f"it could not be compiled: {info.error}" if info.error else "it is not compiled yet"
    try:
        with bank.artifact(tenant, info.id) as artifact:
            return held.enter_context(engine.attached(artifact))
    except (ArtifactError, NotFoundError, EngineError) as error:
        return str(error)
