"""Names of models that are files or folders. Importable without torch."""

from __future__ import annotations

import os
from pathlib import Path

from memkit.config import expanded
from memkit.errors import ModelError

GGUF = ".gguf"


def local_path(name: str) -> Path | None:
    """The GGUF file or the folder that a model's name stands for; None for any other name.

    Raises `ModelError` for a path where nothing is.
    """
    path = expanded(name)
    if path.suffix.lower() == GGUF:
        if not path.is_file():
            raise ModelError(f"there is no GGUF file at {path}")
        return path
    if path.is_dir():
        return path
    if os.path.isabs(path) or name.startswith((f".{os.sep}", f"..{os.sep}")):  # no name of a hub's
        raise ModelError(f"there is no folder with a model at {path}")
    return None
