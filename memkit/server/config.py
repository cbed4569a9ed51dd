"""The configuration of the server."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from memkit.config import Config, expanded, without_password
from memkit.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class ServerConfig(Config):
    """One server: its bank, its model, and how much a caller may ask of it.

    ``host`` and ``port`` are where it listens (port 0: any that is free). ``rate`` counts requests of one key
    in a minute; ``max_body`` is in bytes, ``answer_timeout`` in seconds, ``max_tokens`` the longest answer.
    ``answers`` are generated at once, others wait for their turn; ``users`` are kept ready. With ``compile``
    documents are compiled in the background as they come, with at most ``queue`` waiting for each tenant;
    ``keep`` versions of each are kept. ``origins`` are the web pages of other hosts that may call (CORS).
    ``metrics_token`` opens ``/metrics``, which is closed without one. ``reports`` is a folder with the JSON
    files of evaluations. ``upstream`` is the base URL of an OpenAI-compatible server, such as
    ``http://127.0.0.1:8000/v1``, that answers in place of an engine; ``upstream_key`` is its API key,
    ``context_tokens`` the most tokens that a memory's text may add to its prompt.

    Raises `ConfigError` for a value that is out of range.
    """

    host: str = "127.0.0.1"
    port: int = 8377
    rate: int = 600
    max_body: int = 8 * 2**20
    answer_timeout: float = 120.0
    max_tokens: int = 1024
    answers: int = 64
    users: int = 256
    compile: bool = True
    queue: int = 1000
    keep: int = 5
    origins: tuple[str, ...] = ()
    reports: Path | None = None
    context_tokens: int = 1024

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reports is not None:
            object.__setattr__(self, "reports", expanded(self.reports))
        for name in ("rate", "max_body", "max_tokens", "answers", "users", "queue", "context_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port must be in [0, 65535], got {self.port}")
        if not self.answer_timeout > 0:
            raise ConfigError(
                f"answer_timeout must be a positive number of seconds, got {self.answer_timeout}"
            )
        if self.metrics_token is not None and len(self.metrics_token) < 16:
            raise ConfigError("metrics_token must have at least 16 characters")
        urls = [("origins (--origin)", url) for url in self.origins]
        urls += [("upstream (--upstream)", self.upstream)] if self.upstream else []
        for name, url in urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.netloc:
                raise ConfigError(
                    f"{name} takes addresses that begin with http:// or https://, got "
                    f"{without_password(url)!r}"
                )

    @property
    def compiles(self) -> bool:
        """Whether documents are compiled as they come; for an upstream there is nothing to compile."""
        return self.compile and self.upstream is None

    @property
    def model_id(self) -> str:
        """The model's name for those who call: of a path only its last part."""
        name = os.path.basename(os.path.normpath(self.model)) if os.sep in self.model else self.model
        return self.model if self.model.count("/") == 1 and not Path(self.model).exists() else name
