"""The memories behind `memkit.remember` and `memkit.ask`: one per user, sharing one engine."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from memkit.memory import Memory, default_home

if TYPE_CHECKING:
    from memkit.engine.transformers import TransformersEngine


@lru_cache(maxsize=1)
def _engine(model: str) -> TransformersEngine:
    from memkit.engine.transformers import TransformersEngine

    return TransformersEngine(model)


@lru_cache(maxsize=64)
def _cached(user: str, home: str, model: str) -> Memory:
    return Memory(home, user=user, engine=_engine(model))


def memory(user: str) -> Memory:
    """The user's memory in the bank and for the model that the environment names now."""
    import os

    return _cached(user, str(default_home()), os.environ.get("MEMKIT_MODEL") or "nano")
