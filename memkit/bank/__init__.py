"""The memory bank: source texts, their chunks and their artifacts, kept apart by tenant."""

from memkit.bank.bank import Bank
from memkit.bank.policies import Policy
from memkit.bank.types import CompiledFrom, Entry, Hit, MemoryInfo, Message, Receipt

__all__ = ["Bank", "CompiledFrom", "Entry", "Hit", "MemoryInfo", "Message", "Policy", "Receipt"]
