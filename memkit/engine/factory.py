"""Which engine answers: the one in this process, or SGLang servers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from memkit.config import path_of
from memkit.engine.base import Engine
from memkit.errors import ConfigError

if TYPE_CHECKING:
    from memkit.engine.sglang.engine import SGLangEngine

EngineName = Literal["transformers", "sglang"]
# Where a choice is not made in words: MEMKIT_ENGINE, MEMKIT_SGLANG_URLS (a comma between two),
# MEMKIT_SGLANG_SECRET (a file, where it is not the bank's own) and MEMKIT_SGLANG_API_KEY.


def create_engine(
    name: str | None, model: str, urls: Sequence[str] = (), *, home: Path | None = None
) -> Engine | None:
    """The engine of that name, for a model and the bank at ``home``; None for the one in this process.

    What is not given is taken from the environment; a URL that is given chooses SGLang. The caller closes an
    engine of SGLang. Raises `ConfigError` for what does not fit together.
    """
    name = name or ("sglang" if urls else os.environ.get("MEMKIT_ENGINE")) or "transformers"
    if name not in get_args(EngineName):
        raise ConfigError(f"the engine is one of {', '.join(get_args(EngineName))}, not {name!r:.40}")
    if name == "sglang":
        return create_sglang_engine(model, urls, home=home)
    if urls:
        raise ConfigError("--url belongs to the engine sglang")
    return None


def create_sglang_engine(model: str, urls: Sequence[str] = (), *, home: Path | None = None) -> SGLangEngine:
    """An engine over the servers at these URLs (default: MEMKIT_SGLANG_URLS); see `create_engine`."""
    from memkit.engine.sglang.engine import SGLangEngine
    from memkit.engine.sglang.plugin.header import read_secret
    from memkit.engine.sglang.workers import SGLangConfig, urls_of

    found = tuple(urls) or urls_of(os.environ.get("MEMKIT_SGLANG_URLS", ""))
    if not found:
        raise ConfigError("the engine sglang needs the servers' addresses: --url, or MEMKIT_SGLANG_URLS")
    try:
        config = SGLangConfig(found, api_key=os.environ.get("MEMKIT_SGLANG_API_KEY", ""))
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return SGLangEngine(config, model, secret=read_secret(secret_file(home)))


def secret_file(home: Path | None) -> Path:
    """The file with the bank's secret: MEMKIT_SGLANG_SECRET, or the one that memkit sglang-args made."""
    from memkit.engine.sglang.plugin.header import SECRET
    from memkit.engine.sglang.plugin.server_args import FOLDER

    if named := path_of("MEMKIT_SGLANG_SECRET"):
        return named
    if home is None:
        raise ConfigError("name the bank, or the file of its secret with MEMKIT_SGLANG_SECRET")
    return home / FOLDER / SECRET
