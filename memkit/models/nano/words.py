"""Random words, codes, numbers and dates: the open vocabulary of nano's world.

Every value belongs, by a hash of its spelling, to exactly one *split*. Training draws only
from ``train``, evaluation only from ``eval``, so no evaluated value was ever seen in training.
"""

from __future__ import annotations

import random
import zlib
from typing import Literal

Split = Literal["train", "eval"]
Kind = Literal["name", "place", "thing", "code", "number", "date"]

_ONSETS = "b br c ch d dr f g gr h j k kl l m n p pr qu r s sh st t tr v w y z".split()
_CODAS = ["", "", "l", "m", "n", "r", "s"]
_VOWELS = "a e i o u".split()
_ENDS = [o + v + c for o in "b c d f g h k l m n p r s t v z".split() for v in _VOWELS for c in "dklmnrsvx"]
_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
MONTHS = ("January February March April May June July August September October November December").split()
EVAL_SHARE = 8  # one value in eight is reserved for evaluation
SPELLED_SHARE = 0.2  # share of words composed letter by letter, which train copying by letters
_NUCLEI = [*_VOWELS * 4, "ae", "ai", "ea", "ee", "ei", "ia", "ie", "io", "oa", "oo", "ou", "y"]
_CONSONANTS = "b c d f g h j k l m n p q r s t v w x z".split()


def _syllables(seed: int, count: int, pool: list[str]) -> list[str]:
    return random.Random(seed).sample(sorted(set(pool)), count)


STARTS = _syllables(11, 120, [o + v + c for o in _ONSETS for v in _VOWELS for c in _CODAS])
ENDS = _syllables(12, 120, _ENDS)


def split_of(value: str) -> Split:
    """The split that a value belongs to, case-insensitively."""
    return "eval" if zlib.crc32(value.lower().encode()) % EVAL_SHARE == 0 else "train"


def _spelled(rng: random.Random) -> str:
    """A word of two or three syllables of any letters: "keldor", "xioveam"."""
    word = ""
    for _ in range(rng.choice((2, 2, 3))):
        onset = rng.choice(_CONSONANTS) if rng.random() < 0.6 else rng.choice(_ONSETS)
        coda = rng.choice(_CONSONANTS) if rng.random() < 0.4 else ""
        word += onset + rng.choice(_NUCLEI) + coda
    return word


def _draw(rng: random.Random, kind: Kind) -> str:
    if kind in ("name", "place", "thing"):
        spelled = rng.random() < SPELLED_SHARE
        word = _spelled(rng) if spelled else rng.choice(STARTS) + rng.choice(ENDS)
        return word if kind == "thing" else word.capitalize()
    if kind == "code":
        return f"{rng.choice(_LETTERS)}{rng.choice(_LETTERS)}-{rng.randint(100, 999)}"
    if kind == "number":
        return str(rng.randint(100, 9999))
    return f"{rng.randint(1, 28)} {rng.choice(MONTHS)}"


def value(rng: random.Random, kind: Kind, split: Split) -> str:
    """A random value of one kind that belongs to ``split``."""
    while True:
        drawn = _draw(rng, kind)
        if split_of(drawn) == split:
            return drawn
