"""Fitting a calibration to observed questions.

A quarter of the documents is kept for what is reported. On the others, thresholds are chosen by what scorers
that were trained without a document say of it (cross-fitting); the scorers that are kept are trained on all.
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

LOST = 0.02  # of the answerable questions may fall below `probe_from`, and below `none_below`
KEPT = 0.96  # of those whose text is read must pass `text_from`, where that is possible
RISK = 0.05  # of the questions left to artifacts may be answered wrong
FOLDS = 5  # of the documents that thresholds are chosen on
LEAST = 10  # questions that memory answers, and others, below which nothing is fitted

Row = tuple[float, ...]


@dataclass(frozen=True)
class Observation:
    """One question with everything that the scorers see of its candidates, by their index.

    ``probed`` and ``among`` are rows of the features of those names; the router would probe ``contenders``.
    ``gold`` is the candidate that answers it (None: no memory does, or the search missed it);
    ``answerable`` whether a memory does. ``latent_right`` says whether the gold artifact's answer was
    right (None: it has none). ``text`` are the features of the text of ``gold``, else of the first.
    """

    group: str
    answerable: bool
    gold: int | None
    found: tuple[Row, ...]
    probed: dict[int, Row] = field(default_factory=dict)
    among: dict[int, Row] = field(default_factory=dict)
    contenders: tuple[int, ...] = ()
    text: Row | None = None
    entropy: float | None = None  # nats, of the first candidate's first token
    latent_right: bool | None = None


def part_of(group: str) -> str:
    """Whether a document's questions make the calibration ("fit") or the report ("report")."""
    return ("fit", "fit", "fit", "report")[zlib.crc32(group.encode()) % 4]


def fold_of(group: str) -> int:
    """Which fold a document's questions are in; independent of `part_of`."""
    return zlib.crc32(f"fold {group}".encode()) % FOLDS


def fit(observed: Sequence[Observation], hidden: int, seed: int = 0) -> tuple[dict[str, Head], Thresholds]:
    """Scorers and thresholds. Raises `ConfigError` unless both kinds of question are there to learn from."""
    yes = sum(o.answerable for o in observed)
    if min(yes, len(observed) - yes) < LEAST:
        raise ConfigError(
            f"{yes} questions that a memory answers and {len(observed) - yes} that none does; at least "
            f"{LEAST} of each are needed to calibrate"
        )
    mine = [o for o in observed if part_of(o.group) == "fit"] or list(observed)
    seen = list[tuple[Observation, Prediction]]()
    for fold in range(FOLDS):
        others = [o for o in mine if fold_of(o.group) != fold] or mine
        heads = _heads(others, hidden, seed)
        seen += [(o, predict(o, heads)) for o in mine if fold_of(o.group) == fold and o.found]
    return _heads(mine, hidden, seed), _thresholds(seen)


def _heads(observed: Sequence[Observation], hidden: int, seed: int) -> dict[str, Head]:
    found = [(row, o.answerable and i == o.gold) for o in observed for i, row in enumerate(o.found)]
    right = [(row, o.answerable and i == o.gold) for o in observed for i, row in o.probed.items()]
    among = [(row, o.answerable and i == o.gold) for o in observed for i, row in o.among.items()]
    held = [
        (o.probed[o.gold], o.latent_right)
        for o in observed
        if o.gold in o.probed and o.gold is not None and o.latent_right is not None
    ]
    text = [(o.text, o.answerable) for o in observed if o.text is not None]
    wide = features.names(hidden)
    parts = {
        "found": (features.FOUND, found),
        "right": (wide, right),
        "among": ((*wide, *features.GAINED), among),
        "held": (wide, held),
        "text": (wide, text),
    }
    return {
        name: Head.fit(names, [row for row, _ in rows], [bool(label) for _, label in rows], seed)
        for name, (names, rows) in parts.items()
    }


@dataclass(frozen=True)
class Prediction:
    """A question as the scorers see it: the chosen candidate's probabilities."""

    answerable: bool
    found: float  # the best that the search alone says of any candidate
    right: float
    latent: float | None  # that the artifact answers right; None without one
    text: float
    latent_right: bool


def predict(o: Observation, heads: dict[str, Head]) -> Prediction:
    """Rank as the router does."""
    scores = {i: heads["found"].probability(row) for i, row in enumerate(o.found)}
    early = max(scores.values())
    probed = [i for i in o.contenders if i in o.probed]
    head, rows = ("among", o.among) if len(probed) > 1 else ("right", o.probed)
    scores |= {i: heads[head].probability(rows[i]) for i in probed}
    best = max(scores, key=lambda i: (scores[i], -i))
    held = heads["held"].probability(o.probed[best]) if best in probed else None
    return Prediction(
        o.answerable,
        early,
        scores[best],
        None if held is None else scores[best] * held,
        heads["text"].probability(o.text) if o.text is not None else scores[best],
        best == o.gold and bool(o.latent_right),
    )


