"""Compilations that nobody waits for."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable


class Background:
    """One daemon thread that compiles memories in the order they came."""

    def __init__(self, work: Callable[[str], None]) -> None:
        self._work = work
        self._waiting: queue.Queue[tuple[str, float] | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._oldest = 0.0  # when what is worked on was added; 0 while nothing is

    def add(self, memory_id: str) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="memkit-compile", daemon=True)
            self._thread.start()
        self._waiting.put((memory_id, time.monotonic()))

    def _run(self) -> None:
        while (waiting := self._waiting.get()) is not None:
            memory_id, self._oldest = waiting
            try:
                self._work(memory_id)
            finally:
                self._oldest = 0.0
                self._waiting.task_done()
        self._waiting.task_done()

    def age(self) -> float:
        """Seconds since the oldest that is not done was added; 0 where all are."""
        added = self._oldest
        return time.monotonic() - added if added else 0.0

    def wait(self) -> None:
        self._waiting.join()

    def stop(self) -> None:
        """Forget what waits; the compilation that runs ends first."""
        while not self._waiting.empty():
            try:
                self._waiting.get_nowait()
            except queue.Empty:
                break
            self._waiting.task_done()
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()
            self._thread = None
