"""Answers with their traces, whole or as they are written."""

from __future__ import annotations

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
    """Something of a memory that the model had in front of it, as its ``artifact`` or as ``text``.

    Of a running memory a text part is one entry, and tells who said it and when; ``compiled``: the
    memory's artifact had seen it.
    """

    form: Literal["artifact", "text"]
    span: Span
    speaker: str | None = None
    said: datetime | None = None
    compiled: bool = False


@dataclass(frozen=True)
class Trace:
    """Why an answer is what it is.

    ``margin`` is how far the ``gate`` was from deciding otherwise; ``candidates`` are all that were
    weighed, best found first; ``spans`` are character spans of the memory's source. ``probes`` counts
    the passes of the model before the answer's own, ``route_ms`` the time of all that came before it.
    ``stopped``: the model ended its answer, and not the most tokens that were allowed.
    ``parts`` say what of the memory was in front of the model, and in which form.
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
    """The parts of an answer; ``entries`` are those of a running memory, ``spans`` what was read as text."""
    if route == "latent":
        seen = [e for e in entries if e.compiled]
        span = Span(seen[0].start, seen[-1].end) if seen else Span(0, characters)
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
    """An answer as it is written. Iterate for its text, piece by piece; `answer` has the whole and its trace.

        >>> stream = memory.stream("Where does Simsem live?")
        >>> for piece in stream:
        ...     print(piece, end="", flush=True)
        >>> stream.answer.route

    The first piece routes the question, so errors come with it. `close`, or leaving a ``with`` block, ends
    the work.
    """

    def __init__(self, parts: Iterator[str | Answer]) -> None:
        self._parts = parts
        self._answer: Answer | None = None

    def __next__(self) -> str:
        if self._answer is None:
            for part in self._parts:
                if isinstance(part, str):
                    return part
                self._answer = part
        raise StopIteration

    @property
    def answer(self) -> Answer:
        """The whole answer with its trace; what is not written yet is waited for.

        Raises `EngineError` where the stream was closed before its end, and what iterating raises.
        """
        for _ in self:
            pass
        if self._answer is None:
            raise EngineError("the stream was closed before the answer ended")
        return self._answer

    @property
    def finished(self) -> bool:
        """Whether the answer is complete."""
        return self._answer is not None

    def close(self) -> None:
        """End the work. An answer that is complete stays."""
        close = getattr(self._parts, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
