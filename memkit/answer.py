"""Answers with their traces, complete or streamed."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Self

from memkit.bank import Entry
from memkit.document import Span
from memkit.errors import EngineError
from memkit.router.gate import Route
from memkit.router.types import CandidateTrace


@dataclass(frozen=True)
class Part:
    """A part of a memory that the model read, as its ``artifact`` or as ``text``.

    ``span`` are characters of the memory's source. A text part of a running memory is one entry: ``speaker``
    and ``said`` tell who said it and when, and ``compiled`` whether the artifact includes it.
    """

    form: Literal["artifact", "text"]
    span: Span
    speaker: str | None = None
    said: datetime | None = None
    compiled: bool = False


@dataclass(frozen=True)
class Trace:
    """How an answer came about.

    ``route`` is latent (from the artifact), text or none; ``reason`` is the gate's. ``gate`` is the name of
    the gate and ``calibrated`` says whether its thresholds are calibrated; ``margin`` is the distance of the
    deciding value from its threshold. ``candidates`` are all memories that were considered, in search order.
    ``memory_id``, ``artifact_id`` and ``version`` are those that were used. ``spans`` are characters of the
    memory's source. ``probes`` is the number of one-token requests before the answer.

    ``prompt_tokens`` includes the artifact's positions; ``completion_tokens`` is the answer's length.
    ``stopped`` says that the model ended the answer before the limit of tokens. ``route_ms`` are the
    milliseconds of routing, ``ttft_ms`` those from there to the first token and ``total_ms`` to the last.
    ``notes`` are remarks. ``parts`` are the parts of the memory that the model read, and in which form.
    """

    question: str
    route: Route
    reason: str
    gate: str
    calibrated: bool
    margin: float | None
    candidates: tuple[CandidateTrace, ...]
    memory_id: str | None
    artifact_id: str | None
    version: int | None
    spans: tuple[Span, ...]
    probes: int
    prompt_tokens: int
    completion_tokens: int
    stopped: bool
    route_ms: float
    ttft_ms: float
    total_ms: float
    notes: tuple[str, ...] = ()
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True)
class Answer:
    """An answer, the route it took and its trace."""

    text: str
    route: Route
    trace: Trace = field(repr=False)


def parts_of(
    route: Route, spans: Sequence[Span], entries: Sequence[Entry], characters: int
) -> tuple[Part, ...]:
    """The parts of a memory that the model read on ``route``.

    ``spans`` were read as text. ``entries`` are those of a running memory, empty for a document.
    ``characters`` is the length of the source.
    """
    if route == "latent":
        compiled = [e for e in entries if e.compiled]
        span = Span(compiled[0].start, compiled[-1].end) if compiled else Span(0, characters)
        return (Part("artifact", span, compiled=True),)
    if route == "none":
        return ()
    if not entries:
        return tuple(Part("text", span) for span in spans)
    return tuple(
        Part("text", Span(e.start, e.end), e.speaker, e.said, e.compiled)
        for e in entries
        if any(span.start < e.end and e.start < span.end for span in spans)
    )


class Stream(Iterator[str]):
    """An answer while the model writes it: iterate over the pieces of its text, then read `answer`.

        >>> stream = memory.stream("Where does Simsem live?")
        >>> for piece in stream:
        ...     print(piece, end="", flush=True)
        >>> stream.answer.route

    The question is routed when the first piece is requested, so its errors are raised there. `close`, or
    leaving a ``with`` block, stops the model.
    """

    def __init__(self, parts: Iterator[str | Answer]) -> None:
        self._parts = parts
        self._answer: Answer | None = None
        self._error: Exception | None = None
        self._lock = threading.Lock()  # a piece goes to one of several readers

    def __next__(self) -> str:
        with self._lock:
            if self._answer is None:
                try:
                    for part in self._parts:
                        if isinstance(part, str):
                            return part
                        self._answer = part
                except Exception as error:
                    self._error = error
                    raise
        raise StopIteration

    @property
    def answer(self) -> Answer:
        """The complete answer with its trace; reads the rest of the stream first.

        Raises `EngineError` if the stream was closed before its end, and whatever iterating raises.
        """
        for _ in self:
            pass
        if self._error is not None:
            raise self._error
        if self._answer is None:
            raise EngineError("the stream was closed before the answer ended")
        return self._answer

    @property
    def finished(self) -> bool:
        """Whether the answer is complete."""
        return self._answer is not None

    def close(self) -> None:
        """Stop the model. A complete answer stays available."""
        close = getattr(self._parts, "close", None)
        if close is not None:
            with self._lock:
                close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
