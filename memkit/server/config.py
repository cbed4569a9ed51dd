"""What the server may be told."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from memkit.config import expanded


@dataclass(frozen=True)
class ServerConfig:
    """One server: which bank, which model, and how much a caller may ask of it.

    ``rate`` counts requests of one key in a minute; ``max_body`` is in bytes, ``answer_timeout`` in seconds,
    ``max_tokens`` the most that an answer may have. ``answers`` are given at once, others wait for their
    turn; ``users`` are kept ready. With ``compile`` documents are compiled in the background as they come,
    up to ``queue`` waiting ones of a tenant; ``keep`` versions of each are kept. ``origins`` are the web
    pages of other hosts that may call (CORS). ``metrics_token`` opens ``/metrics``, which is closed without
    one. ``reports`` is a folder with the JSON files of evaluations. ``upstream`` is the base URL of an
    OpenAI-compatible server, such as ``http://127.0.0.1:8000/v1``, that answers in place of a model here;
    ``upstream_key`` is what it asks for, ``context_tokens`` the most that a memory's text may add to its
    prompt.
    """

    home: Path
    model: str = "nano"
    database: str | None = None
    artifacts: str | None = None
    compiler: str = "lcc"
    options: Mapping[str, Any] = field(default_factory=dict)
    embedder: str | None = None
    gate: str = "auto"
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
    metrics_token: str | None = None
    reports: Path | None = None
    upstream: str | None = None
    upstream_key: str | None = field(default=None, repr=False)
    context_tokens: int = 1024

    def __post_init__(self) -> None:
        for name in ("home", "reports"):
            if (path := getattr(self, name)) is not None:
                object.__setattr__(self, name, expanded(path))
        for name in ("rate", "max_body", "max_tokens", "answers", "users", "queue", "keep", "context_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be in [0, 65535], got {self.port}")
        if not self.answer_timeout > 0:
            raise ValueError(
                f"answer_timeout must be a positive number of seconds, got {self.answer_timeout}"
            )
        if self.metrics_token is not None and len(self.metrics_token) < 16:
            raise ValueError("metrics_token must have at least 16 characters")
        given = [("origins (--origin)", url) for url in self.origins]
        given += [("upstream (--upstream)", self.upstream)] if self.upstream else []
        for name, url in given:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.netloc:
                raise ValueError(f"{name} takes addresses that begin with http:// or https://, got {url!r}")

    @property
    def compiles(self) -> bool:
        """Whether what is remembered is compiled as it comes; for an upstream there is nothing to compile."""
        return self.compile and self.upstream is None

    @property
    def model_id(self) -> str:
        """The model's name for those who call: of a path only its last part."""
        name = os.path.basename(os.path.normpath(self.model)) if os.sep in self.model else self.model
        return self.model if self.model.count("/") == 1 and not Path(self.model).exists() else name
