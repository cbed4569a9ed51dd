"""Hyper-parameters of LoRA by context distillation. `PRESETS` holds the paper's, where known, and our own."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from memkit.compilers.base import configure, require
from memkit.prompts import QuestionKind

if TYPE_CHECKING:  # options are checked without torch
    from memkit.compilers.distillation.training import Schedule

KINDS = (*get_args(QuestionKind), "paraphrase")


@dataclass(frozen=True)
class LoRAConfig:
    """Hyper-parameters; the defaults are the ``fast`` recipe."""

    rank: int = 8
    alpha: float = 16.0  # what an adapter adds is scaled by alpha / rank
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    steps: int = 150  # optimizer steps, for each piece of the document
    lr: float = 5e-3
    warmup: int = 10  # steps
    self_study: int = 128  # questions written by the model about each piece
    self_study_again: int = 8  # times that a sentence which no question covered is asked about again
    self_study_batch: int = 16  # questions a step
    self_study_temperature: float = 1.0  # at which the model writes them
    kinds: tuple[str, ...] = KINDS  # of questions
    answers: Literal["greedy", "sampled"] = "greedy"  # of the teacher
    agnostic: int = 48  # context-agnostic queries
    agnostic_batch: int = 4  # queries a step
    reconstruction_window: int = 64  # tokens a step; 0 leaves reconstruction out
    reconstruction_weight: float = 0.3
    answer_tokens: int = 32  # longest answer of the teacher, tokens
    queries: str = ""  # a JSONL file of context-agnostic queries; "" takes those that ship with memkit
    top_k: int = 256  # of the teacher's distribution; the rest is one event
    patience: int = 0  # held-out measurements (every 25 steps) without a new best; 0 trains all steps
    segment_tokens: int = 1024  # longest piece of a document that is read at once
    accumulate: int = 1  # draws whose gradients make one optimizer step
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("targets", "kinds"):
            if isinstance(getattr(self, name), str):
                raise ValueError(f"{name} is a list of names, not {getattr(self, name)!r}")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        require(self, 1, "rank", "steps", "self_study_batch", "agnostic_batch", "answer_tokens", "top_k")
        require(self, 1, "segment_tokens", "accumulate")
        require(self, 0, "patience")
        require(self, 0, "warmup", "self_study", "agnostic", "reconstruction_window")
        require(self, 0, "self_study_again", "self_study_temperature", "reconstruction_weight")
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
        """Kinds of questions that are written from the text; paraphrases come from other questions."""
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
