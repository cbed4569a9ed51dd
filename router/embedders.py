"""Embedders turn texts into vectors; an inner product says how much of a question a passage covers."""

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
    """Embeds questions and passages separately: a question need not look like the passage that answers it.

    The similarity of a question and a passage is the inner product of their vectors; 1 means that the
    passage covers the whole question.
    """

    @property
    def name(self) -> str:
        """Identifies the embedder and its settings.

        A bank stores it with the vectors: embedders of the same name must return the same vectors.
        """

    @property
    def dim(self) -> int:
        """The width of every vector."""

    @property
    def min_similarity(self) -> float:
        """The similarity, in [0, 1], below which an uncalibrated gate takes a passage to be unrelated."""

    @property
    def by_sentence(self) -> bool:
        """Whether sentences are embedded too, beside the chunks that contain them."""

    def passages(self, texts: Sequence[str]) -> Vectors:
        """The vectors of passages, float32 ``[text, dim]``."""

    def question(self, text: str) -> Vectors:
        """The vector of a question, float32 ``[dim]``."""


class LexicalEmbedder:
    """Embeds hashed words: needs no model and has no unknown words.

    A passage sets one cell per word, and one per four-letter stem, to 1. A question spreads a weight of
    1 over its words (`memkit.router.question`). Their product is the share of the question that the
    passage mentions. ``dim`` is the number of cells, at least 64; raises `ConfigError` for fewer.
    """

    min_similarity = 0.3
    by_sentence = False  # a chunk shares more words with a question than any of its sentences does

    def __init__(self, dim: int = 2048) -> None:
        if dim < 64:
            raise ConfigError(f"dim must be at least 64, got {dim}")
        self.dim = dim
        self.name = f"lexical:{dim}"

    def _cells(self, word: str) -> tuple[int, int]:
        stem = word if word[0].isupper() else word[:4]  # "Will" is not "will"
        return (zlib.crc32(b"w" + word.encode()) % self.dim, zlib.crc32(b"s" + stem.encode()) % self.dim)

    def passages(self, texts: Sequence[str]) -> Vectors:
        """The vectors of passages, float32 ``[text, dim]``."""
        out = np.zeros((len(texts), self.dim), dtype=np.float32)
        for row, text in enumerate(texts):
            for word in memory_words(text):
                out[row, list(self._cells(word))] = 1.0
        return out

    def question(self, text: str) -> Vectors:
        """The vector of a question, float32 ``[dim]``; its entries sum to 1."""
        out = np.zeros(self.dim, dtype=np.float32)
        for word, weight in weighted_words(text):
            for cell in self._cells(word):
                out[cell] += weight
        total = float(out.sum())
        return out / total if total else out


class HybridEmbedder:
    """Combines two embedders, one for words and one for meaning.

    Words match names that no model has seen; meaning matches questions that paraphrase the text. Vectors
    are concatenated and scaled so that a product is the weighted mean of both products. ``meaning`` embeds
    by meaning and ``words`` by words (default: `LexicalEmbedder`); ``weight``, in (0, 1), is that of
    ``words``. Raises `ConfigError` for another weight.
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
        """The sum of both widths."""
        return self._words.dim + self._meaning.dim

    @property
    def min_similarity(self) -> float:
        """The weighted mean of both thresholds."""
        low = self._words.min_similarity, self._meaning.min_similarity
        return self._weight * low[0] + (1 - self._weight) * low[1]

    def passages(self, texts: Sequence[str]) -> Vectors:
        """The vectors of passages, float32 ``[text, dim]``."""
        return self._concatenate(self._words.passages(texts), self._meaning.passages(texts))

    def question(self, text: str) -> Vectors:
        """The vector of a question, float32 ``[dim]``."""
        return self._concatenate(self._words.question(text), self._meaning.question(question_text(text)))

    def _concatenate(self, words: Vectors, meaning: Vectors) -> Vectors:
        scaled = (words * self._weight**0.5, meaning * (1 - self._weight) ** 0.5)
        return np.concatenate(scaled, axis=-1, dtype=np.float32)


def lexical_embedder(argument: str = "") -> Embedder:
    """The embedder ``lexical``. It takes no argument: raises `ConfigError` for a non-empty ``argument``."""
    if argument:
        raise ConfigError(
            f"the embedder 'lexical' takes no model, got {argument!r:.80}; 'sentence' and 'hybrid' do"
        )
    return LexicalEmbedder()


def resolve_embedder(choice: str | Embedder | None) -> Embedder:
    """The embedder that ``choice`` stands for: an embedder, or a name.

    Names are ``lexical``, ``sentence`` and ``hybrid``, the latter two also with a model
    (``sentence:MODEL``), and those that are registered under the entry-point group ``memkit.embedders``.
    None means the one in `memkit.config.Config.load`.

    Raises `ConfigError` for an unknown name and for an object that is not an embedder, `MissingExtraError`
    if the extra ``embed`` is needed and missing.
    """
    made: Any = Config.load().embedder if choice is None else choice
    if isinstance(made, str):
        name, _, argument = made.partition(":")
        made = registry.load(registry.EMBEDDERS, name)(argument)
    check_embedder(made)
    embedder: Embedder = made
    return embedder
