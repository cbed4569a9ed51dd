"""Fit a calibration to observed questions.

A quarter of the documents is held out for the report. On the rest, thresholds are chosen by cross-fitting:
each question is scored by classifiers that were trained without its document. The final classifiers are
trained on all of the rest.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from memkit.errors import ConfigError
from memkit.router import features
from memkit.router.calibration import Thresholds
from memkit.router.classifier import Head

MAX_LOST = 0.02  # share of the answerable questions below `probe_from`, and below `none_below`
MIN_TEXT_RECALL = 0.96  # share of the answerable questions above `text_from`, if the others allow it
MAX_ARTIFACT_ERROR = 0.05  # share of wrong answers among those from artifacts
FOLDS = 5  # for cross-fitting; documents are assigned whole
MIN_QUESTIONS = 10  # of each class, answerable or not

Row = tuple[float, ...]


@dataclass(frozen=True)
class Observation:
    """One question, with the features of its candidates by their position.

    ``group`` identifies the document; its questions are never split. ``answerable`` says whether a memory
    answers the question; ``gold`` is the position of that memory, None without one or if the search missed
    it. ``search`` has the search features of every candidate; ``probes`` and ``comparisons`` the rows of
    `probe_features` and `comparison_features` of those that were probed. The router would probe
    ``contenders``. ``text`` are the features of a probe with the text of ``gold``, or of the first candidate
    without one. ``entropy``, in nats, is that of the first candidate's first token. ``latent_right`` says
    whether the gold artifact's answer was correct, None without an artifact.
    """

    group: str
    answerable: bool
    gold: int | None
    search: tuple[Row, ...]
    probes: dict[int, Row] = field(default_factory=dict)
    comparisons: dict[int, Row] = field(default_factory=dict)
    contenders: tuple[int, ...] = ()
    text: Row | None = None
    entropy: float | None = None
    latent_right: bool | None = None


def split_of(group: str) -> str:
    """Whether a document's questions are used to fit ("fit") or to report ("report")."""
    return ("fit", "fit", "fit", "report")[zlib.crc32(group.encode()) % 4]


def fold_of(group: str) -> int:
    """The fold of a document's questions, in [0, `FOLDS`); independent of `split_of`."""
    return zlib.crc32(f"fold {group}".encode()) % FOLDS


def fit_calibration(
    observed: Sequence[Observation], hidden: int, seed: int = 0
) -> tuple[dict[str, Head], Thresholds]:
    """Train the classifiers and choose the thresholds.

    ``hidden`` is the number of dimensions of the hidden state in the features; ``seed`` drives the split
    that selects the ridge. Raises `ConfigError` for fewer than `MIN_QUESTIONS` of either class.
    """
    yes = sum(o.answerable for o in observed)
    if min(yes, len(observed) - yes) < MIN_QUESTIONS:
        raise ConfigError(
            f"{yes} questions that a memory answers and {len(observed) - yes} that none does; at least "
            f"{MIN_QUESTIONS} of each are needed to calibrate"
        )
    training = [o for o in observed if split_of(o.group) == "fit"] or list(observed)
    pairs = list[tuple[Observation, Prediction]]()
    for fold in range(FOLDS):
        others = [o for o in training if fold_of(o.group) != fold] or training
        heads = _fit_heads(others, hidden, seed)
        pairs += [(o, predict(o, heads)) for o in training if fold_of(o.group) == fold and o.search]
    return _fit_heads(training, hidden, seed), _choose_thresholds(pairs)


