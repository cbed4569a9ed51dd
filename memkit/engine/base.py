"""The interface between memkit and the engine that runs the frozen model."""

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
    """An attached artifact, which occupies ``tokens`` positions in front of the question.

    A ``lora`` artifact changes the model instead: it occupies none, and the prompt is the one without memory.
    """

    artifact_id: str
    tokens: int


@dataclass(frozen=True)
class Request:
    """One question, after an artifact (``handle``), a ``context`` text or neither.

    The prompt is: header, artifact or context, ``system``, ``history``, ``question``. Raises `ConfigError`
    for invalid values and for a handle together with a context.
    """

    question: str
    handle: Handle | None = None
    context: str | None = None
    max_tokens: int = 64  # of the answer
    temperature: float = 0.0  # 0 decodes greedily
    seed: int = 0  # of sampling
    history: tuple[tuple[str, str], ...] = ()  # earlier questions with their answers, oldest first
    system: str = ""  # instructions

    def __post_init__(self) -> None:
        if self.handle is not None and self.context is not None:
            raise ConfigError("a request takes a handle or a context, not both")
        if self.max_tokens < 1:
            raise ConfigError(f"max_tokens must be at least 1, got {self.max_tokens}")
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature must be from 0 on, got {self.temperature}")

    @property
    def follows(self) -> bool:
        """Whether the question follows a context in the prompt, or an artifact in its place."""
        return self.context is not None or (self.handle is not None and self.handle.tokens > 0)


@dataclass(frozen=True)
class Completion:
    """An answer with its token counts and times."""

    text: str
    tokens: int
    prompt_tokens: int  # positions in front of the answer, including the artifact's
    ttft_ms: float  # time to first token
    total_ms: float
    stopped: bool = True  # False: cut off by ``max_tokens`` or by the model's window


@dataclass(frozen=True)
class Score:
    """The first answer token's distribution, from one forward pass over the prompt.

    ``entropy`` is in nats; ``top_logprob`` and ``likely`` are the log-probability (nats) and the text of the
    most likely token. ``hidden``, ``[hidden]``, is the hidden state at the prompt's last position after the
    final norm.
    """

    entropy: float
    top_logprob: float
    likely: str
    hidden: tuple[float, ...] = ()


class Engine(Protocol):
    """Runs requests on one frozen base model. All methods are thread-safe."""

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
        """This engine on behalf of a tenant: what it caches for one tenant is never used for another."""

    def attach(self, artifact: Artifact) -> Handle:
        """Make an artifact ready until it is detached.

        Raises `FingerprintError` for another base model's artifact, `ArtifactError` for a malformed one and
        `EngineError` for a kind that the engine does not support.
        """

    def detach(self, handle: Handle) -> None:
        """Release an artifact, at the latest when its last `attached` context ends.

        A request with its handle then raises `EngineError`.
        """

    def attached(self, artifact: Artifact, keep: bool = True) -> AbstractContextManager[Handle]:
        """Attach an artifact for the duration of a context; concurrent uses share it. Raises like `attach`.

        With ``keep`` it stays ready for the next use, until it is evicted (least recently used first).
        """

    def discard(self, artifact_id: str) -> None:
        """Release a forgotten artifact at once, even while it is used."""

    def count_tokens(self, text: str) -> int:
        """The number of tokens of ``text``, without special tokens."""

    def prefilled(self, context: str) -> AbstractContextManager[None]:
        """Read a text once for all requests with this ``context`` in a block, if the engine does not see to
        that itself. Raises `ContextTooLongError` where it exceeds the window."""

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """Answer the requests, in order.

        Raises `ContextTooLongError` before the first answer if any prompt exceeds the window, `EngineError`
        for a handle that is not attached.
        """

    def stream(self, request: Request) -> Iterator[str | Completion]:
        """Yield one answer's text in pieces as it is generated, then its `Completion`.

        Closing the iterator stops the generation. Raises like `generate`.
        """

    def score(self, requests: Sequence[Request]) -> list[Score]:
        """The `Score` of each request, without answering it. Consecutive requests are batched."""

    def likelihood(self, requests: Sequence[Request], answers: Sequence[str]) -> list[float]:
        """The mean log-probability of each given answer, in nats per token, including its end token."""
