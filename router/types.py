"""What is found out about a question on its way, and what comes of it."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import NamedTuple

from memkit.document import Span
from memkit.engine.base import Handle, Request
from memkit.router.calibration import Calibration
from memkit.router.embedders import Vectors
from memkit.router.features import Probe
from memkit.router.gate import Decision
from memkit.router.retrieval import Candidate


@dataclass(frozen=True)
class CandidateTrace:
    """A candidate as a trace shows it.

    ``obstacle`` says why its artifact could not be used ("" if it can, None if it was not looked at);
    ``features`` are named numbers, the hidden state left out; ``score`` is the probability that it is
    the right memory, where a scorer said so.
    """

    memory_id: str
    title: str
    similarity: float
    strength: float
    probed: bool
    obstacle: str | None
    score: float | None
    features: dict[str, float]


@dataclass(frozen=True)
class RoutingResult:
    """A decision and the request that carries it out.

    ``asked`` are the probes, requests of one token each; ``ms`` is what deciding took.
    """

    decision: Decision
    request: Request
    spans: tuple[Span, ...]
    considered: tuple[CandidateTrace, ...]
    notes: tuple[str, ...]
    asked: tuple[Request, ...]
    ms: float


@dataclass
class RoutingState:
    """One question's candidates with all that was found out about them; indices are theirs."""

    question: str
    vector: Vectors
    max_tokens: int
    ranked: list[Candidate]
    held: ExitStack  # what is attached for it, until that is closed
    handles: dict[int, Handle | str] = field(default_factory=dict)
    probes: dict[int, Probe] = field(default_factory=dict)
    calibrations: dict[int, Calibration | None] = field(default_factory=dict)
    scores: dict[int, float] = field(default_factory=dict)
    found: float = 0.0  # the best score of a candidate by the search alone
    notes: list[str] = field(default_factory=list)
    asked: list[Request] = field(default_factory=list)  # of the model, one token each

    def obstacle(self, i: int) -> str:
        handle = self.handles.get(i, "it was not looked at")
        return handle if isinstance(handle, str) else ""


class Ruling(NamedTuple):
    """A decision; with the route ``text`` also the ``text`` for the prompt, and the ``spans`` it is from."""

    decision: Decision
    text: str = ""
    spans: tuple[Span, ...] = ()
