"""What an evaluation measures: its baselines, compilers and settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from memkit import registry
from memkit.errors import ConfigError
from memkit.evals import records
from memkit.evals.baselines.kvpress import MORE_PRESSES, PRESSES
from memkit.judge import JudgeConfig
from memkit.prompts import PromptSet

KVPRESS = "kvpress"
TTFT_REPEATS = 5
BASELINES = ("full", "none", "rag", KVPRESS, "cartridge")


@dataclass(frozen=True)
class Variant:
    """A separate row: a compiler with options, at one ratio; ``predicted`` is its expected result."""

    label: str
    compiler: str
    ratio: float
    options: Mapping[str, Any] = field(default_factory=dict)
    predicted: str = ""


@dataclass(frozen=True)
class EvalConfig:
    """What to evaluate. Raises `ConfigError` for invalid values.

    The baselines ``rag``, ``kvpress`` (its default presses; ``kvpress:NAME`` is one) and ``cartridge``
    (direct training of the KV) get the token budget of an artifact at each ratio.
    """

    source: str  # see `memkit.evals.records.load`
    model: str = "nano"
    compilers: tuple[str, ...] = ("lcc",)  # names, or name:preset
    baselines: tuple[str, ...] = ("full", "none")
    ratios: tuple[float, ...] = (16.0,)  # for each compiler with a ratio
    limit: int | None = None  # records
    questions: int | None = None  # of each record
    max_tokens: int | None = None  # of a record's context; longer ones are left out
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)  # for every compiler
    variants: tuple[Variant, ...] = ()
    judge: JudgeConfig | None = None
    embedder: str | None = None  # of the baseline rag; see `memkit.router.embedders.resolve_embedder`
    wording: str | None = None  # template of questions, for all methods; default: see `worded`
    answer_tokens: int | None = None  # of an answer at most; default: in proportion to the gold answers
    # A file of general questions to measure drift on, "general" (memkit's own) or "none". Default: general
    # with nano, else none.
    drift: str | None = None
    ttft: int | None = None  # repeated measurements of the time to first token; default: 5 with nano, else 1
    self_test: bool = False  # also run the admission gate's self-test on each artifact

    def __post_init__(self) -> None:
        if self.wording is not None and records.QUESTION not in self.wording:
            raise ConfigError(f"the wording must hold {records.QUESTION}, got {self.wording!r}")
        known = [*BASELINES, *(f"{KVPRESS}:{press}" for press in (*PRESSES, *MORE_PRESSES))]
        if unknown := sorted(set(self.baselines) - set(known)):
            raise ConfigError(f"unknown baseline {', '.join(unknown)}; there are: {', '.join(known)}")
        for name in ("limit", "questions", "max_tokens", "answer_tokens"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ConfigError(f"{name} must be at least 1, got {value}")
        if self.ttft is not None and self.ttft < 0:
            raise ConfigError(f"ttft must be at least 0, got {self.ttft}")
        if not self.ratios or min(self.ratios) < 1:
            raise ConfigError("every ratio must be at least 1")
        for name in self.compilers:
            registry.compiler(*self.compiler(name, self._ratios(name)[0]))
        for variant in self.variants:
            registry.compiler(*self.compiler(variant.label, variant.ratio))

    def resolved(self, prompts: PromptSet) -> EvalConfig:
        """This configuration with the defaults for a model.

        A model that was trained on general questions is nano, which takes milliseconds to answer; behind a
        long context others take seconds a question.
        """
        fast = bool(prompts.known_answers)
        drift = self.drift or (records.GENERAL if fast else records.NO_DRIFT)
        ttft = self.ttft if self.ttft is not None else TTFT_REPEATS if fast else 1
        return replace(self, drift=drift, ttft=ttft)

    def worded(self, record: records.Record, prompts: PromptSet) -> records.Record:
        """A record with its questions as all methods are asked them.

        By default a model is asked for a few words (`PromptSet.short_answer`), unless the record's answers
        are summaries.
        """
        if self.wording is not None:
            return record.worded(self.wording)
        return record if record.metric == "rouge_l" else record.worded(prompts.short_answer)

    def compiler(self, name: str, ratio: float | None) -> tuple[str, dict[str, Any]]:
        """The registry name and options of ``name[:preset]``, or of a variant, at a ratio (None: without
        one)."""
        options = {**self.options, **({} if ratio is None else {"ratio": ratio}), "seed": self.seed}
        for variant in self.variants:
            if (variant.label, variant.ratio) == (name, ratio):
                return variant.compiler, {**options, **variant.options}
        plain, _, preset = name.partition(":")
        return plain, {**options, "preset": preset} if preset else options

    def _ratios(self, name: str) -> tuple[float | None, ...]:
        """The ratios at which a compiler or a baseline is measured."""
        plain = name.partition(":")[0]
        return self.ratios if plain in BASELINES or registry.takes_ratio(plain) else (None,)

    @property
    def methods(self) -> list[tuple[str, float | None]]:
        """The rows of the table, (method, ratio), in order."""
        fixed: list[tuple[str, float | None]] = [(b, None) for b in ("full", "none") if b in self.baselines]
        names = [b for b in ("rag",) if b in self.baselines]
        names += [
            f"{KVPRESS}:{press}"
            for press in (*PRESSES, *MORE_PRESSES)
            if f"{KVPRESS}:{press}" in self.baselines or (KVPRESS in self.baselines and press in PRESSES)
        ]
        names += [b for b in ("cartridge",) if b in self.baselines]
        compiled = [(name, ratio) for name in (*names, *self.compilers) for ratio in self._ratios(name)]
        return [*fixed, *compiled, *((v.label, v.ratio) for v in self.variants)]
