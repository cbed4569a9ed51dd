"""Texts at which an answer ends, looked for in a stream of pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopSequences:
    """Lets text through until one of the ``stops`` begins; what may be the start of one waits."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops, self._held, self.stopped = stops, "", False

    @property
    def waiting(self) -> bool:
        return bool(self._held) and not self.stopped

    def take(self, piece: str) -> str:
        """What of a piece, and of what waited, is sure to be part of the answer."""
        if self.stopped:
            return ""
        text = self._held + piece
        places = [at for stop in self._stops if (at := text.find(stop)) >= 0]
        if places:
            self._held, self.stopped = "", True
            return text[: min(places)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def rest(self) -> str:
        """What waited and turned out to be no stop."""
        text, self._held = self._held, ""
        return text


def _overlap(text: str, stop: str) -> int:
    """How much of the text's end is the beginning of a stop."""
    return next((n for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])), 0)
