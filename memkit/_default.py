"""The memory behind `memkit.remember` and `memkit.ask`: one bank and model, which all users share."""

from __future__ import annotations

import threading

from memkit.config import Config
from memkit.memory import Memory


class _Default:
    """The memory of the configuration as it is now. Where it has changed, the former one is closed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._config: Config | None = None
        self._root: Memory | None = None

    def memory(self, user: str) -> Memory:
        """The user's memory."""
        config = Config.load()
        with self._lock:
            if self._root is None or config != self._config:
                opened = Memory(config=config)
                if self._root is not None:
                    self._root.close()
                self._root, self._config = opened, config
            root = self._root
        return root.for_user(user)


memory = _Default().memory