def _thresholds(pairs: Sequence[tuple[Observation, Prediction]]) -> Thresholds:
    observed, seen = [o for o, _ in pairs], [b for _, b in pairs]
    probe_from = lowest([b.found for b in seen if b.answerable])
    none_below = lowest([b.right for b in seen if b.answerable])
    passed = [b for b in seen if b.found >= probe_from and b.right >= none_below]
    text_from = best_cut([b.text for b in passed], [b.answerable for b in passed], 0.5, KEPT)
    latent_from = 1.0
    for point in sorted({b.latent for b in passed if b.latent is not None}, reverse=True):
        trusted = [b for b in passed if b.latent is not None and b.latent >= point]
        wrong = sum(not b.latent_right for b in trusted) / len(trusted)
        if wrong <= RISK:
            latent_from = point
    entropies = [(-o.entropy, o.answerable) for o in observed if o.entropy is not None]
    limit = -best_cut([e for e, _ in entropies], [a for _, a in entropies], -4.0)  # 4: the paper's λ
    values = (probe_from, none_below, latent_from, text_from, max(limit, 0.0))
    return Thresholds(*(math.floor(value * 1e4) / 1e4 for value in values))


def lowest(values: Sequence[float]) -> float:
    """What all but a share `LOST` reach; at most 0.5."""
    return min(sorted(values)[int(LOST * len(values))], 0.5) if values else 0.5


def best_cut(values: Sequence[float], labels: Sequence[bool], otherwise: float, kept: float = 0.0) -> float:
    """The cut at which "value ≥ cut" has the best balanced accuracy; of equal ones the middle one.

    At least the share ``kept`` of the true ones must be above it.
    """
    if not any(labels) or all(labels):
        return otherwise
    points = sorted(set(values))
    yes = sorted(value for value, label in zip(values, labels, strict=True) if label)
    highest = yes[min(int((1 - kept) * len(yes)), len(yes) - 1)]
    cuts = [cut for a, b in pairwise(points) if (cut := (a + b) / 2) <= highest] or points[:1]
    reached = [balanced([v >= cut for v in values], labels) for cut in cuts]
    top = [cut for cut, value in zip(cuts, reached, strict=True) if value >= max(reached) - 1e-12]
    return top[len(top) // 2]


def balanced(said: Sequence[bool], labels: Sequence[bool]) -> float:
    """Mean of the shares of both classes that were told right."""
    shares = [
        np.mean([s == wanted for s, label in zip(said, labels, strict=True) if label is wanted])
        for wanted in (True, False)
        if wanted in labels
    ]
    return float(np.mean(shares)) if shares else 0.0


def auroc(values: Sequence[float], labels: Sequence[bool]) -> float | None:
    """Probability that an answerable question scores above another; None with one class alone."""
    yes, no = ([v for v, label in zip(values, labels, strict=True) if label is w] for w in (True, False))
    if not yes or not no:
        return None
    a, b = np.asarray(yes)[:, None], np.asarray(no)[None]
    return float(np.mean((a > b) + 0.5 * (a == b)))


def curve(observed: Sequence[Observation], heads: dict[str, Head]) -> tuple[tuple[float, float], ...]:
    """(Coverage, risk): the surest share of the answerable questions left to artifacts, and how many
    of those are answered wrong; at most 50 points."""
    seen = [predict(o, heads) for o in observed if o.answerable and o.found]
    sure = sorted((b for b in seen if b.latent is not None), key=_latent, reverse=True)
    points, wrong = list[tuple[float, float]](), 0
    for count, b in enumerate(sure, start=1):
        wrong += not b.latent_right
        points.append((round(count / len(seen), 4), round(wrong / count, 4)))
    step = max(len(points) // 50, 1)
    return tuple(points[step - 1 :: step])


def _latent(b: Prediction) -> float:
    return b.latent or 0.0


def reported(
    observed: Sequence[Observation], heads: dict[str, Head], limits: Thresholds
) -> dict[str, float | None]:
    """What the gates do with questions that nothing was fitted on.

    The balanced accuracy is that of "a memory is used, whether as artifact or as text" against "a
    memory answers it"; ``entropy`` is CDLM's rule on the same questions. ``latent`` is the share of
    the answerable ones that are left to artifacts, ``latent_wrong`` how many of those answers are wrong.
    """
    seen = [predict(o, heads) for o in observed if o.found]
    labels = [b.answerable for b in seen]
    passed = [b.found >= limits.probe_from and b.right >= limits.none_below for b in seen]
    trusted = [p and _latent(b) >= limits.latent_from for b, p in zip(seen, passed, strict=True)]
    stages = list(zip(seen, passed, trusted, strict=True))
    used = [t or (p and b.text >= limits.text_from) for b, p, t in stages]
    scores = [b.right if t else b.right * b.text if p else b.right**2 for b, p, t in stages]
    probed = [(o.entropy, o.answerable) for o in observed if o.entropy is not None]
    left = [b for b, t in zip(seen, trusted, strict=True) if t]
    return {
        "balanced_accuracy": balanced(used, labels),
        "auroc": auroc(scores, labels),
        "entropy_balanced_accuracy": balanced(
            [e < limits.max_entropy for e, _ in probed], [a for _, a in probed]
        ),
        "entropy_auroc": auroc([-e for e, _ in probed], [a for _, a in probed]),
        "latent": sum(b.answerable for b in left) / max(sum(labels), 1),
        "latent_wrong": sum(not b.latent_right for b in left) / max(len(left), 1),
    }
