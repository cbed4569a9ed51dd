"""Hyper-parameters of Latent Context Compilation. `PRESETS` holds the paper's (Appendix A) and memkit's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from memkit.artifact.quantization import STORED, Stored
from memkit.compilers.base import configure, require_at_least
from memkit.compilers.compact.config import CompactConfig, Form
from memkit.prompts import QuestionKind

if TYPE_CHECKING:  # options are checked without torch
    from memkit.compilers.distillation.losses import Loss
    from memkit.compilers.distillation.training import Schedule
    from memkit.compilers.lcc.buffer_encoder import Init

KVInit = Literal["buffer", "attention", "compact"]


@dataclass(frozen=True)
class LCCConfig:
    """Hyper-parameters; the defaults are the ``fast`` recipe, ``PRESETS["paper"]`` is the paper's."""

    ratio: float = 16.0  # context tokens per buffer token
    multiple: int = 1  # header plus memory is a multiple of this: a server's page size, in tokens
    rank: int = 8  # of the LoRA
    alpha: float = 16.0  # scale of the LoRA
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    init: Init = "chunk_mean"
    steps: int = 150  # optimizer steps of the LoRA phase
    lr: float = 5e-3
    warmup: int = 10  # steps
    kv_steps: int = 0  # optimizer steps of the direct phase; 0: none
    kv_init: KVInit = "buffer"  # start of the direct phase; the others replace the LoRA phase
    form: Form = "capped"  # ragged, from a compact start: heads with as many rows as they need
    together_steps: int = 100  # direct steps over all segments of a long document; 0: none
    kv_lr: float = 1e-2  # after a compact start in units of each head's root mean square
    self_study: int = 256  # questions written by the model; 0 is the paper's data-free objective
    self_study_again: int = 8  # further questions about each sentence that no question covers
    self_study_batch: int = 8  # questions in each step
    self_study_temperature: float = 1.0  # for writing questions
    phrases: int = 0  # questions about phrases of the text, made by rule, for models that write poor ones
    kinds: tuple[QuestionKind, ...] = ("factual",)  # of the questions that the model writes
    cloze: int = 0  # gaps in the text's sentences
    following: int = 0  # questions for the sentence that follows another
    wording: str = "{question}"  # template of questions about the text
    agnostic: int = 48  # context-agnostic queries
    agnostic_batch: int = 2  # queries in each step
    reconstruction_window: int = 0  # tokens to repeat; 0: no reconstruction
    reconstruction: int = 16  # windows; more if they do not cover the context
    reconstruction_batch: int = 1  # windows in each step
    reconstruction_weight: float = 0.3
    answer_tokens: int = 32  # maximum of the teacher's answers
    queries: str = ""  # JSONL file of context-agnostic queries; "": the model's or memkit's own
    loss: Loss = "kl"
    top_k: int = 256  # tokens of the teacher's distribution that are stored; the others count as one event
    check_every: int = 25  # steps between held-out measurements
    patience: int = 4  # held-out measurements without a new best
    least_gain: float = 0.0  # share by which a held-out loss has to be lower to count for patience
    budget: float = 0.0  # seconds for a document, about, from a compact start; 0: until all steps are done
    segment_tokens: int = 1024  # longest segment of a document
    accumulate: int = 1  # losses whose gradients are averaged in one optimizer step
    coupled: bool = False  # ablation of §4.5: the LoRA answers, too; cannot be stored in an artifact
    stored: Stored = "model"  # the artifact's numbers: the model's dtype, bfloat16, int8 or int4
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("targets", "kinds"):
            if isinstance(getattr(self, name), str):
                raise ValueError(
                    f'{name} is a list of names, as in ["one", "another"], not {getattr(self, name)!r:.40}'
                )
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.ratio >= 1:
            raise ValueError(f"ratio must be at least 1, got {self.ratio}")
        if self.steps + self.kv_steps < 1:
            raise ValueError("steps and kv_steps are both 0: nothing would be trained")
        if self.kv_init not in get_args(KVInit):
            raise ValueError(
                f"kv_init must be one of {', '.join(get_args(KVInit))}, got {self.kv_init!r:.40}"
            )
        if self.kv_init != "buffer" and self.steps:
            raise ValueError(f"kv_init={self.kv_init!r} takes the place of the LoRA phase: set steps=0")
        if self.form not in get_args(Form):
            raise ValueError(f"form must be one of {', '.join(get_args(Form))}, got {self.form!r:.40}")
        if self.form == "ragged" and self.kv_init != "compact":
            raise ValueError(
                "the ragged form needs a start that says how many rows a head has: kv_init=compact"
            )
        if self.kv_init == "attention" and not (self.self_study or self.phrases):
            raise ValueError("kv_init='attention' needs questions to attend by: set self_study or phrases")
        if self.stored not in STORED:
            raise ValueError(f"stored must be one of {', '.join(STORED)}, got {self.stored!r}")
        if "{question}" not in self.wording:
            raise ValueError(f"wording must contain {{question}}, got {self.wording!r}")
        at_least_1 = (
            "rank accumulate answer_tokens patience top_k segment_tokens reconstruction_batch multiple "
            "check_every self_study_batch agnostic_batch"
        )
        at_least_0 = (
            "steps kv_steps self_study agnostic reconstruction_window warmup self_study_again "
            "self_study_temperature reconstruction together_steps phrases cloze following least_gain budget"
        )
        require_at_least(self, 1, *at_least_1.split())
        require_at_least(self, 0, *at_least_0.split())
        for name in ("lr", "kv_lr"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not self.least_gain < 1 or not self.budget < math.inf:
            raise ValueError("least_gain must be less than 1, and budget a number of seconds")
        if self.budget and self.kv_init != "compact":
            raise ValueError("a budget of time needs a compact start: set kv_init=compact and steps=0")
        if not self.kinds or set(self.kinds) - set(get_args(QuestionKind)):
            raise ValueError(
                f"kinds must be some of {', '.join(get_args(QuestionKind))}, got {list(self.kinds)!r:.80}"
            )
        if self.init not in ("chunk_mean", "vocabulary_mean"):
            raise ValueError(f"init must be chunk_mean or vocabulary_mean, got {self.init!r}")
        if self.loss not in ("kl", "mse"):
            raise ValueError(f"loss must be kl or mse, got {self.loss!r}")
        by_rule = self.phrases or self.cloze or self.following
        if not (self.self_study or by_rule or self.agnostic or self.reconstruction_window):
            raise ValueError(
                "no objective is left: self_study, phrases, cloze, following, agnostic and "
                "reconstruction_window are 0"
            )

    @property
    def objective(self) -> str:
        if self.self_study:
            return "self-study"
        return "phrases" if self.phrases else "by rule" if self.cloze or self.following else "pure"

    def compact_start(self) -> CompactConfig:
        """The compact memory from which ``kv_init="compact"`` starts: as many rows on average."""
        cap = 1.0 if self.form == "capped" else 0.0
        return CompactConfig(
            ratio=self.ratio, form=self.form, cap=cap, multiple=self.multiple, seed=self.seed
        )

    def schedule(self, steps: int, lr: float, seconds: float = math.inf) -> Schedule:
        """The schedule of one phase, which takes at most so many ``seconds``."""
        from memkit.compilers.distillation.training import Schedule

        return Schedule(
            steps,
            lr,
            self.warmup,
            check_every=self.check_every,
            patience=self.patience,
            accumulate=self.accumulate,
            keep_start=self.kv_init == "compact",
            seconds=seconds,
            least_gain=self.least_gain,
        )


_PURE: dict[str, Any] = {
    "self_study": 0,
    "agnostic_batch": 4,
    "reconstruction_window": 256,
    "reconstruction_weight": 1.0,
}
PRESETS: dict[str, dict[str, Any]] = {
    "fast": {},
    # Cartridges (2025): no LoRA, only the direct phase, from the frozen model's own reading of the buffer.
    "cartridge": {"steps": 0, "kv_steps": 200, "kv_lr": 2e-2},
    # For models too weak to write questions (SmolLM2): the context's own keys and values, the most attended
    # ones, and then the direct phase.
    "selected": {
        "steps": 0,
        "kv_steps": 60,
        "kv_init": "attention",
        "self_study": 0,
        "self_study_again": 0,
        "phrases": 96,
        "self_study_batch": 6,
        "agnostic": 24,
        "agnostic_batch": 1,
        "reconstruction_window": 40,
        "reconstruction": 24,
        "reconstruction_batch": 2,
        "reconstruction_weight": 1.0,
        "answer_tokens": 24,
        "patience": 99,
    },
    # What a night makes of a compact memory: the same start, and all rows are trained.
    "dense": {
        "steps": 0,
        "kv_steps": 200,
        "kv_init": "compact",
        "form": "ragged",
        "kinds": ("factual", "listing", "two_hop"),
        "self_study": 128,
        "self_study_again": 0,
        "self_study_temperature": 0.8,
        "cloze": 64,
        "following": 16,
        "phrases": 32,
        "agnostic": 32,
        "check_every": 10,
        "least_gain": 0.01,
    },
    "pure": {**_PURE, "kv_steps": 100},  # the paper's objective at a high rate, and a direct phase
    "paper": {  # Appendix A: 45 epochs x 4,000 samples / 8, AdamW 2e-5, linear decay
        **_PURE,
        "segment_tokens": 1_000_000,  # never cut
        "init": "vocabulary_mean",
        "steps": 22_500,
        "lr": 2e-5,
        "warmup": 0,
        "kv_steps": 0,
        "agnostic": 2000,
        "reconstruction": 2000,
        "reconstruction_batch": 4,
        "answer_tokens": 128,
        "patience": 10_000,
    },
}


def parse_options(options: Mapping[str, Any] | None) -> LCCConfig:
    """A config from options. Raises `ConfigError`."""
    return configure(LCCConfig, PRESETS, options)
