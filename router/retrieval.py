"""Candidate memories for a question, by similarity of their chunks and by the words that they share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from memkit.bank import Bank, Hit, MemoryInfo
from memkit.router.embedders import Embedder, LexicalEmbedder, Vectors
from memkit.router.question import memory_words, weighted_words

WIDTH = 4  # times as many memories are searched as are returned
AROUND = 240  # characters on either side of a chunk in which its words are counted
STEM = 4  # letters; a word with the same start counts half


@dataclass(frozen=True)
class Candidate:
    """A memory that may hold the answer.

    ``similarity`` is that of its best chunk, the ``hit``; ``overlap`` the share of the question's
    words in and around it. ``strength`` orders candidates: the mean of the similarity and of the
    overlap in words that the other candidates lack.
    """

    memory: MemoryInfo
    similarity: float
    overlap: float
    strength: float
    hit: Hit


def retrieve(
    bank: Bank,
    tenant: str,
    question: str,
    embedder: Embedder,
    *,
    memories: int = 8,
    vector: Vectors | None = None,
    within: str | None = None,
) -> list[Candidate]:
    """The tenant's best ``memories`` memories for a question (with its ``vector [dim]``), best first.

    With ``within`` only the memory of that id is looked at. Raises `NotFoundError` where there is none.
    """
    vector = embedder.question(question) if vector is None else vector
    if within is not None:
        within = bank.get(tenant, within).id
    hits = bank.search(tenant, vector, 1 if within else WIDTH * memories, within=within)
    texts = bank.excerpts(tenant, hits, AROUND)
    plain, telling = _overlaps(question, texts)
    if isinstance(embedder, LexicalEmbedder):  # what hashed words claim beyond the words there are is chance
        hits = [replace(hit, score=min(hit.score, share)) for hit, share in zip(hits, plain, strict=True)]
    strengths = [(hit.score + told) / 2 for hit, told in zip(hits, telling, strict=True)]
    order = sorted(range(len(hits)), key=lambda i: (-strengths[i], -hits[i].score, hits[i].memory_id))
    infos = bank.get_many(tenant, [hits[i].memory_id for i in order[:memories]])
    return [  # without what was forgotten in the meantime
        Candidate(infos[hits[i].memory_id], hits[i].score, plain[i], strengths[i], hits[i])
        for i in order[:memories]
        if hits[i].memory_id in infos
    ]


def _overlaps(question: str, texts: Sequence[str]) -> tuple[list[float], list[float]]:
    """Share of the question's words in each text: as they are, and weighted by rarity among the texts.

    Exact, where hashed vectors confuse some words.
    """
    asked = weighted_words(question)
    if not asked or not texts:
        return [0.0] * len(texts), [0.0] * len(texts)
    found = np.array([[_presence(word, bag, stems) for word, _ in asked] for bag, stems in _bags(texts)])
    weights = np.array([weight for _, weight in asked])
    rare = weights * np.log1p(len(texts) / (found >= 1).sum(0).clip(min=1))
    shares = [found @ w / w.sum() for w in (weights, rare)]
    return [float(x) for x in shares[0]], [float(x) for x in shares[1]]


def _bags(texts: Sequence[str]) -> list[tuple[frozenset[str], frozenset[str]]]:
    bags = [memory_words(text) for text in texts]
    return [(bag, frozenset(word[:STEM] for word in bag)) for bag in bags]


def _presence(word: str, bag: frozenset[str], stems: frozenset[str]) -> float:
    if word in bag:
        return 1.0
    return 0.5 if word[:STEM] in stems and not word[0].isupper() else 0.0  # Will is not will


def lead(ranked: Sequence[Candidate]) -> float:
    """How far the first is in front of the second, in strength; infinite where it is alone."""
    if len(ranked) < 2:
        return math.inf if ranked else 0.0
    return ranked[0].strength - ranked[1].strength
