"""The memory bank: source texts, their chunks and their artifacts, kept apart by tenant."""

from memkit.bank.bank import Bank
from memkit.bank.records import Hit, MemoryInfo, Receipt

__all__ = ["Bank", "Hit", "MemoryInfo", "Receipt"]
