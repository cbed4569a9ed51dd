"""Split an answer into pieces while it is generated."""

from __future__ import annotations

from dataclasses import dataclass

INCOMPLETE = "\ufffd"  # the end of a decoded text whose last character's bytes are not complete


@dataclass
class IncrementalText:
    """Turns the decoded text of a growing answer into pieces; ``emitted`` is what they make up so far."""

    emitted: str = ""

    def piece(self, text: str, *, last: bool = False) -> str:
        """The part of ``text`` that was not emitted yet.

        Empty while ``text`` ends within a character, unless it is the ``last``.
        """
        if len(text) <= len(self.emitted) or (text.endswith(INCOMPLETE) and not last):
            return ""
        piece, self.emitted = text[len(self.emitted) :], text
        return piece
