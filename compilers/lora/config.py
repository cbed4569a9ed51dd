"""Hyper-parameters of LoRA by context distillation. `PRESETS` holds the paper's, where known, and
memkit's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from memkit.compilers.base import configure, require_at_least
from memkit.prompts import QuestionKind

if TYPE_CHECKING:  # options are checked without torch
    from memkit.compilers.distillation.training import Schedule

KINDS = (*get_args(QuestionKind), "paraphrase")


@dataclass(frozen=True)
class LoRAConfig:
    """Hyper-parameters; the defaults are the ``fast`` recipe."""

    rank: int = 8
    alpha: float = 16.0  # the adapter is scaled by alpha / rank
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    steps: int = 150  # optimizer steps for each segment of the document
    lr: float = 5e-3
    warmup: int = 10  # steps
    self_study: int = 128  # questions about each segment, written by the model
    self_study_again: int = 8  # further questions about each sentence that no question covers
    self_study_batch: int = 16  # questions in each step
    self_study_temperature: float = 1.0  # for writing questions
    kinds: tuple[str, ...] = KINDS  # of questions
    answers: Literal["greedy", "sampled"] = "greedy"  # of the teacher
    agnostic: int = 48  # context-agnostic queries
    agnostic_batch: int = 4  # queries in each step
    reconstruction_window: int = 64  # tokens to repeat; 0: no reconstruction
    reconstruction_weight: float = 0.3
    answer_tokens: int = 32  # maximum of the teacher's answers
    queries: str = ""  # JSONL file of context-agnostic queries; "": the model's or memkit's own
    top_k: int = 256  # tokens of the teacher's distribution that are stored; the others count as one event
    patience: int = 0  # held-out measurements (every 25 steps) without a new best; 0: train all steps
    segment_tokens: int = 1024  # longest segment of a document
    accumulate: int = 1  # losses whose gradients are averaged in one optimizer step
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("targets", "kinds"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"{name} is a list of names, not {getattr(self, name)!r}")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        require_at_least(
            self, 1, "rank", "steps", "self_study_batch", "agnostic_batch", "answer_tokens", "top_k"
        )
        require_at_least(self, 1, "segment_tokens", "accumulate")
        require_at_least(self, 0, "patience")
        require_at_least(self, 0, "warmup", "self_study", "agnostic", "reconstruction_window")
        require_at_least(self, 0, "self_study_again", "self_study_temperature", "reconstruction_weight")
        for name in ("alpha", "lr"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not self.targets:
            raise ValueError("targets is empty: nothing would be trained")
        if unknown := sorted(set(self.kinds) - set(KINDS)):
            raise ValueError(f"unknown kind of question {', '.join(unknown)}; there are: {', '.join(KINDS)}")
        if self.answers not in ("greedy", "sampled"):
            raise ValueError(f"answers must be greedy or sampled, got {self.answers!r}")
        if self.self_study and not self.written:
            raise ValueError("paraphrase alone is no kind of question: there is nothing to rephrase")
        if not (self.self_study or self.reconstruction_window):
            raise ValueError("self_study and reconstruction_window are 0: nothing would be learned")

    @property
    def written(self) -> tuple[QuestionKind, ...]:
        """The kinds of questions that are written from the text; paraphrases are made from other
        questions."""
        return tuple(kind for kind in get_args(QuestionKind) if kind in self.kinds)

    def schedule(self, pieces: int) -> Schedule:
        from memkit.compilers.distillation.training import Schedule

        return Schedule(
            self.steps * pieces,
            self.lr,
            self.warmup,
            patience=max(self.patience, 1),
            accumulate=self.accumulate,
        )


PRESETS: dict[str, dict[str, Any]] = {
    "fast": {},
    "paper": {
        "steps": 3000,
        "lr": 2e-4,
        "warmup": 100,
        "self_study": 1000,
        "answers": "sampled",
        "reconstruction_window": 0,
        "answer_tokens": 128,
    },
}


def parse_options(options: Mapping[str, Any] | None) -> LoRAConfig:
    """A config from options. Raises `ConfigError`."""
    return configure(LoRAConfig, PRESETS, options)
