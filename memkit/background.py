"""Compilations that nobody waits for."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


class Background:
    """One daemon thread that compiles memories in the order they came."""

    def __init__(self, work: Callable[[str], None]) -> None:
        self._work = work
        self._waiting: queue.Queue[str | None] = queue.Queue()
        self._thread: threading.Thread | None = None

    def add(self, memory_id: str) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="memkit-compile", daemon=True)
            self._thread.start()
        self._waiting.put(memory_id)

    def _run(self) -> None:
        while (memory_id := self._waiting.get()) is not None:
            try:
                self._work(memory_id)
            finally:
                self._waiting.task_done()
        self._waiting.task_done()

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
