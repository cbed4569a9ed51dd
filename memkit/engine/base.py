"""The seam between memkit and whatever runs the frozen model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from memkit.errors import ConfigError

if TYPE_CHECKING:
    from memkit.artifact.format import Artifact


@dataclass(frozen=True)
class Handle:
    """An artifact that an engine holds ready: ``tokens`` positions in front of the question.

    One that is part of the model (kind ``lora``) has none, and the question is phrased as without it.
    """

    artifact_id: str
    tokens: int


@dataclass(frozen=True)
class Request:
    """One question. In front of it stands an artifact (``handle``), a ``context`` text or nothing.

    ``history`` holds earlier questions with their answers, the latest last; they follow the memory, and
    the instructions ``system`` stand in front of them.
    """

    question: str
    handle: Handle | None = None
    context: str | None = None
    max_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0
    history: tuple[tuple[str, str], ...] = ()
    system: str = ""

    def __post_init__(self) -> None:
        if self.handle is not None and self.context is not None:
            raise ConfigError("a request takes a handle or a context, not both")
        if self.max_tokens < 1:
            raise ConfigError(f"max_tokens must be at least 1, got {self.max_tokens}")
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature must be from 0 on, got {self.temperature}")

    @property
    def follows(self) -> bool:
        """Whether the question follows a context in the prompt, or an artifact that stands for one."""
        return self.context is not None or (self.handle is not None and self.handle.tokens > 0)


@dataclass(frozen=True)
class Completion:
    """An answer. ``prompt_tokens`` counts the positions in front of it, artifact included.

    ``stopped``: the model ended it, and not ``max_tokens`` or its window.
    """

    text: str
    tokens: int
    prompt_tokens: int
    ttft_ms: float
    total_ms: float
    stopped: bool = True


@dataclass(frozen=True)
class Score:
    """What one forward pass says about a question before it is answered.

    ``entropy`` (nats) and ``top_logprob`` are those of the first answer token; ``likely`` is its text.
    ``hidden``, ``[hidden]``, is the state after the last layer and its norm at the prompt's last position,
    from which that token is predicted.
    """

    entropy: float
    top_logprob: float
    likely: str
    hidden: tuple[float, ...] = ()


class Engine(Protocol):
    """Runs requests on one frozen base model."""

    @property
    def fingerprint(self) -> str:
        """Identity of the base model; an artifact with another one is refused."""

    @property
    def model(self) -> str:
        """The base model's name."""

    @property
    def window(self) -> int:
        """Longest prompt plus answer, in tokens."""

    def for_tenant(self, tenant: str) -> Engine:
        """This engine in the name of a tenant: what it caches for one is never used for another."""

    def attach(self, artifact: Artifact) -> Handle:
        """Make an artifact ready. Raises `FingerprintError` for another model's, `ArtifactError` for one
        that is not sound and `EngineError` for a kind that the engine cannot attach."""

    def detach(self, handle: Handle) -> None:
        """Release what was attached, once nobody uses it by `attached`; a request that names it afterwards
        raises `EngineError`."""

    def attached(self, artifact: Artifact, keep: bool = True) -> AbstractContextManager[Handle]:
        """An artifact for as long as it is used, by as many at once as there are. Raises as `attach`.

        With ``keep`` it then stays ready for the next one, until others that are used more push it out.
        """

    def discard(self, artifact_id: str) -> None:
        """Release an artifact that is forgotten, whoever uses it."""

    def count_tokens(self, text: str) -> int:
        """Tokens of ``text``, special tokens left out."""

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Answer the requests, in order. Raises `ContextTooLongError` before any work is done."""

    def stream(self, request: Request) -> Iterator[str | Completion]:
        """The pieces of one answer as they come, then its completion, whose text they make up.

        Closing the iterator ends the work. Raises as `generate`.
        """

    def score(self, requests: Sequence[Request]) -> list[Score]:
        """Read the requests without answering them; those of one memory that follow each other at once."""

    def likelihood(self, requests: Sequence[Request], answers: Sequence[str]) -> list[float]:
        """Mean log-probability (nats per token, its end included) of each given answer."""
