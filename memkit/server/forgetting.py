"""Forgetting at a door: all that a user has, or a text wherever it stands in a memory."""

from __future__ import annotations

from memkit.bank import Receipt
from memkit.bank.owners import Owner
from memkit.document import Span
from memkit.errors import NotFoundError
from memkit.memory import Memory


def owners_of(memory: Memory) -> list[str]:
    """What the bank calls a user, and all namespaces of stores beneath them."""
    beneath = [name for name in memory.bank.tenants() if name.startswith(memory.whose.namespaces)]
    return [memory.owner, *beneath]


def forget_all(memory: Memory) -> list[Receipt]:
    """Forget everything that a user has, in the namespaces of stores, too."""
    receipts = list[Receipt]()
    for name in owners_of(memory):
        receipts += memory.of(Owner.of(name)).forget(compile=False)
    return receipts


def forget_matching(memory: Memory, memory_id: str, text: str) -> list[Receipt]:
    """Forget a text wherever it stands in a memory. Raises `NotFoundError` where it does not."""
    source, spans, at = memory.bank.source(memory.owner, memory_id).text, list[Span](), 0
    while (at := source.find(text, at)) >= 0:
        spans.append(Span(at, at + len(text)))
        at += len(text)
    if not spans:
        raise NotFoundError(f"memory {memory_id} does not hold that text")
    return memory.forget(memory_id, spans=spans, compile=False)
