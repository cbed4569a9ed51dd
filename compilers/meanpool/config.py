"""Hyper-parameters of every stage. `PRESETS` holds the paper's (Tables 2, 9 and 10) and nano's own.

Departures of the ``nano`` preset from the paper, whose models are a thousand times larger:
    - Question answering is trained from the first stage on: a low reconstruction loss is not a memory.
    - All weights of the layers are trained, with Muon instead of AdamW, on short texts first; no LoRA, and
      the embedding table stays frozen.
    - All stages use the chat format, since nano knows no other.
    - Reinforcement learning trains a LoRA on the decoder, so that the checkpoint stays small.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from memkit.compilers.base import configure, require_at_least
from memkit.compilers.meanpool.model import CompressorConfig
from memkit.compilers.meanpool.options import STAGES, Stage
from memkit.engine.transformers.finetune import FinetuneConfig
from memkit.errors import ConfigError

TASKS = ("reconstruction", "continuation", "summarization", "qa")
Format = Literal["flat", "chat"]
Optimizer = Literal["adamw", "muon"]
Precision = Literal["bf16", "fp32"]
Reward = Literal["exact", "contains", "f1", "judge"]


@dataclass(frozen=True)
class StageConfig:
    """One supervised stage: CPT-1, CPT-2 or SFT (§3.3, Tables 2 and 9)."""

    samples: int  # texts with a memory
    mixture: Mapping[str, float]  # share of each task
    standard_share: float = 0.0  # share of samples without a memory: plain language modelling
    bridges: tuple[int, int] = (1, 1)  # uncompressed chunks between a memory and its continuation
    bridge_tokens: int = 16
    format: Format = "flat"
    full_lr: float = 5e-5  # of fully trained layers
    lora_lr: float = 1e-4
    projection_lr: float = 3e-4  # 0 freezes the projection and the pooling
    full_decay: float = 0.1
    lora_decay: float = 0.0
    batch: int = 256  # samples in each step, over all processes
    micro_tokens: int = 16_384  # maximum of tokens in one forward pass
    sequence: int = 2048  # maximum of tokens of a text
    warmup_ratio: float = 0.04  # share of the steps
    min_lr_ratio: float = 0.1  # final learning rate of the cosine, as a share of the peak
    max_grad_norm: float = 1.0
    optimizer: Optimizer = "adamw"
    precision: Precision = "bf16"
    weights: Mapping[str, float] = field(default_factory=dict)  # loss weight of each task's tokens; default 1
    questions: int = 1  # about one text, as branches of one sample
    facts: tuple[int, int] = (1, 16)  # of generated texts, at the start and at the end
    chunks: tuple[int, ...] = ()  # a curriculum of chunk sizes before the compressor's own
    chunks_share: float = 0.5  # share of the steps for that curriculum
    evaluate_every: int = 200  # steps between measurements on held-out texts
    held_out: int = 256  # held-out texts
    patience: int = 5  # measurements without a new best before training stops
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("bridges", "facts"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "chunks", tuple(self.chunks))
        for name in ("mixture", "weights"):
            object.__setattr__(self, name, dict(getattr(self, name)))
        require_at_least(
            self, 1, "samples", "bridge_tokens", "batch", "micro_tokens", "sequence", "questions"
        )
        require_at_least(self, 1, "evaluate_every", "held_out", "patience")
        require_at_least(self, 0, "full_lr", "lora_lr", "projection_lr", "full_decay", "lora_decay")
        _share(self, "standard_share", "warmup_ratio", "min_lr_ratio", "chunks_share")
        if any(type(size) is not int or size < 1 for size in self.chunks):
            raise ValueError(f"chunks must be numbers from 1 on, got {self.chunks}")
        _positive(self, "max_grad_norm")
        _ranges(self, "bridges", 0)
        _ranges(self, "facts", 1)
        _one_of(self, format=Format, optimizer=Optimizer, precision=Precision)
        if unknown := sorted({*self.mixture, *self.weights} - {*TASKS, "standard"}):
            raise ValueError(f"unknown task {', '.join(unknown)}; there are: {', '.join(TASKS)}")
        if not self.mixture or min(self.mixture.values()) < 0 or sum(self.mixture.values()) <= 0:
            raise ValueError(f"mixture must give some task a positive share, got {dict(self.mixture)}")
        if not (self.full_lr or self.lora_lr or self.projection_lr):
            raise ValueError("every learning rate is 0: nothing would be trained")

    def chunk_at(self, reached: float, last: int) -> int:
        """The chunk size in tokens when the share ``reached`` of the steps is done; ``last`` is the final
        one."""
        sizes = (*self.chunks, last)
        number = int(reached / self.chunks_share * len(self.chunks)) if self.chunks_share else len(sizes)
        return sizes[min(number, len(self.chunks))]

    @property
    def steps(self) -> int:
        """The number of optimizer steps, for samples with and without a memory."""
        return max(1, math.ceil(self.samples / (1 - self.standard_share) / self.batch))


@dataclass(frozen=True)
class RLConfig:
    """Reinforcement learning with DAPO (§3.3.3, Table 10)."""

    prompts: int = 60_000  # questions
    lr: float = 1e-6
    warmup_steps: int = 10
    batch: int = 128  # groups of rollouts in each step
    mini_batch: int = 64  # groups in each update
    rollouts: int = 16  # answers to each prompt; the paper's 32B model has 8
    temperature: float = 1.0
    max_prompt: int = 1024  # positions, memory included
    max_response: int = 600  # tokens
    clip_low: float = 0.2
    clip_high: float = 0.28
    kl: float = 0.0  # coefficient; must be 0, as DAPO has no such term
    entropy: float = 0.0  # likewise
    overlong_buffer: int = 100  # tokens before max_response from which the length penalty grows
    overlong_factor: float = 0.5
    dynamic_sampling_after: int = 25  # steps, after which groups without variance are dropped
    draws: int = 4  # maximum of draws to fill the batch of a step
    rank: int = 0  # of a LoRA on the decoder; 0: train the decoder's weights
    weight_decay: float = 0.1
    max_grad_norm: float = 1.0
    micro_tokens: int = 16_384
    precision: Precision = "bf16"
    reward: Reward = "judge"
    reward_threshold: float = 0.5  # F1, or share of the judge's maximal score, that counts as correct
    judge: str = ""  # URL,MODEL of an OpenAI-compatible server
    judge_retries: int = 2  # before a rollout is skipped
    sequence: int = 4096  # maximum of tokens of a text
    facts: tuple[int, int] = (8, 16)
    questions: int = 8  # about one text
    evaluate_every: int = 25  # steps
    held_out: int = 64  # texts
    patience: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "facts", tuple(self.facts))
        require_at_least(
            self, 1, "prompts", "batch", "mini_batch", "max_prompt", "max_response", "draws", "sequence"
        )
        require_at_least(self, 1, "micro_tokens", "questions", "evaluate_every", "held_out", "patience")
        require_at_least(self, 2, "rollouts")
        require_at_least(
            self, 0, "warmup_steps", "overlong_buffer", "dynamic_sampling_after", "rank", "weight_decay"
        )
        require_at_least(self, 0, "overlong_factor", "judge_retries")
        _positive(self, "lr", "temperature", "max_grad_norm", "clip_low", "clip_high")
        _share(self, "reward_threshold")
        _ranges(self, "facts", 1)
        _one_of(self, precision=Precision, reward=Reward)
        for name in ("kl", "entropy"):
            if getattr(self, name):
                raise ValueError(f"DAPO has no {name} term: its coefficient is 0, got {getattr(self, name)}")
        if self.overlong_buffer > self.max_response:
            raise ValueError("overlong_buffer must not be longer than max_response")
        if self.mini_batch > self.batch:
            raise ValueError(f"mini_batch ({self.mini_batch}) must not be larger than batch ({self.batch})")
        if self.reward == "judge" and not self.judge:
            raise ValueError("reward='judge' needs judge=URL,MODEL; or take exact, contains or f1")

    @property
    def steps(self) -> int:
        return max(1, math.ceil(self.prompts / self.batch))


_CPT2 = {"continuation": 0.4, "qa": 0.275, "summarization": 0.175, "reconstruction": 0.15}
_PAPER: dict[str, dict[str, Any]] = {
    "model": {},
    "cpt1": {
        "samples": 220_000,
        "mixture": {"reconstruction": 0.5, "continuation": 0.5},
        "standard_share": 0.3,
    },
    "cpt2": {
        "samples": 400_000,
        "mixture": _CPT2,
        "standard_share": 0.4,
        "bridges": (0, 4),
        "projection_lr": 2e-4,
        "batch": 128,
        "warmup_ratio": 0.03,
        "min_lr_ratio": 0.02,
    },
    "sft": {
        "samples": 144_000,
        "mixture": {"qa": 1.0},
        "format": "chat",
        "full_lr": 2e-5,
        "projection_lr": 0.0,
        "batch": 64,
        "sequence": 4096,
        "warmup_ratio": 0.03,
    },
    "rl": {},
}
_NANO_STAGE: dict[str, Any] = {
    "format": "chat",
    "full_lr": 1e-2,
    "projection_lr": 1e-3,
    "full_decay": 0.0,
    "batch": 10,
    "micro_tokens": 4096,
    "sequence": 1024,
    "optimizer": "muon",
    "questions": 10,
    "weights": {"reconstruction": 0.3, "continuation": 0.05, "standard": 0.3},
    "held_out": 48,
}
_NANO: dict[str, dict[str, Any]] = {
    "model": {"adapted": {"full_every": 1, "rank": 0, "embeddings": False}},
    "cpt1": {
        **_NANO_STAGE,
        "samples": 8_000,
        "mixture": {"qa": 0.6, "reconstruction": 0.4},
        "standard_share": 0.05,
        "facts": (1, 6),
        "evaluate_every": 100,
        "patience": 1000,
    },
    "cpt2": {
        **_NANO_STAGE,
        "samples": 4_000,
        "mixture": {"qa": 0.6, "reconstruction": 0.25, "continuation": 0.05, "summarization": 0.1},
        "standard_share": 0.05,
        "bridges": (0, 4),
        "full_lr": 5e-3,
        "facts": (6, 10),
        "evaluate_every": 50,
        "min_lr_ratio": 0.02,
    },
    "sft": {
        **_NANO_STAGE,
        "samples": 2_000,
        "mixture": {"qa": 0.9, "reconstruction": 0.1},
        "full_lr": 2e-3,
        "projection_lr": 0.0,
        "facts": (8, 10),
        "evaluate_every": 50,
    },
    "rl": {
        "prompts": 1_600,
        "lr": 1e-3,
        "batch": 32,
        "mini_batch": 16,
        "rollouts": 8,
        "max_response": 32,
        "facts": (8, 10),
        "held_out": 16,
        "overlong_buffer": 8,
        "rank": 16,
        "weight_decay": 0.0,
        "reward": "exact",
        "micro_tokens": 4096,
        "sequence": 1024,
        "max_prompt": 512,
    },
}
PRESETS = {"paper": _PAPER, "nano": _NANO}


def compressor_config(preset: str, options: Mapping[str, Any] | None = None) -> CompressorConfig:
    """The `CompressorConfig` of a preset with overrides; ``options`` may include fields of `FinetuneConfig`.

    Raises `ConfigError` for unknown presets, keys and values.
    """
    values, overrides = _of(preset, "model"), dict(options or {})
    names = FinetuneConfig.__dataclass_fields__
    inner = {**values.pop("adapted", {}), **{k: overrides.pop(k) for k in list(overrides) if k in names}}
    adapted = configure(FinetuneConfig, {}, inner)
    return configure(CompressorConfig, {}, {**values, **overrides, "adapted": adapted})


def stage_config(
    stage: Stage, preset: str, options: Mapping[str, Any] | None = None
) -> StageConfig | RLConfig:
    """The configuration of a stage from a preset with overrides. Raises `ConfigError`."""
    if stage not in STAGES:
        raise ConfigError(f"unknown stage {stage!r}; there are: {', '.join(STAGES)}")
    kind: type[StageConfig | RLConfig] = RLConfig if stage == "rl" else StageConfig
    return configure(kind, {}, {**_of(preset, stage), **(options or {})})


def _of(preset: str, part: str) -> dict[str, Any]:
    if preset not in PRESETS:
        raise ConfigError(f"unknown preset {preset!r}; there are: {', '.join(PRESETS)}")
    return dict(PRESETS[preset][part])


def _share(config: Any, *names: str) -> None:
    for name in names:
        if not 0 <= getattr(config, name) < 1:
            raise ValueError(f"{name} must be in [0, 1), got {getattr(config, name)}")


def _positive(config: Any, *names: str) -> None:
    for name in names:
        if not 0 < getattr(config, name) < math.inf:
            raise ValueError(f"{name} must be positive, got {getattr(config, name)}")


def _ranges(config: Any, name: str, least: int) -> None:
    value = getattr(config, name)
    if len(value) != 2 or not least <= value[0] <= value[1]:
        raise ValueError(f"{name} is two numbers from {least} on, the smaller one first, got {value}")


def _one_of(config: Any, **kinds: Any) -> None:
    for name, kind in kinds.items():
        if getattr(config, name) not in get_args(kind):
            raise ValueError(
                f"{name} must be one of {', '.join(get_args(kind))}, got {getattr(config, name)!r}"
            )
