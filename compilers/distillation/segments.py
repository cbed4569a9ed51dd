"""Cutting a document that is too long to be read at once."""

from __future__ import annotations

import math
from itertools import pairwise

MAX_QUESTION = 128  # tokens kept free for a question in front of its answer
QUESTION_TOKENS = 40  # tokens of a question and its answer, about: for estimates
MIN_SEGMENT = 64  # tokens; below, a piece costs more than it tells


def split_segments(tokens: int, longest: int) -> list[slice]:
    """Slices of equal size over ``tokens`` tokens, none longer than ``longest``."""
    count = math.ceil(tokens / longest)
    bounds = [tokens * i // count for i in range(count + 1)]
    return [slice(a, b) for a, b in pairwise(bounds)]
