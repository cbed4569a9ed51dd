"""The memories behind `memkit.remember` and `memkit.ask`: those of one bank, which all users share."""

from __future__ import annotations

import os
import threading

from memkit.config import SETTINGS
from memkit.memory import Memory, default_home

_ABOUT = tuple(setting.variable for setting in SETTINGS)


class _Default:
    """The bank and the model that the environment names now; another one closes the one before."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._key: tuple[str | None, ...] = ()
        self._root: Memory | None = None

    def memory(self, user: str) -> Memory:
        """The user's memory."""
        key = (str(default_home()), *(os.environ.get(name) for name in _ABOUT))
        with self._lock:
            if self._root is None or key != self._key:
                made = Memory()
                if self._root is not None:
                    self._root.close()
                self._root, self._key = made, key
            root = self._root
        return root.for_user(user)


memory = _Default().memory
