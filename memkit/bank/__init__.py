"""The memory bank: source texts, their chunks and their artifacts, kept apart by tenant."""

from __future__ import annotations

import warnings
from typing import Any

from memkit.bank.bank import Bank
from memkit.bank.policies import Policy
from memkit.bank.types import CompiledFrom, Entry, Hit, MemoryInfo, Message, Receipt


def __getattr__(name: str) -> Any:
    if name != "Said":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn("memkit.bank.Said is now memkit.Message", DeprecationWarning, stacklevel=2)
    return Message


__all__ = ["Bank", "CompiledFrom", "Entry", "Hit", "MemoryInfo", "Message", "Policy", "Receipt"]
