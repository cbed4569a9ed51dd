"""Embedders: texts to vectors whose inner product says how much of a question a passage covers."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]

_WORD = re.compile(r"\w+(?:-\w+)*")
_STOP = frozenset(
    "a an and are as at be been by can could did do does for from had has have he her here him his how i in "
    "is it its know like me my named no not of on or our please she should so tell than that the their them "
    "there they this to us was we were what when where which who whom whose why will with would write you "
    "your called name about question answer text".split()
)


class Embedder(Protocol):
    """Two sides, as a question and the passage that answers it need not look alike.

    ``dim`` is the width of both; a product of 1 means that the passage covers the whole question.
    """

    name: str
    dim: int

    def passages(self, texts: Sequence[str]) -> Vectors:
        """``[texts, dim]``, float32."""

    def question(self, text: str) -> Vectors:
        """``[dim]``, float32."""


class LexicalEmbedder:
    """Hashed words: needs no model, and no word is out of its vocabulary.

    A passage sets one cell per word (and per four-letter stem) to 1. A question spreads a weight of
    1 over its words, names and numbers counting three times; so the product is the share of the
    question that the passage mentions.
    """

    name = "lexical"

    def __init__(self, dim: int = 2048) -> None:
        if dim < 64:
            raise ValueError(f"dim must be at least 64, got {dim}")
        self.dim = dim

    def _cells(self, word: str) -> tuple[int, int]:
        lower = word.lower()
        return (
            zlib.crc32(b"w" + lower.encode()) % self.dim,
            zlib.crc32(b"s" + lower[:4].encode()) % self.dim,
        )

    def passages(self, texts: Sequence[str]) -> Vectors:
        out = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in _WORD.findall(text):
                out[row, list(self._cells(word))] = 1.0
        return out

    def question(self, text: str) -> Vectors:
        out = np.zeros(self.dim, dtype=np.float32)
        for match in _WORD.finditer(text):
            word = match.group()
            if word.lower() in _STOP or len(word) < 2:
                continue
            special = word[0].isupper() or any(c.isdigit() for c in word)
            for cell in self._cells(word):
                out[cell] += 3.0 if special else 1.0
        total = float(out.sum())
        return out / total if total else out
