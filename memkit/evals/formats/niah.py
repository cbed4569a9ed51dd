"""Needle in a haystack: one sentence at a depth of a long text, over a grid of lengths and depths.

Reference: Kamradt 2023, *Needle in a Haystack: pressure testing LLMs*. The haystack is any plain-text file;
needles and questions are generated from a seed. Lengths are in words, so that all models get the same texts.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from memkit.config import expanded
from memkit.document import sentences
from memkit.errors import ConfigError
from memkit.evals.formats import files
from memkit.evals.formats.base import Question, Record

NAME = "niah"
LENGTHS = (250, 500, 1000, 2000)
DEPTHS = (0.0, 25.0, 50.0, 75.0, 100.0)
FORM = f"{NAME}:FILE[:LENGTHS[:DEPTHS[:N]]]"
# (statement, question); "…" is the place of the answer.
_NEEDLES = (
    (
        'The password of the lighthouse on Brennet island is "…".',
        "What is the password of the lighthouse on Brennet island?",
    ),
    ('The night train to Orsova is called "…".', "What is the night train to Orsova called?"),
    (
        'Mrs Tavistock\'s prize-winning rose is named "…".',
        "What is Mrs Tavistock's prize-winning rose named?",
    ),
    ('The secret ingredient of Odo\'s soup is "…".', "What is the secret ingredient of Odo's soup?"),
    (
        'The ship that brought the clockmaker to Veldmoor was the "…".',
        "Which ship brought the clockmaker to Veldmoor?",
    ),
    (
        'The village band of Quillon plays a march called "…".',
        "Which march does the village band of Quillon play?",
    ),
)
_FIRST = "amber copper crimson silent velvet hollow northern gilded frozen scarlet marble wandering".split()
_SECOND = "falcon lantern harbour thistle compass orchard sparrow kettle meadow anchor juniper violin".split()


@dataclass(frozen=True)
class Grid:
    """``count`` haystacks for every length (words) and depth of the needle (percent).

    Raises `ConfigError` for values out of range.
    """

    path: Path
    lengths: tuple[int, ...] = LENGTHS
    depths: tuple[float, ...] = DEPTHS
    count: int = 1

    def __post_init__(self) -> None:
        if min(self.lengths) < 50 or not all(0 <= depth <= 100 for depth in self.depths) or self.count < 1:
            raise ConfigError(f"give {FORM}: lengths of 50 words or more, depths from 0 to 100, N from 1")

    @classmethod
    def of(cls, source: str) -> Grid:
        """Parse ``niah:FILE[:LENGTHS[:DEPTHS[:N]]]``. Raises `ConfigError`."""
        form = re.fullmatch(
            NAME + r":(.+?)(?::(\d+(?:,\d+)*)(?::(\d+(?:\.\d+)?(?:,\d+(?:\.\d+)?)*)(?::(\d+))?)?)?", source
        )
        if form is None:
            raise ConfigError(f"give {FORM}, not {source!r}")
        lengths = tuple(int(text) for text in form[2].split(",")) if form[2] else LENGTHS
        depths = tuple(float(text) for text in form[3].split(",")) if form[3] else DEPTHS
        return cls(expanded(form[1]), lengths, depths, int(form[4] or 1))


def haystacks(grid: Grid, seed: int) -> Iterator[Record]:
    """A record for each haystack, determined by file and seed. Raises `ConfigError` if the text is too
    short."""
    text = files.text(grid.path)
    hay = [line for span in sentences(text) if (line := " ".join(text[span.start : span.end].split()))]
    words = sum(len(line.split()) for line in hay)
    if words < max(grid.lengths):
        raise ConfigError(
            f"{grid.path} has {words:,} words; the longest haystack needs {max(grid.lengths):,}"
        )
    for length in grid.lengths:
        for depth in grid.depths:
            for number in range(grid.count):
                place = category(length, depth)
                rng = random.Random(f"{seed}/{place}/{number}")
                yield _haystack(hay, length, depth, f"{NAME} {place} #{number + 1}", rng)


def _haystack(hay: Sequence[str], length: int, depth: float, id: str, rng: random.Random) -> Record:
    needle, question = rng.choice(_NEEDLES)
    answer = f"{rng.choice(_FIRST)} {rng.choice(_SECOND)} {rng.randint(10, 99)}"
    start, lines, left = rng.randrange(len(hay)), list[str](), length
    while left:  # wraps around the end of the file
        words = hay[(start + len(lines)) % len(hay)].split()[:left]
        lines.append(" ".join(words))
        left -= len(words)
    lines.insert(round(depth / 100 * len(lines)), needle.replace("…", answer))
    return Record(id, " ".join(lines), (Question(question, (answer,), category(length, depth)),))


def category(length: int, depth: float) -> str:
    """The category of a haystack's question; `place` parses it."""
    return f"{length} words, {depth:g} %"


def place(category: str) -> tuple[int, float] | None:
    """Length (words) and depth (percent) of a category; None if it is not a haystack's."""
    form = re.fullmatch(r"(\d+) words, ([\d.]+) %", category)
    return (int(form[1]), float(form[2])) if form else None
