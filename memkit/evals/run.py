"""The evaluation table: baselines and compilers on the same questions, row by row."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import torch

from memkit import registry
from memkit.artifact import Artifact
from memkit.compilers.base import Step
from memkit.document import Document
from memkit.engine import kv
from memkit.engine.base import Handle, Request
from memkit.engine.transformers import TransformersEngine
from memkit.errors import CompileError, ConfigError
from memkit.evals import metrics, records
from memkit.models.nano.general import HELD_OUT

BASELINES = ("full", "none")
TTFT_REPEATS = 5
ANSWER_TOKENS = 48


@dataclass(frozen=True)
class EvalConfig:
    """What to evaluate. ``compilers`` are names, or ``name:preset``; ``ratios`` apply to each."""

    source: str
    model: str = "nano"
    compilers: tuple[str, ...] = ("lcc",)
    baselines: tuple[str, ...] = BASELINES
    ratios: tuple[float, ...] = (16.0,)
    limit: int | None = None
    questions: int | None = None  # a record
    seed: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)  # for every compiler

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.baselines) - set(BASELINES)):
            raise ConfigError(f"unknown baseline {', '.join(unknown)}; there are: {', '.join(BASELINES)}")
        if self.limit is not None and self.limit < 1:
            raise ConfigError(f"limit must be at least 1, got {self.limit}")
        if not self.ratios or min(self.ratios) < 1:
            raise ConfigError("every ratio must be at least 1")
        for name in self.compilers:
            registry.compiler(*self.compiler(name, self.ratios[0]))

    def compiler(self, name: str, ratio: float) -> tuple[str, dict[str, Any]]:
        """Registry name and options of ``name[:preset]`` at a ratio."""
        plain, _, preset = name.partition(":")
        options = {**self.options, "ratio": ratio, "seed": self.seed}
        return plain, {**options, "preset": preset} if preset else options


Progress = Callable[[str, int, int], None]


@dataclass
class _Row:
    """Measurements of one method at one ratio, collected record by record."""

    method: str
    ratio: float | None
    em: list[float] = field(default_factory=list)
    f1: list[float] = field(default_factory=list)
    contains: list[float] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)
    drift_kl: list[float] = field(default_factory=list)
    general: list[float] = field(default_factory=list)
    compile_s: list[float] = field(default_factory=list)
    compile_flops: list[float] = field(default_factory=list)
    artifact_bytes: list[float] = field(default_factory=list)
    prompt_tokens: list[float] = field(default_factory=list)
    ttft_ms: list[float] = field(default_factory=list)
    failed: int = 0
    curves: list[list[tuple[str, int, float]]] = field(default_factory=list)

    def table(self, none: float | None, full: float | None, general: float | None) -> dict[str, Any]:
        right = sum(self.contains)
        with_memory = metrics.mean(self.general)
        lost = None if general is None or with_memory is None else 100 * (general - with_memory)
        means = {
            name: metrics.mean(getattr(self, name))
            for name in ("em", "f1", "contains", "kl", "drift_kl", "compile_s", "compile_flops")
        }
        row = {
            "method": self.method,
            "ratio": self.ratio,
            "n": len(self.em),
            **means,
            "contains_ci95": metrics.wilson(right, len(self.contains)),
            "retention": metrics.retention(means["contains"], none, full),
            "drift_points": lost,
            "artifact_bytes": metrics.mean(self.artifact_bytes),
            "prompt_tokens": metrics.mean(self.prompt_tokens),
            "ttft_ms": statistics.median(self.ttft_ms) if self.ttft_ms else None,
            "failed": self.failed,
        }
        return row | ({"curves": self.curves} if self.curves else {})


class _Evaluation:
    def __init__(self, config: EvalConfig, engine: TransformersEngine, progress: Progress) -> None:
        self.config, self.engine, self.progress = config, engine, progress
        self.rows = dict[tuple[str, float | None], _Row]()
        self.general = [(q, (a,)) for q, a in HELD_OUT]
        bare = self._prefix(None, None)
        self.bare_general = metrics.mean(self._general_scores(bare, False))

    def row(self, method: str, ratio: float | None) -> _Row:
        return self.rows.setdefault((method, ratio), _Row(method, ratio))

    # -- pieces ---------------------------------------------------------------------------------
    def _prefix(self, handle: Handle | None, context: str | None) -> kv.KV:
        prefix = self.engine.prefix(Request("?", handle=handle, context=context))
        return (
            prefix if prefix is not None else kv.prefill(self.engine.base.model, [self.engine.base.chat.end])
        )

    def _decode(self, prefix: kv.KV, questions: Sequence[str], memory: bool, tokens: int) -> list[list[int]]:
        base, answers = self.engine.base, list[list[int]]()
        queries = [base.chat.query(base.tokenizer, q, memory) for q in questions]
        for group in kv.chunked(queries, 16):
            rows = kv.decode(base.model, prefix, group, max_tokens=tokens, end=base.chat.end)
            answers += [row.ids for row in rows]
        return answers

    def _general_scores(self, prefix: kv.KV, memory: bool) -> list[float]:
        answers = self._decode(prefix, [q for q, _ in self.general], memory, 16)
        return [
            metrics.contains(self.engine.decode(ids), golds)
            for ids, (_, golds) in zip(answers, self.general, strict=True)
        ]

    @torch.no_grad()
    def _logprobs(
        self, prefix: kv.KV, asked: Sequence[tuple[str, list[int]]], memory: bool
    ) -> list[torch.Tensor]:
        """Log-probabilities ``[answer tokens, vocabulary]`` of each given answer."""
        base, out = self.engine.base, list[torch.Tensor]()
        for group in kv.chunked(asked, 16):
            pairs = [(base.chat.query(base.tokenizer, q, memory), a) for q, a in group]
            batch = kv.AnswerBatch.of(pairs, prefix.tokens, base.model.device)
            logits = kv.answer_logits(base.model, prefix, batch).log_softmax(-1)
            out += logits.split([len(a) for _, a in group])
        return out

    # -- one record -----------------------------------------------------------------------------
    def fits(self, record: records.Record) -> bool:
        """Whether the model can read the whole context and answer: without that there is no reference."""
        longest = max(self.engine.count_tokens(q.text) for q in record.questions)
        chat = self.engine.base.chat
        around = len(chat.header) + len(chat.tail) + longest + ANSWER_TOKENS + 8  # 8: separator, end
        return self.engine.count_tokens(record.context) + around <= self.engine.window

    def record(self, record: records.Record) -> None:
        base = self.engine.base
        full = self._prefix(None, record.context)
        questions = [q.text for q in record.questions]
        said = self._decode(full, questions, True, ANSWER_TOKENS)
        asked = [(q, [*ids, base.chat.end]) for q, ids in zip(questions, said, strict=True)]
        teacher = self._logprobs(full, asked, True)
        queries = [q for q, _ in self.general[::4]]
        aside = [
            (q, [*ids, base.chat.end])
            for q, ids in zip(queries, self._decode(full, queries, True, 16), strict=True)
        ]
        teacher_aside = self._logprobs(full, aside, True)

        def measure(row: _Row, prefix: kv.KV, memory: bool, request: Request) -> None:
            answers = self._decode(prefix, questions, memory, ANSWER_TOKENS)
            for ids, question in zip(answers, record.questions, strict=True):
                text = self.engine.decode(ids)
                row.em.append(metrics.exact_match(text, question.answers))
                row.f1.append(metrics.f1(text, question.answers))
                row.contains.append(metrics.contains(text, question.answers))
            row.kl += _divergences(teacher, self._logprobs(prefix, asked, memory))
            row.drift_kl += _divergences(teacher_aside, self._logprobs(prefix, aside, memory))
            row.general += self._general_scores(prefix, memory)
            self._time(row, request)

        first = questions[0]
        if "full" in self.config.baselines:
            measure(self.row("full", None), full, True, Request(first, context=record.context))
        if "none" in self.config.baselines:
            measure(self.row("none", None), self._prefix(None, None), False, Request(first))
        for name in self.config.compilers:
            for ratio in self.config.ratios:
                self._compiled(name, ratio, record, measure, first)

    def _time(self, row: _Row, request: Request) -> None:
        for repeat in range(TTFT_REPEATS):
            (completion,) = self.engine.generate([request])
            if repeat:  # the first one warms up
                row.ttft_ms.append(completion.ttft_ms)
        row.prompt_tokens.append(completion.prompt_tokens)

    def _compiled(self, name: str, ratio: float, record: records.Record, measure: Any, first: str) -> None:
        row = self.row(name, ratio)
        compiler = registry.compiler(*self.config.compiler(name, ratio))

        def report(step: Step) -> None:
            self.progress(f"{record.id} {name} {ratio:g}x {step.phase}", step.step, step.steps)

        try:
            made = compiler.compile(
                Document(record.context), self.engine.base, tenant="evaluation", progress=report
            )
        except CompileError:
            row.failed += 1
            return
        handle = self.engine.attach(Artifact.decode(made.data))
        try:
            measure(row, self._prefix(handle, None), True, Request(first, handle=handle))
        finally:
            self.engine.detach(handle)
        row.compile_s.append(made.seconds)
        row.compile_flops.append(made.flops)
        row.artifact_bytes.append(len(made.data))
        row.curves.append([(p, s, v) for p, s, v in made.curve if s % 5 == 0])


def _divergences(teacher: Sequence[torch.Tensor], student: Sequence[torch.Tensor]) -> list[float]:
    """Mean KL(teacher ‖ student) in nats per token, for each answer."""
    return [
        float((t.exp() * (t - s)).sum(-1).mean().clamp(min=0)) for t, s in zip(teacher, student, strict=True)
    ]


def evaluate(
    config: EvalConfig,
    progress: Progress = lambda label, done, total: None,
    engine: TransformersEngine | None = None,
) -> dict[str, Any]:
    """Run the evaluation; returns ``{"model", "seed", "rows": [...]}``.

    Retention and drift are relative to the rows ``full`` and ``none`` of the same run.
    """
    chosen = records.load(config.source, config.limit, config.seed, config.questions)
    run = _Evaluation(config, engine or TransformersEngine(config.model), progress)
    skipped = list[str]()
    for done, record in enumerate(chosen):
        progress(f"record {record.id}", done, len(chosen))
        if run.fits(record):
            run.record(record)
        else:
            skipped.append(record.id)
    if not run.rows:
        raise ConfigError(
            f"no record of {config.source} fits the {run.engine.window:,} tokens that {config.model} reads"
        )
    progress("done", len(chosen), len(chosen))
    none, full = (
        metrics.mean(run.rows[key].contains) if key in run.rows else None
        for key in (("none", None), ("full", None))
    )
    return {
        "model": config.model,
        "source": config.source.rpartition("/")[2],
        "seed": config.seed,
        "records": len(chosen) - len(skipped),
        "skipped": skipped,  # longer than the model's window
        "general_without_memory": run.bare_general,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {run.engine.base.model.device.type}, "
        f"{torch.get_num_threads()} threads",
        "date": datetime.now(UTC).date().isoformat(),
        "rows": [row.table(none, full, run.bare_general) for row in run.rows.values()],
    }
