"""The pieces of an answer whose text grows."""

from __future__ import annotations

from dataclasses import dataclass

UNFINISHED = "\ufffd"  # ends a text whose last character's bytes are not all there


@dataclass
class IncrementalText:
    """What was ``said`` so far."""

    said: str = ""

    def more(self, text: str, *, last: bool = False) -> str:
        """What a longer ``text`` adds; "" until its end is a whole character, unless it is the ``last``."""
        if len(text) <= len(self.said) or (text.endswith(UNFINISHED) and not last):
            return ""
        piece, self.said = text[len(self.said) :], text
        return piece
