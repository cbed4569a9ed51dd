"""Advice on compiling: short, tabular and rarely used memories are answered as well from their text."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from memkit.bank import MemoryInfo
from memkit.compilers.base import Estimate
from memkit.errors import ConfigError

if TYPE_CHECKING:
    from memkit.models.loading import LoadedModel

QUESTION = 24  # tokens in a typical question
USUAL_RATIO = 16.0  # source tokens per artifact position, unless the compiler names its own
_CELL = re.compile(r"[^\t|,;]+")


@dataclass(frozen=True)
class AdvisorConfig:
    """When to leave a memory on its text; ``enabled=False`` compiles whatever changed.

    A memory stays on its text if the text has fewer than ``min_tokens`` tokens, if more than the share
    ``max_tabular`` (0 to 1) of its lines look like table rows, if ``idle_days`` days have passed without a
    question to it, or if it has answered fewer than ``min_questions`` questions. Raises `ConfigError` for a
    value that is out of range.
    """

    enabled: bool = True
    min_tokens: int = 32
    max_tabular: float = 0.5
    idle_days: float = 60.0
    min_questions: int = 0

    def __post_init__(self) -> None:
        if self.min_tokens < 0 or self.min_questions < 0 or not self.idle_days > 0:
            raise ConfigError("min_tokens and min_questions must not be negative, idle_days must be positive")
        if not 0 <= self.max_tabular <= 1:
            raise ConfigError(f"max_tabular is a share from 0 to 1, got {self.max_tabular}")


@dataclass(frozen=True)
class Advice:
    """Whether to ``compile`` a memory, with the ``reason`` if not, and what an artifact would save.

    ``tokens`` are those of its text, ``tabular`` is the share of lines that look like table rows, ``asked``
    counts its questions so far. ``text_flops`` and ``latent_flops`` are the FLOPs up to an answer's first
    token by either route. ``break_even`` is the number of questions after which the compilation has paid for
    itself: infinite if an artifact saves nothing, None if the cost of compiling is unknown.
    """

    compile: bool
    reason: str
    tokens: int
    tabular: float
    asked: int
    text_flops: float
    latent_flops: float
    break_even: float | None


def advise(
    info: MemoryInfo,
    text: str,
    tokens: int,
    base: LoadedModel,
    cost: Estimate | None,
    config: AdvisorConfig,
    now: datetime,
    ratio: float = USUAL_RATIO,
) -> Advice:
    """Advice on a memory whose compilation reads ``text``, of ``tokens`` tokens, at ``cost``.

    ``ratio`` is the number of source tokens per position of the artifact; with an infinite ratio the artifact
    takes no positions. ``now`` has a time zone.
    """
    from memkit.compilers.distillation.flops import FlopMeter  # which brings torch

    table, meter = tabular(text), FlopMeter(base.model)
    read = min(tokens, base.window // 2)  # the text route reads the best passages of a longer text
    by_text, by_latent = (
        meter.forward_flops(read + QUESTION, 0),
        meter.forward_flops(QUESTION, math.ceil(tokens / ratio)),
    )
    saved = by_text - by_latent
    break_even = None if cost is None else cost.flops / saved if saved > 0 else math.inf
    reason = reason_against(info, tokens, table, config, now) if config.enabled else ""
    return Advice(not reason, reason, tokens, table, info.asked, by_text, by_latent, break_even)


def reason_against(info: MemoryInfo, tokens: int, table: float, config: AdvisorConfig, now: datetime) -> str:
    """Why a memory is better left on its text, or "".

    ``tokens`` are those of its text, ``table`` is the share of its lines that look like table rows.
    """
    if tokens < config.min_tokens:
        return f"short: {tokens} tokens, its text costs no more than an artifact"
    if table > config.max_tabular:
        return f"tabular: {table:.0%} of its lines are rows of a table, whose cells are better read as text"
    if info.asked < config.min_questions:
        return f"seldom asked: {info.asked} questions so far, fewer than {config.min_questions}"
    latest = max(info.last_asked or info.created, info.created)
    if now - latest > timedelta(days=config.idle_days):
        return f"seldom asked: not once in {config.idle_days:g} days"
    return ""


def tabular(text: str) -> float:
    """The share of lines that look like table rows: at least three cells of two words or fewer on average."""
    lines = [line for line in text.splitlines() if line.strip()]
    return sum(map(_is_row, lines)) / len(lines) if lines else 0.0


def _is_row(line: str) -> bool:
    cells = [cell.split() for cell in _CELL.findall(line) if cell.strip()]
    return len(cells) >= 3 and sum(map(len, cells)) <= 2 * len(cells)