def _fit_heads(observed: Sequence[Observation], hidden: int, seed: int) -> dict[str, Head]:
    search = [(row, o.answerable and i == o.gold) for o in observed for i, row in enumerate(o.search)]
    probes = [(row, o.answerable and i == o.gold) for o in observed for i, row in o.probes.items()]
    comparisons = [(row, o.answerable and i == o.gold) for o in observed for i, row in o.comparisons.items()]
    correctness = [
        (o.probes[o.gold], o.latent_right)
        for o in observed
        if o.gold in o.probes and o.gold is not None and o.latent_right is not None
    ]
    text = [(o.text, o.answerable) for o in observed if o.text is not None]
    probe_names = features.feature_names(hidden)
    training_sets = {
        "found": (features.SEARCH_FEATURES, search),
        "right": (probe_names, probes),
        "among": ((*probe_names, *features.GAIN_FEATURES), comparisons),
        "held": (probe_names, correctness),
        "text": (probe_names, text),
    }
    return {
        name: Head.fit(names, [row for row, _ in rows], [bool(label) for _, label in rows], seed)
        for name, (names, rows) in training_sets.items()
    }


@dataclass(frozen=True)
class Prediction:
    """What the classifiers predict for a question, with its labels ``answerable`` and ``latent_right``.

    ``search`` is the highest relevance of any candidate before a probe. Of the chosen candidate:
    ``relevance`` is the probability that it is the right memory, ``latent`` that its artifact answers
    correctly (None without an artifact), ``text`` that its text does.
    """

    answerable: bool
    search: float
    relevance: float
    latent: float | None
    text: float
    latent_right: bool


def predict(o: Observation, heads: dict[str, Head]) -> Prediction:
    """Rank the candidates as the router does, and predict for the best one."""
    scores = {i: heads["found"].probability(row) for i, row in enumerate(o.search)}
    search = max(scores.values())
    probed = [i for i in o.contenders if i in o.probes]
    head, rows = ("among", o.comparisons) if len(probed) > 1 else ("right", o.probes)
    scores |= {i: heads[head].probability(rows[i]) for i in probed}
    best = max(scores, key=lambda i: (scores[i], -i))
    correctness = heads["held"].probability(o.probes[best]) if best in probed else None
    return Prediction(
        o.answerable,
        search,
        scores[best],
        None if correctness is None else scores[best] * correctness,
        heads["text"].probability(o.text) if o.text is not None else scores[best],
        best == o.gold and bool(o.latent_right),
    )


def _choose_thresholds(pairs: Sequence[tuple[Observation, Prediction]]) -> Thresholds:
    observed, predictions = [o for o, _ in pairs], [p for _, p in pairs]
    probe_from = lower_bound([p.search for p in predictions if p.answerable])
    none_below = lower_bound([p.relevance for p in predictions if p.answerable])
    passed = [p for p in predictions if p.search >= probe_from and p.relevance >= none_below]
    text_from = best_threshold([p.text for p in passed], [p.answerable for p in passed], 0.5, MIN_TEXT_RECALL)
    latent_from = 1.0
    for point in sorted({p.latent for p in passed if p.latent is not None}, reverse=True):
        trusted = [p for p in passed if p.latent is not None and p.latent >= point]
        wrong = sum(not p.latent_right for p in trusted) / len(trusted)
        if wrong <= MAX_ARTIFACT_ERROR:
            latent_from = point
    entropies = [(-o.entropy, o.answerable) for o in observed if o.entropy is not None]
    limit = -best_threshold([e for e, _ in entropies], [a for _, a in entropies], -4.0)  # 4: the paper's λ
    values = (probe_from, none_below, latent_from, text_from, max(limit, 0.0))
    return Thresholds(*(math.floor(value * 1e4) / 1e4 for value in values))


def lower_bound(values: Sequence[float]) -> float:
    """The value that all but a share `MAX_LOST` reach; at most 0.5."""
    return min(sorted(values)[int(MAX_LOST * len(values))], 0.5) if values else 0.5


