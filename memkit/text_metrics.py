"""Scores of short answers, as defined by SQuAD, and confidence intervals."""

from __future__ import annotations

import math
import random
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
BOOTSTRAP = 1000  # resamplings

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """A text in lower case, without punctuation, articles and extra spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, golds: Sequence[str]) -> float:
    """1.0 when the normalised answer equals a gold answer."""
    return float(any(normalize_answer(answer) == normalize_answer(gold) for gold in golds))


def contains(answer: str, golds: Sequence[str]) -> float:
    """1.0 when the normalised answer contains a gold answer as whole words."""
    padded = f" {normalize_answer(answer)} "
    return float(any(f" {normalize_answer(gold)} " in padded for gold in golds if normalize_answer(gold)))


def f1(answer: str, golds: Sequence[str]) -> float:
    """The best token F1 over the gold answers."""
    return max(
        (_f1(normalize_answer(answer).split(), normalize_answer(gold).split()) for gold in golds), default=0.0
    )


def _f1(answer: list[str], gold: list[str]) -> float:
    common = sum((Counter(answer) & Counter(gold)).values())
    if not common:
        return float(answer == gold)
    precision, recall = common / len(answer), common / len(gold)
    return 2 * precision * recall / (precision + recall)


def rouge_l(answer: str, golds: Sequence[str]) -> float:
    """The best ROUGE-L F1 over the gold answers: by the longest common subsequence of words (Lin, 2004)."""
    return max(
        (_rouge_l(normalize_answer(answer).split(), normalize_answer(gold).split()) for gold in golds),
        default=0.0,
    )


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
    """The mean; None without values."""
    return sum(values) / len(values) if values else None


def wilson(right: float, total: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's interval of the proportion ``right / total``; 95 % with the default ``z``."""
    n, p = max(total, 1), right / max(total, 1)
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap(
    items: Sequence[T], statistic: Callable[[Sequence[T]], float | None], seed: int = 0
) -> tuple[float, float] | None:
    """The bootstrapped 95 % interval of a statistic of ``items``.

    None with fewer than two items, or if the statistic is None for most resamplings. ``seed`` draws them.
    """
    if len(items) < 2:
        return None
    rng = random.Random(seed)
    estimates = [statistic(rng.choices(items, k=len(items))) for _ in range(BOOTSTRAP)]
    values = sorted(value for value in estimates if value is not None)
    if len(values) < BOOTSTRAP // 2:
        return None
    return values[int(0.025 * len(values))], values[int(0.975 * len(values)) - 1]


def pooled_interval(groups: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """The bootstrapped 95 % interval of the mean of all values, resampling whole groups."""
    sums = [(sum(group), len(group)) for group in groups if group]
    return bootstrap(sums, lambda drawn: sum(s for s, _ in drawn) / sum(n for _, n in drawn))


def retention(score: float | None, none: float | None, full: float | None) -> float | None:
    """(score - none) / (full - none): the share of the context's benefit that is retained.

    None if a score is missing or the context has no benefit.
    """
    if score is None or none is None or full is None or full <= none:
        return None
    return (score - none) / (full - none)
