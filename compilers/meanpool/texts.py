"""A training text of the mean-pool compressor, and how a stage draws one."""

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
    """A text with what is known about it."""

    text: str
    summary: str = ""
    questions: tuple[Question, ...] = field(default=())

    def has(self, task: str) -> bool:
        """Whether the text can be used for a task."""
        return {"qa": bool(self.questions), "summarization": bool(self.summary)}.get(task, True)


# Gives the next text for a task. ``reached`` is the share of training that is done, from 0 to 1.
Draw = Callable[[random.Random, str, float], Text]
