"""Which engine answers: the one in this process, or SGLang servers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from memkit.config import Config
from memkit.errors import ConfigError
from memkit.models.names import local_path

if TYPE_CHECKING:
    from memkit.engine.sglang.engine import SGLangEngine
    from memkit.engine.transformers.engine import TransformersEngine


def create_engine(config: Config) -> SGLangEngine | None:
    """The engine that ``config.engine`` names; None for the embedded engine, which is loaded when needed.

    No server is contacted yet. The caller closes an SGLang engine. Raises `ConfigError` if URLs or the secret
    are missing, `ModelError` if the tokenizer cannot be loaded.
    """
    return create_sglang_engine(config) if config.engine == "sglang" else None


def create_local_engine(config: Config) -> TransformersEngine:
    """The embedded engine with its model: it compiles, and answers unless another engine does.

    Raises `ModelError` for a model that cannot be loaded.
    """
    local_path(config.model)  # a missing file is told before torch is imported, which takes seconds
    from memkit.engine.transformers.engine import TransformersEngine
    from memkit.models.loading import load, quiet_libraries

    if config.quiet:
        quiet_libraries()
    base = load(config.model, dtype=config.dtype, checkpoints=config.checkpoints, cache=config.cache)
    return TransformersEngine(base)


def create_sglang_engine(config: Config) -> SGLangEngine:
    """An engine over the servers at ``config.sglang_urls``, whatever ``config.engine`` says."""
    from memkit.engine.sglang.engine import SGLangEngine
    from memkit.engine.sglang.plugin.header import read_secret
    from memkit.engine.sglang.workers import SGLangConfig

    if not config.sglang_urls:
        raise ConfigError("the engine sglang needs the servers' addresses: --url, or MEMKIT_SGLANG_URLS")
    try:
        servers = SGLangConfig(config.sglang_urls, api_key=config.sglang_api_key or "")
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return SGLangEngine(servers, config.model, secret=read_secret(secret_file(config)))


def secret_file(config: Config) -> Path:
    """The file with the bank's secret: ``config.sglang_secret``, or the one that memkit sglang-args made."""
    from memkit.engine.sglang.plugin.header import SECRET
    from memkit.engine.sglang.plugin.server_args import FOLDER

    return config.sglang_secret or config.home / FOLDER / SECRET
