"""Count how often memories are asked; counts are written in batches, so that no answer waits for the disk."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict

from memkit.bank import Bank
from memkit.errors import BankError

FLUSH_QUESTIONS, FLUSH_SECONDS = 64, 60.0  # between two writes


class Usage:
    """One process's counts for one bank. A count that cannot be written is dropped: it is only advice."""

    def __init__(self, bank: Bank) -> None:
        self._bank = bank
        self._counts = defaultdict[str, Counter[str]](Counter)
        self._written = time.monotonic()
        self._lock = threading.Lock()

    def note(self, tenant: str, memory_id: str) -> None:
        """Count one question that a memory answered."""
        with self._lock:
            self._counts[tenant][memory_id] += 1
            unwritten = sum(map(Counter.total, self._counts.values()))
        if unwritten >= FLUSH_QUESTIONS or time.monotonic() - self._written >= FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write the counts to the catalog."""
        with self._lock:
            counts, self._counts = self._counts, defaultdict(Counter)
            self._written = time.monotonic()
        for tenant, questions in counts.items():
            try:
                self._bank.count_asked(tenant, questions)
            except BankError:  # the catalog is read-only, full or busy
                continue
