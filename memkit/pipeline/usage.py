"""How often memories are asked, counted in memory and written now and then: an answer waits for no disk."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict

from memkit.bank import Bank
from memkit.errors import BankError

EVERY_QUESTIONS, EVERY_SECONDS = 64, 60.0  # between two writes


class Usage:
    """Counts of one process for one bank. A count that cannot be written is dropped: it is only advice."""

    def __init__(self, bank: Bank) -> None:
        self._bank = bank
        self._counts = defaultdict[str, Counter[str]](Counter)
        self._written = time.monotonic()
        self._lock = threading.Lock()

    def note(self, tenant: str, memory_id: str) -> None:
        """Count one question that a memory answered."""
        with self._lock:
            self._counts[tenant][memory_id] += 1
            waiting = sum(map(Counter.total, self._counts.values()))
        if waiting >= EVERY_QUESTIONS or time.monotonic() - self._written >= EVERY_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what was counted."""
        with self._lock:
            counts, self._counts = self._counts, defaultdict(Counter)
            self._written = time.monotonic()
        for tenant, each in counts.items():
            try:
                self._bank.count_asked(tenant, each)
            except BankError:  # read-only, full or busy
                continue
