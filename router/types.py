"""What the router knows about a question while it decides, and the result."""

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

    ``similarity`` and ``strength`` are those of `memkit.router.retrieval.Candidate`. ``probed`` says
    whether the model generated a token with its artifact in place. ``obstacle`` says why its artifact
    cannot be used: "" if it can, None if the router did not try to attach it. ``score`` is the
    probability that it is the right memory, None without a classifier. ``features`` maps names to
    values; the hidden state is left out.
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

    ``spans`` are the characters of the chosen memory that the request draws on. ``candidates`` are in
    search order. ``notes`` are remarks for the trace. ``probes`` are the one-token requests that were
    sent to the model. ``ms`` is the time that routing took, in milliseconds.
    """

    decision: Decision
    request: Request
    spans: tuple[Span, ...]
    candidates: tuple[CandidateTrace, ...]
    notes: tuple[str, ...]
    probes: tuple[Request, ...]
    ms: float


@dataclass
class RoutingState:
    """The working state of one question: its candidates and what is known about each of them.

    ``vector [dim]`` is the embedding of ``question``; ``max_tokens`` bounds the answer. ``ranked`` are the
    candidates, best first. ``stack`` keeps their artifacts attached until it is closed.

    The dictionaries are keyed by position in ``ranked``: ``handles`` has the attached artifact, or the
    reason why it could not be attached; ``probes`` the first token with it in place; ``calibrations`` the
    calibration of its compiler, None without one; ``scores`` the probability that it is the right memory.

    ``search_score`` is the best of these probabilities before any probe. ``notes`` are remarks for the
    trace. ``probe_requests`` are the one-token requests that were sent to the model.
    """

    question: str
    vector: Vectors
    max_tokens: int
    ranked: list[Candidate]
    stack: ExitStack
    handles: dict[int, Handle | str] = field(default_factory=dict)
    probes: dict[int, Probe] = field(default_factory=dict)
    calibrations: dict[int, Calibration | None] = field(default_factory=dict)
    scores: dict[int, float] = field(default_factory=dict)
    search_score: float = 0.0
    notes: list[str] = field(default_factory=list)
    probe_requests: list[Request] = field(default_factory=list)

    def obstacle(self, i: int) -> str:
        """Why candidate ``i`` cannot be used as an artifact, or ""."""
        handle = self.handles.get(i, "it was not looked at")
        return handle if isinstance(handle, str) else ""


class Ruling(NamedTuple):
    """A decision; with the route ``text`` also the ``text`` for the prompt, and the ``spans`` it is from."""

    decision: Decision
    text: str = ""
    spans: tuple[Span, ...] = ()
