"""Whether a memory is worth compiling: short, tabular and seldom asked ones do as well with their text."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from memkit.bank import MemoryInfo
from memkit.compilers.base import Estimate
from memkit.errors import ConfigError

if TYPE_CHECKING:
    from memkit.memory import Memory
    from memkit.models.loading import LoadedModel

QUESTION = 24  # tokens of a question, about
USUAL_RATIO = 16.0  # tokens for each position of an artifact, where a compiler names none
_CELL = re.compile(r"[^\t|,;]+")


@dataclass(frozen=True)
class AdvisorConfig:
    """``enabled=False`` compiles whatever changed.

    ``min_tokens`` of a text below which an artifact saves too little; ``max_tabular``: the most lines that
    may look like a table's rows; ``idle_days`` without a question after which a memory stays on its text;
    ``min_questions`` that a memory must have been asked before it is compiled.
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
    """``compile``, or why not (``reason``), with what an artifact would save.

    ``text_flops`` and ``latent_flops`` are the arithmetic before an answer's first token by either route;
    ``break_even`` is the number of questions after which the compilation has paid for itself, infinite
    where an artifact saves nothing and None where nobody can tell what compiling costs.
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
    """What is best for a memory whose compilation would take ``text``, of that many tokens.

    ``ratio`` sizes its artifact: so many tokens become one position, with an infinite one none.
    """
    from memkit.compilers.distillation.flops import FlopMeter  # which brings torch

    table, meter = tabular(text), FlopMeter(base.model)
    read = min(tokens, base.window // 2)  # of a longer text the text route reads the best passages
    by_text, by_latent = (
        meter.forward_flops(read + QUESTION, 0),
        meter.forward_flops(QUESTION, math.ceil(tokens / ratio)),
    )
    saved = by_text - by_latent
    break_even = None if cost is None else cost.flops / saved if saved > 0 else math.inf
    reason = _against(info, tokens, table, config, now) if config.enabled else ""
    return Advice(not reason, reason, tokens, table, info.asked, by_text, by_latent, break_even)


def objection(memory: Memory, info: MemoryInfo, config: AdvisorConfig) -> str:
    """Why a memory is better left on its text, or "". Only its model's tokenizer is needed."""
    from memkit.pipeline.compile import snapshot

    if not config.enabled:
        return ""
    source, _ = snapshot(memory, info)
    tokens = memory.local.count_tokens(source.text)
    return _against(info, tokens, tabular(source.text), config, datetime.now(UTC))


def _against(info: MemoryInfo, tokens: int, table: float, config: AdvisorConfig, now: datetime) -> str:
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
    """The share of a text's lines that have at least three cells, of two words or fewer each on average."""
    lines = [line for line in text.splitlines() if line.strip()]
    return sum(map(_is_row, lines)) / len(lines) if lines else 0.0


def _is_row(line: str) -> bool:
    cells = [cell.split() for cell in _CELL.findall(line) if cell.strip()]
    return len(cells) >= 3 and sum(map(len, cells)) <= 2 * len(cells)
