"""Stop sequences: texts at which an answer ends, in a stream of pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopSequences:
    """Passes a stream of text on until the first of ``stops``.

    Text that may be the start of a stop sequence is held back until the next piece. ``stopped`` says
    whether a stop sequence occurred.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops, self._pending, self.stopped = stops, "", False

    @property
    def waiting(self) -> bool:
        """Whether text is held back."""
        return bool(self._pending) and not self.stopped

    def take(self, piece: str) -> str:
        """Add a piece; returns the text that is certain to be part of the answer."""
        if self.stopped:
            return ""
        text = self._pending + piece
        positions = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if positions:
            self._pending, self.stopped = "", True
            return text[: min(positions)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._pending = text[len(text) - keep :]
        return text[: len(text) - keep]

    def rest(self) -> str:
        """The text still held back, once the stream has ended."""
        text, self._pending = self._pending, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of ``text`` that is a proper start of ``stop``."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
