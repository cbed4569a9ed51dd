"""Split a document that is too long to be compiled at once."""

from __future__ import annotations

import math
from itertools import pairwise

MAX_QUESTION = 128  # tokens reserved in the window for a question
QUESTION_TOKENS = 40  # typical length of a question with its answer, for estimates
MIN_SEGMENT = 64  # tokens; shorter segments cost more than they are worth


def split_segments(tokens: int, longest: int) -> list[slice]:
    """Split ``tokens`` tokens into slices of equal size, none longer than ``longest``."""
    count = math.ceil(tokens / longest)
    bounds = [tokens * i // count for i in range(count + 1)]
    return [slice(a, b) for a, b in pairwise(bounds)]
