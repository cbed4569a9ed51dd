"""Embedders: texts to vectors whose inner product says how much of a question a passage covers."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from memkit import registry
from memkit.config import Config
from memkit.errors import ConfigError
from memkit.router.question import memory_words, question_text, weighted_words
from memkit.validation import check_embedder

Vectors = NDArray[np.float32]


class Embedder(Protocol):
    """Two sides, as a question and the passage that answers it need not look alike.

    ``dim`` is the width of both; a product of 1 means that the passage covers the whole question.
    A bank notes ``name`` beside its vectors: embedders of one name must agree in every vector.
    Below ``min_similarity`` a passage is not about the question, for a gate that is not calibrated.
    """

    @property
    def name(self) -> str:
        """Identifies the vectors, settings included."""

    @property
    def dim(self) -> int:
        """Width of a vector."""

    @property
    def min_similarity(self) -> float:
        """In [0, 1]."""

    @property
    def by_sentence(self) -> bool:
        """Whether single sentences get vectors of their own beside their chunk's."""

    def passages(self, texts: Sequence[str]) -> Vectors:
        """``[texts, dim]``, float32."""

    def question(self, text: str) -> Vectors:
        """``[dim]``, float32."""


class LexicalEmbedder:
    """Hashed words: needs no model, and no word is out of its vocabulary.

    A passage sets one cell per word (and per four-letter stem) to 1. A question spreads a weight of
    1 over its words (`memkit.router.question`); so the product is the share of the question that the
    passage mentions.
    """

    min_similarity = 0.3
    by_sentence = False  # a chunk shares more words with a question than any of its sentences

    def __init__(self, dim: int = 2048) -> None:
        if dim < 64:
            raise ConfigError(f"dim must be at least 64, got {dim}")
        self.dim = dim
        self.name = f"lexical:{dim}"

    def _cells(self, word: str) -> tuple[int, int]:
        stem = word if word[0].isupper() else word[:4]  # Will is not will
        return (zlib.crc32(b"w" + word.encode()) % self.dim, zlib.crc32(b"s" + stem.encode()) % self.dim)

    def passages(self, texts: Sequence[str]) -> Vectors:
        out = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in memory_words(text):
                out[row, list(self._cells(word))] = 1.0
        return out

    def question(self, text: str) -> Vectors:
        out = np.zeros(self.dim, dtype=np.float32)
        for word, weight in weighted_words(text):
            for cell in self._cells(word):
                out[cell] += weight
        total = float(out.sum())
        return out / total if total else out


class HybridEmbedder:
    """Words and meanings: names that no model has seen, and questions in other words than the text.

    Vectors are the two embedders' side by side, scaled so that a product is the weighted mean of
    their products: ``weight`` for the lexical one, the rest for the other.
    """

    by_sentence = True

    def __init__(self, meaning: Embedder, words: Embedder | None = None, weight: float = 0.4) -> None:
        if not 0.0 < weight < 1.0:
            raise ConfigError(f"weight must be in (0, 1), got {weight}")
        self._words: Embedder = words or LexicalEmbedder()
        self._meaning, self._weight = meaning, weight
        self.name = f"hybrid:{weight:g}:{self._words.name}+{meaning.name}"

    @property
    def dim(self) -> int:
        """Both widths together."""
        return self._words.dim + self._meaning.dim

    @property
    def min_similarity(self) -> float:
        """The weighted mean of both."""
        low = self._words.min_similarity, self._meaning.min_similarity
        return self._weight * low[0] + (1 - self._weight) * low[1]

    def passages(self, texts: Sequence[str]) -> Vectors:
        """``[texts, dim]``, float32."""
        return self._joined(self._words.passages(texts), self._meaning.passages(texts))

    def question(self, text: str) -> Vectors:
        """``[dim]``, float32."""
        return self._joined(self._words.question(text), self._meaning.question(question_text(text)))

    def _joined(self, words: Vectors, meaning: Vectors) -> Vectors:
        scaled = (words * self._weight**0.5, meaning * (1 - self._weight) ** 0.5)
        return np.concatenate(scaled, axis=-1, dtype=np.float32)


def lexical_embedder(argument: str = "") -> Embedder:
    """The embedder ``lexical``. Raises `ConfigError` for an ``argument``, of which it has none."""
    if argument:
        raise ConfigError(
            f"the embedder 'lexical' takes no model, got {argument!r:.80}; 'sentence' and 'hybrid' do"
        )
    return LexicalEmbedder()


def resolve_embedder(chosen: str | Embedder | None) -> Embedder:
    """An embedder, or the one of that name: ``lexical``, ``sentence``, ``hybrid``, the latter two also with
    a model (``sentence:MODEL``), or one that is registered under the entry-point group ``memkit.embedders``.
    None means that of `memkit.config.Config.load`.

    Raises `ConfigError` for an unknown name and for what is no embedder, `MissingExtraError` where the extra
    ``embed`` is needed and absent.
    """
    made: Any = Config.load().embedder if chosen is None else chosen
    if isinstance(made, str):
        name, _, argument = made.partition(":")
        made = registry.load(registry.EMBEDDERS, name)(argument)
    check_embedder(made)
    embedder: Embedder = made
    return embedder
