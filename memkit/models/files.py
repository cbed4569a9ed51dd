"""The files of models: what identifies them, and small records about them in memkit's cache."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from pathlib import Path
from typing import Any

from memkit.config import Config


def models_folder(cache: Path | None) -> Path:
    """The folder about models in the cache ``cache`` (default: `Config.cache`, else the platform's).

    Raises `OSError` where the platform's is not known: without a home folder, or within an SGLang server
    without platformdirs.
    """
    if cache is not None:
        return cache / "models"
    try:
        if (folder := Config.load().cache) is None:
            from platformdirs import user_cache_path

            folder = user_cache_path("memkit", appauthor=False).expanduser()
    except (ImportError, RuntimeError) as error:
        raise OSError(f"no folder for caches is known ({error}); set MEMKIT_CACHE") from error
    return folder / "models"


def stamp(path: Path) -> list[int]:
    """What tells in microseconds that a file was changed: size (bytes), times of modification and of change
    (ns) and inode; symlinks are followed.

    A change is missed only if all of these stay: written within the resolution of the file system's clock
    (milliseconds), or with the clock set back. Raises `OSError` for a file that is not there.
    """
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def sha256(path: Path) -> str:
    """SHA-256, in hex, of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_record(path: Path) -> dict[str, Any]:
    """A record; empty where there is none, or something else in its place."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Replace a record atomically; of concurrent writers the last one wins. Raises `OSError`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        with temporary.open("x", encoding="utf-8") as file:
            json.dump(record, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
