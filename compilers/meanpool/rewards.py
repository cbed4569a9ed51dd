"""Binary rewards of answers: rules that need nothing, or a judge behind an OpenAI-compatible API (eq. 3)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from memkit import text_metrics
from memkit.compilers.meanpool.config import RLConfig
from memkit.errors import MemkitError
from memkit.evals.judge import Judge, JudgeConfig
from memkit.evals.records import Question, Record

_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")


class RewardFunction(Protocol):
    """Whether an answer is correct: 1.0, 0.0, or None when that could not be found out."""

    def __call__(self, context: str, question: str, golds: Sequence[str], answer: str) -> float | None: ...


def extracted(answer: str) -> str:
    """What stands in the last \\boxed{…} of an answer, or all of it (Appendix G.2)."""
    boxed = _BOXED.findall(answer)
    return str(boxed[-1]) if boxed else answer


def exact(context: str, question: str, golds: Sequence[str], answer: str) -> float | None:
    """Equal to a gold answer but for case, punctuation and articles."""
    return text_metrics.exact_match(extracted(answer), golds)


def contains(context: str, question: str, golds: Sequence[str], answer: str) -> float | None:
    """Contains a gold answer as whole words."""
    return text_metrics.contains(extracted(answer), golds)


@dataclass(frozen=True)
class F1:
    """Token F1 of at least a threshold."""

    threshold: float = 0.5

    def __call__(self, context: str, question: str, golds: Sequence[str], answer: str) -> float | None:
        return float(text_metrics.f1(extracted(answer), golds) >= self.threshold)


@dataclass
class JudgeReward:
    """A judge's grade of at least ``threshold`` · 5. It is asked again after a failure, then given up.

    ``failures`` counts the answers that it gave up: they are left out, never counted as wrong.
    """

    judge: Judge
    threshold: float = 0.5
    retries: int = 2
    failures: int = 0
    last_error: str = field(default="", repr=False)

    def __call__(self, context: str, question: str, golds: Sequence[str], answer: str) -> float | None:
        record = Record("", context, (Question(question, tuple(golds)),))
        for _ in range(self.retries + 1):
            try:
                (score,) = self.judge.scores(record, (extracted(answer),))
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
