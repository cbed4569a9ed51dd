"""Retrieve candidate memories for a question, by embedding similarity and by shared words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from memkit.bank import Bank, Hit, MemoryInfo
from memkit.router.embedders import Embedder, LexicalEmbedder, Vectors
from memkit.router.question import memory_words, weighted_words

OVERFETCH = 4  # the search ranks this many times more memories than are returned
CONTEXT_CHARACTERS = 240  # on either side of a chunk, in which words count too
STEM_LENGTH = 4  # letters; a word that shares only its stem counts half


@dataclass(frozen=True)
class Candidate:
    """A memory that may hold the answer.

    ``hit`` is its best chunk and ``similarity`` that chunk's. ``overlap`` is the share of the question's
    words in and around the chunk. ``strength`` orders candidates: the mean of the similarity and of an
    overlap in which words that other candidates lack weigh more.
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
    """The tenant's best memories for a question, best first.

    ``memories`` bounds their number. ``vector [dim]`` is the question's embedding, computed by ``embedder``
    if None. ``within`` is the id of the only memory to consider. Raises `NotFoundError` if it names none.
    """
    vector = embedder.question(question) if vector is None else vector
    if within is not None:
        within = bank.get(tenant, within).id
    hits = bank.search(tenant, vector, 1 if within else OVERFETCH * memories, within=within)
    texts = bank.excerpts(tenant, hits, CONTEXT_CHARACTERS)
    overlaps, distinctive = _overlaps(question, texts)
    if isinstance(embedder, LexicalEmbedder):  # a score above the true overlap comes from hash collisions
        hits = [replace(hit, score=min(hit.score, share)) for hit, share in zip(hits, overlaps, strict=True)]
    strengths = [(hit.score + share) / 2 for hit, share in zip(hits, distinctive, strict=True)]
    order = sorted(range(len(hits)), key=lambda i: (-strengths[i], -hits[i].score, hits[i].memory_id))
    infos = bank.get_many(tenant, [hits[i].memory_id for i in order[:memories]])
    return [  # without memories that were forgotten since the search
        Candidate(infos[hits[i].memory_id], hits[i].score, overlaps[i], strengths[i], hits[i])
        for i in order[:memories]
        if hits[i].memory_id in infos
    ]


def _overlaps(question: str, texts: Sequence[str]) -> tuple[list[float], list[float]]:
    """Share of the question's words in each text: plain, and weighted by rarity among the texts.

    Words are compared exactly; hashed vectors may confuse them.
    """
    weighted = weighted_words(question)
    if not weighted or not texts:
        return [0.0] * len(texts), [0.0] * len(texts)
    presence = np.array(
        [[_presence(word, bag, stems) for word, _ in weighted] for bag, stems in _bags(texts)]
    )  # [text, word]
    weights = np.array([weight for _, weight in weighted])
    rarity = weights * np.log1p(len(texts) / (presence >= 1).sum(0).clip(min=1))
    shares = [presence @ w / w.sum() for w in (weights, rarity)]
    return [float(x) for x in shares[0]], [float(x) for x in shares[1]]


def _bags(texts: Sequence[str]) -> list[tuple[frozenset[str], frozenset[str]]]:
    bags = [memory_words(text) for text in texts]
    return [(bag, frozenset(word[:STEM_LENGTH] for word in bag)) for bag in bags]


def _presence(word: str, bag: frozenset[str], stems: frozenset[str]) -> float:
    if word in bag:
        return 1.0
    return 0.5 if word[:STEM_LENGTH] in stems and not word[0].isupper() else 0.0  # "Will" is not "will"


def lead(ranked: Sequence[Candidate]) -> float:
    """The first candidate's strength minus the second's; infinite for a single one, 0 for none."""
    if len(ranked) < 2:
        return math.inf if ranked else 0.0
    return ranked[0].strength - ranked[1].strength
