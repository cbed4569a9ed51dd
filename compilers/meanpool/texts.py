"""Training texts of the mean-pool compressor."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

Split = Literal["train", "held_out"]


@dataclass(frozen=True)
class Question:
    text: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Text:
    """A text with its annotations."""

    text: str
    summary: str = ""
    questions: tuple[Question, ...] = field(default=())

    def has(self, task: str) -> bool:
        """Whether the text has what a task needs."""
        return {"qa": bool(self.questions), "summarization": bool(self.summary)}.get(task, True)


# Draws a text for a task: (random generator, task, share of training that is done, from 0 to 1).
Draw = Callable[[random.Random, str, float], Text]
