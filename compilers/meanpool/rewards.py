"""Binary rewards for answers: by rules, or by a judge behind an OpenAI-compatible API (eq. 3)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from memkit import text_metrics
from memkit.compilers.meanpool.config import RLConfig
from memkit.errors import MemkitError
from memkit.judge import Judge, JudgeConfig

_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")


class RewardFunction(Protocol):
    """Grades an answer: 1.0 when it is correct, 0.0 when it is not, None when the grader failed."""

    def __call__(self, context: str, question: str, golds: Sequence[str], answer: str) -> float | None: ...


def extracted(answer: str) -> str:
    """The content of the last \\boxed{…} of an answer, or the whole answer (Appendix G.2)."""
    boxed = _BOXED.findall(answer)
    return str(boxed[-1]) if boxed else answer


def exact(context: str, question: str, golds: Sequence[str], answer: str) -> float | None:
    """1.0 when the answer equals a gold answer up to case, punctuation and articles."""
    return text_metrics.exact_match(extracted(answer), golds)


def contains(context: str, question: str, golds: Sequence[str], answer: str) -> float | None:
    """1.0 when the answer contains a gold answer as whole words."""
    return text_metrics.contains(extracted(answer), golds)


@dataclass(frozen=True)
class F1:
    """1.0 for a token F1 of at least ``threshold``."""

    threshold: float = 0.5

    def __call__(self, context: str, question: str, golds: Sequence[str], answer: str) -> float | None:
        return float(text_metrics.f1(extracted(answer), golds) >= self.threshold)


@dataclass
class JudgeReward:
    """1.0 for a judge's score of at least ``threshold`` · 5.

    A failed request is repeated up to ``retries`` times. ``failures`` counts the answers that got no score:
    they are left out, never counted as wrong.
    """

    judge: Judge
    threshold: float = 0.5
    retries: int = 2
    failures: int = 0
    last_error: str = field(default="", repr=False)

    def __call__(self, context: str, question: str, golds: Sequence[str], answer: str) -> float | None:
        for _ in range(self.retries + 1):
            try:
                score = self.judge.score(context, question, golds, extracted(answer))
                return float(score >= 5 * self.threshold)
            except MemkitError as error:  # no answer in time, or none that is a score
                self.last_error = str(error)
        self.failures += 1
        return None


def reward_function(config: RLConfig) -> RewardFunction:
    """The configured reward."""
    if config.reward == "judge":
        url, _, name = config.judge.partition(",")
        return JudgeReward(Judge(JudgeConfig(url, name)), config.reward_threshold, config.judge_retries)
    if config.reward == "f1":
        return F1(config.reward_threshold)
    return exact if config.reward == "exact" else contains