def best_threshold(
    values: Sequence[float], labels: Sequence[bool], otherwise: float, kept: float = 0.0
) -> float:
    """The threshold at which "value ≥ threshold" has the best balanced accuracy; the middle one of equals.

    ``values`` are scores, ``labels`` the truth. At least the share ``kept`` of the positive values must be
    above the threshold. With labels of one class only, returns ``otherwise``.
    """
    if not any(labels) or all(labels):
        return otherwise
    points = sorted(set(values))
    yes = sorted(value for value, label in zip(values, labels, strict=True) if label)
    highest = yes[min(int((1 - kept) * len(yes)), len(yes) - 1)]
    cuts = [cut for a, b in pairwise(points) if (cut := (a + b) / 2) <= highest] or points[:1]
    reached = [balanced_accuracy([v >= cut for v in values], labels) for cut in cuts]
    top = [cut for cut, value in zip(cuts, reached, strict=True) if value >= max(reached) - 1e-12]
    return top[len(top) // 2]


def balanced_accuracy(predicted: Sequence[bool], labels: Sequence[bool]) -> float:
    """Mean over both classes of the share that is predicted correctly; 0 without labels."""
    shares = [
        np.mean([p == truth for p, label in zip(predicted, labels, strict=True) if label is truth])
        for truth in (True, False)
        if truth in labels
    ]
    return float(np.mean(shares)) if shares else 0.0


def auroc(values: Sequence[float], labels: Sequence[bool]) -> float | None:
    """Probability that an answerable question scores above another; None with labels of one class only."""
    yes, no = ([v for v, label in zip(values, labels, strict=True) if label is w] for w in (True, False))
    if not yes or not no:
        return None
    a, b = np.asarray(yes)[:, None], np.asarray(no)[None]
    return float(np.mean((a > b) + 0.5 * (a == b)))


def risk_coverage_curve(
    observed: Sequence[Observation], heads: dict[str, Head]
) -> tuple[tuple[float, float], ...]:
    """Points (coverage, risk), at most 50, from the surest artifact answers to all of them.

    Coverage is the share of the answerable questions that are answered from artifacts; risk is the share
    of those answers that are wrong.
    """
    predictions = [predict(o, heads) for o in observed if o.answerable and o.search]
    surest = sorted((p for p in predictions if p.latent is not None), key=_artifact_score, reverse=True)
    points, wrong = list[tuple[float, float]](), 0
    for count, p in enumerate(surest, start=1):
        wrong += not p.latent_right
        points.append((round(count / len(predictions), 4), round(wrong / count, 4)))
    step = max(len(points) // 50, 1)
    return tuple(points[step - 1 :: step])


def _artifact_score(p: Prediction) -> float:
    return p.latent or 0.0


def held_out_report(
    observed: Sequence[Observation], heads: dict[str, Head], limits: Thresholds
) -> dict[str, float | None]:
    """How the gates ``learned`` and ``entropy`` do on held-out questions.

    A positive prediction means that a memory is used, as artifact or as text; a positive label means
    that a memory answers the question. ``entropy_*`` are the figures of the gate ``entropy`` on the same
    questions. ``latent`` is the share of the answerable questions that are answered from artifacts,
    ``latent_wrong`` the share of those answers that are wrong.
    """
    predictions = [predict(o, heads) for o in observed if o.search]
    labels = [p.answerable for p in predictions]
    passed = [p.search >= limits.probe_from and p.relevance >= limits.none_below for p in predictions]
    latent = [
        ok and _artifact_score(p) >= limits.latent_from for p, ok in zip(predictions, passed, strict=True)
    ]
    stages = list(zip(predictions, passed, latent, strict=True))
    used = [artifact or (ok and p.text >= limits.text_from) for p, ok, artifact in stages]
    scores = [
        p.relevance if artifact else p.relevance * p.text if ok else p.relevance**2
        for p, ok, artifact in stages
    ]
    probed = [(o.entropy, o.answerable) for o in observed if o.entropy is not None]
    from_artifacts = [p for p, artifact in zip(predictions, latent, strict=True) if artifact]
    return {
        "balanced_accuracy": balanced_accuracy(used, labels),
        "auroc": auroc(scores, labels),
        "entropy_balanced_accuracy": balanced_accuracy(
            [e < limits.max_entropy for e, _ in probed], [a for _, a in probed]
        ),
        "entropy_auroc": auroc([-e for e, _ in probed], [a for _, a in probed]),
        "latent": sum(p.answerable for p in from_artifacts) / max(sum(labels), 1),
        "latent_wrong": sum(not p.latent_right for p in from_artifacts) / max(len(from_artifacts), 1),
    }
