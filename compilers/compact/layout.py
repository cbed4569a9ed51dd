"""How a text is read: in segments, each with its place in the model's window."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from memkit.compilers.compact.config import CompactConfig
from memkit.compilers.distillation.segments import MAX_QUESTION, MIN_SEGMENT, split_segments
from memkit.errors import CompileError
from memkit.models.loading import LoadedModel

ANSWER_TOKENS = 64  # room for an answer in the window
MIN_CHUNK = 128  # tokens; a text that leaves room to repeat that many is compiled in one segment


@dataclass(frozen=True)
class Size:
    """A segment's memory: ``rows`` of a head on average, in so many ``positions``."""

    rows: int
    positions: int

    @classmethod
    def of(cls, config: CompactConfig, tokens: int, before: int, last: bool) -> Size:
        """The memory of ``tokens`` tokens behind ``before`` positions.

        That of the last segment ends at a multiple of ``config.multiple``.
        """
        rows = math.ceil(tokens / config.ratio)
        positions = min(math.ceil(config.cap * rows), tokens) if config.form == "capped" else rows
        padding = -(before + positions) % config.multiple if last else 0
        positions += padding
        return cls(min(positions, tokens), positions)


@dataclass(frozen=True)
class Layout:
    """A text's ``segments``, each of which is read behind the memories of the earlier ones and repeated in
    chunks of ``chunk`` tokens behind itself."""

    segments: list[slice]
    chunk: int

    @classmethod
    def of(cls, base: LoadedModel, config: CompactConfig, tokens: int) -> Layout:
        """As few segments of equal size as fit the window, with a repeated chunk, and leave room for a
        question in the end.

        Raises `CompileError` for a text that is too short for a single position or too long for the window.
        """
        if not tokens:
            raise CompileError("the document has no tokens")
        if config.ratio > tokens:
            raise CompileError(
                f"the document has {tokens:,} tokens; at {config.ratio:g}x nothing of it would be kept. "
                "Choose a lower ratio"
            )
        header = len(base.chat.header)
        room = base.window - len(base.chat.tail) - MAX_QUESTION - ANSWER_TOKENS  # of header and memory
        if header + Size.of(config, tokens, header, True).positions <= room:  # else no layout fits
            for layout in cls._candidates(config, tokens, room - header):
                if layout._fits(config, header, room):
                    return layout
        multiple = f" in multiples of {config.multiple:,} positions" if config.multiple > 1 else ""
        raise CompileError(
            f"the document has {tokens:,} tokens, too many to compile at {config.ratio:g}x{multiple} for "
            f"{base.name}, which reads {base.window:,} at once. It stays answerable from its text; choose a "
            f"higher ratio{' or a smaller multiple' if multiple else ''}, or split it into several documents"
        )

    @classmethod
    def _candidates(cls, config: CompactConfig, tokens: int, room: int) -> Iterator[Layout]:
        """Layouts with more and more segments."""
        if tokens + min(tokens, MIN_CHUNK) <= room:
            yield cls([slice(0, tokens)], min(config.chunk, room - tokens))
        chunk, kept = min(config.chunk, room // 4), _kept(config)
        # Beside the memories of all others, even if none were rounded up, a segment n and its repeated chunk
        # have to fit: n + min(n, chunk) + kept · (tokens - n) ≤ room.
        spare = room - kept * tokens
        longest = spare / (2 - kept)
        if longest > chunk:
            longest = (spare - chunk) / (1 - kept) if kept < 1 else float(tokens)
        if chunk > 0 and longest > 0:
            for count in range(max(2, math.ceil(tokens / longest)), tokens // MIN_SEGMENT + 1):
                if count * math.ceil(kept * (tokens // count)) <= room:
                    yield cls(split_segments(tokens, math.ceil(tokens / count)), chunk)

    def _fits(self, config: CompactConfig, before: int, room: int) -> bool:
        """Whether every segment fits behind ``before`` positions and the earlier memories."""
        for number, cut in enumerate(self.segments, start=1):
            n = cut.stop - cut.start
            if before + n + min(n, self.chunk) > room:
                return False
            before += Size.of(config, n, before, number == len(self.segments)).positions
        return before <= room


def _kept(config: CompactConfig) -> float:
    """Positions of a memory for each token of the text."""
    return min(config.cap / config.ratio, 1.0) if config.form == "capped" else 1 / config.ratio
