"""Check the arguments of `memkit.Memory` before anything is opened."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from memkit.errors import ConfigError

_EMBEDDER = ("name", "dim", "passages", "question")
_ENGINE = ("fingerprint", "attached", "generate", "stream", "score")


def check_arguments(
    path: object,
    model: object,
    compiler: object,
    options: object,
    engine: object,
    keep: object,
    clock: object,
) -> None:
    """Raise `ConfigError` for the first argument of `memkit.Memory` that has the wrong type or range."""
    from memkit.bank import Bank

    if path is not None and not isinstance(path, str | os.PathLike | Bank):
        raise ConfigError(f"path is a bank or its folder, got {path!r:.80}")
    if not (model is None or isinstance(model, str) or hasattr(model, "fingerprint")):
        raise ConfigError(f"model is a model's name or a loaded model, got {model!r:.80}")
    if compiler is not None and not isinstance(compiler, str):
        raise ConfigError(f"compiler is a compiler's name, got {compiler!r:.80}")
    if options is not None and not isinstance(options, Mapping):
        raise ConfigError(f"options are a mapping of names to values, got {options!r:.80}")
    if engine is not None:
        _require("engine", "an engine (see memkit.engine.base)", engine, _ENGINE)
    if keep is not None and (isinstance(keep, bool) or not isinstance(keep, int) or keep < 1):
        raise ConfigError(f"keep is a number of versions, at least 1, got {keep!r:.80}")
    if clock is not None and not callable(clock):
        raise ConfigError(f"clock is a function that returns the time, got {clock!r:.80}")


def check_embedder(embedder: Any) -> None:
    """Raise `ConfigError` for an object that is not an embedder."""
    _require("embedder", "an embedder's name or an embedder", embedder, _EMBEDDER)


def _require(what: str, wanted: str, given: Any, names: tuple[str, ...]) -> None:
    missing = [name for name in names if not hasattr(type(given), name) and name not in dir(given)]
    if missing:
        raise ConfigError(f"{what} is {wanted}, got {given!r:.80}")
