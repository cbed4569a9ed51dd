"""Scores of short answers, as SQuAD defines them, and intervals."""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower case, without punctuation, articles and extra spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, golds: Sequence[str]) -> float:
    """1.0 when the normalised answer equals a gold answer."""
    return float(any(normalise(answer) == normalise(gold) for gold in golds))


def contains(answer: str, golds: Sequence[str]) -> float:
    """1.0 when the normalised answer contains a gold answer as whole words."""
    padded = f" {normalise(answer)} "
    return float(any(f" {normalise(gold)} " in padded for gold in golds if normalise(gold)))


def f1(answer: str, golds: Sequence[str]) -> float:
    """Best token F1 over the gold answers."""
    return max((_f1(normalise(answer).split(), normalise(gold).split()) for gold in golds), default=0.0)


def _f1(answer: list[str], gold: list[str]) -> float:
    common = sum((Counter(answer) & Counter(gold)).values())
    if not common:
        return float(answer == gold)
    precision, recall = common / len(answer), common / len(gold)
    return 2 * precision * recall / (precision + recall)


def rouge_l(answer: str, golds: Sequence[str]) -> float:
    """Best ROUGE-L F1 over the gold answers: by the longest common subsequence of words (Lin, 2004)."""
    return max((_rouge_l(normalise(answer).split(), normalise(gold).split()) for gold in golds), default=0.0)


def _rouge_l(answer: list[str], gold: list[str]) -> float:
    if not answer or not gold:
        return float(answer == gold)
    lengths = [0] * (len(gold) + 1)
    for word in answer:
        diagonal = 0
        for i, other in enumerate(gold, start=1):
            diagonal, lengths[i] = (
                lengths[i],
                diagonal + 1 if word == other else max(lengths[i], lengths[i - 1]),
            )
    common = lengths[-1]
    return 2 * common / (len(answer) + len(gold))


def mean(values: Sequence[float]) -> float | None:
    """The mean, or None of nothing."""
    return sum(values) / len(values) if values else None


def wilson(right: float, total: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    n, p = max(total, 1), right / max(total, 1)
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def retention(score: float | None, none: float | None, full: float | None) -> float | None:
    """(score - none) / (full - none): what is left of the context's worth."""
    if score is None or none is None or full is None or full <= none:
        return None
    return (score - none) / (full - none)
