"""Hyper-parameters of the compact compiler. Importable without torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from memkit.artifact.quantization import STORED, Stored
from memkit.compilers.base import configure, require_at_least

MAX_INTEGER = 1 << 31
REPEAT_ALONE = 4.0  # up to this ratio the repetition alone serves as well, in two prefills
# Up to that ratio and above; more iterations fit the references better and unseen questions worse.
REFINE_STEPS, REFINE_STEPS_ABOVE = 20, 30
Form = Literal["ragged", "capped"]


@dataclass(frozen=True)
class CompactConfig:
    """Hyper-parameters; ``ratio`` fixes the budget, tokens / ratio rows for each head on average."""

    ratio: float = 4.0  # context tokens per row of a head, on average over all heads
    form: Form = "ragged"  # capped: the same number of rows in every head, which any server attends to
    multiple: int = 1  # header plus memory is a multiple of this: a server's page size, in tokens
    floor: float = 0.17  # fewest rows of a head, as a share of the average
    cap: float = 0.0  # most rows of a head, in multiples of the average; 0: no cap
    writes: float = 0.75  # power of the norm of what a value writes, by which attention is weighted
    questions: bool | None = None  # questions about the sentences as references, too; None: above 4x
    refine: int | None = None  # iterations that move the kept keys; None: 20, above 4x 30
    sharpen: float = 1.2  # with refine: power of a key's importance relative to the mean of its head
    bias: bool = True  # refit each key's attention mass
    values: bool = True  # refit the values
    ridge: float = 1e-3  # of the values' least squares, as a share of the mean squared weight
    queries: int = 1024  # reference tokens of a pass that the refit uses; fewer in each of many
    chunk: int = 2048  # tokens of the text that are repeated in one pass
    stored: Stored = "model"  # the artifact's numbers: the model's dtype, bfloat16, int8 or int4
    seed: int = 0  # draws the reference tokens of chunks that have more than ``queries``

    def __post_init__(self) -> None:
        for name in ("multiple", "queries", "chunk", "seed", "refine"):
            if not 0 <= (getattr(self, name) or 0) < MAX_INTEGER:
                raise ValueError(f"{name} must be a whole number from 0 on, got {getattr(self, name)}")
        if self.refine and not (self.bias and self.values):
            raise ValueError("refine moves biases and values, too: leave bias and values true, or refine 0")
        if not 1 <= self.ratio < math.inf:
            raise ValueError(f"ratio must be at least 1, got {self.ratio}")
        if self.form not in get_args(Form):
            raise ValueError(f"form must be one of {', '.join(get_args(Form))}, got {self.form!r:.40}")
        if self.form == "capped" and not self.cap:
            raise ValueError(
                "the capped form needs a cap, the rows of every head in multiples of the average: "
                "preset=capped has one"
            )
        if not 0 <= self.floor <= 1:
            raise ValueError(f"floor must be from 0 to 1, got {self.floor}")
        if self.cap and not 1 <= self.cap < MAX_INTEGER:
            raise ValueError(f"cap must be at least 1, or 0 for none, got {self.cap}")
        if not 0 < self.ridge < math.inf:
            raise ValueError(f"ridge must be positive, got {self.ridge}")
        if not 0 < self.sharpen < math.inf:
            raise ValueError(f"sharpen must be positive, got {self.sharpen}")
        if not 0 <= self.writes < math.inf:
            raise ValueError(f"writes must not be negative, got {self.writes}")
        if self.stored not in STORED:
            raise ValueError(f"stored must be one of {', '.join(STORED)}, got {self.stored!r:.40}")
        require_at_least(self, 1, "multiple", "queries", "chunk")

    @property
    def asks(self) -> bool:
        """Whether questions about the sentences are references, too."""
        return self.ratio > REPEAT_ALONE if self.questions is None else self.questions

    @property
    def refinement(self) -> int:
        """Iterations that move the kept keys."""
        if self.refine is not None:
            return self.refine
        if not (self.bias and self.values):
            return 0
        return REFINE_STEPS_ABOVE if self.ratio > REPEAT_ALONE else REFINE_STEPS


PRESETS: dict[str, dict[str, Any]] = {
    "matched": {},
    "capped": {"form": "capped", "cap": 2.0},
    "selected": {"bias": False, "values": False},  # the context's own values, without a refit
}


def parse_options(options: Mapping[str, Any] | None) -> CompactConfig:
    """A config from options. Raises `ConfigError`."""
    return configure(CompactConfig, PRESETS, options)
