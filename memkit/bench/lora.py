"""The savings of the LoRA compiler: prefix reuse in the teacher, and batched training of documents.

``memkit bench lora``. The alternatives run interleaved in one process; compare their ratios.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from memkit.bench.ttft import QUESTION, filler
from memkit.compilers.base import Step
from memkit.compilers.distillation.teacher import Example, Teacher, targets
from memkit.compilers.lora.compiler import LoRA
from memkit.document import Document
from memkit.engine.transformers import kv_cache
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import ConfigError
from memkit.evals.timing import stamp

Progress = Callable[[str, int, int], None]

EXAMPLES, BATCH, TOP_K = 32, 8, 256
ANSWER_TOKENS = 16
OPTIONS = {"self_study": 16, "agnostic": 4, "reconstruction_window": 0, "answer_tokens": 8, "patience": 1000}


def prefix_reuse(engine: TransformersEngine, tokens: int, repeats: int) -> dict[str, Any]:
    """Seconds to compute the teacher's targets for `EXAMPLES` answers about a context of ``tokens``.

    ``once`` computes the context's KV once, as memkit does; ``batches`` computes it for every batch of
    `BATCH`; ``rows`` reads the context in every row of every batch.
    """
    base, header = engine.base, list(engine.base.chat.header)
    context = engine.encode(filler(engine, tokens))
    before = kv_cache.prefill(base.model, header) if header else None
    query = tuple(base.chat.query(base.tokenizer, QUESTION, True))
    answers = [tuple((context * ANSWER_TOKENS)[i : i + ANSWER_TOKENS]) for i in range(EXAMPLES)]
    examples = [Example("self_study", query, answer) for answer in answers]
    whole = [Example("self_study", (*header, *context, *query), answer) for answer in answers]

    def batches() -> None:
        for group in kv_cache.chunked(examples, BATCH):
            Teacher(base, context, before).targets(group, TOP_K)

    seconds = _in_turn(
        {
            "once": lambda: Teacher(base, context, before).targets(examples, TOP_K),
            "batches": batches,
            "rows": lambda: targets(base, None, whole, TOP_K, BATCH),
        },
        repeats,
    )
    return {
        "row": "prefix",
        "context_tokens": len(context),
        "examples": EXAMPLES,
        **{f"{name}_s": statistics.median(values) for name, values in seconds.items()},
        "speedup_over_batches": _speedup(seconds["batches"], seconds["once"]),
        "speedup_over_rows": _speedup(seconds["rows"], seconds["once"]),
    }


def side_by_side(engine: TransformersEngine, documents: int, steps: int, batch: int) -> dict[str, Any]:
    """Seconds of ``steps`` training steps for each of ``documents``, sequentially and as one batch.

    The first step is left out, and so is writing the questions, which is done for one document at a time.
    """
    compiler = LoRA({**OPTIONS, "steps": steps + 1, "warmup": 0, "self_study_batch": batch})
    texts = [Document(f"{filler(engine, 64)} Number {i}.") for i in range(documents)]
    alone = 0.0
    for text in texts:
        clock = _Clock()
        compiler.compile(text, engine.base, tenant="benchmark", progress=clock)
        alone += clock.seconds
    clock = _Clock()
    compiler.compile_many(texts, engine.base, tenant="benchmark", progress=clock)
    return {
        "row": "side by side",
        "documents": documents,
        "batch": batch,
        "steps": steps,
        "alone_s": alone,
        "together_s": clock.seconds,
        "speedup": alone / clock.seconds,
    }


class _Clock:
    """Progress that adds up the time from the first to the last step of every training."""

    def __init__(self) -> None:
        self.seconds, self._last = 0.0, 0.0

    def __call__(self, step: Step) -> None:
        self.seconds += step.seconds - self._last if step.step > 1 else 0.0
        self._last = step.seconds


def _in_turn(ways: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if repeat:  # the first one warms up
                seconds[name].append(time.perf_counter() - started)
    return seconds


def _speedup(slow: Sequence[float], fast: Sequence[float]) -> float:
    return statistics.median(s / f for s, f in zip(slow, fast, strict=True))


@dataclass(frozen=True)
class LoraConfig:
    """What to measure. Raises `ConfigError` for values below 1."""

    tokens: tuple[int, ...] = (256, 1024)  # of contexts, for prefix reuse
    documents: tuple[int, ...] = (1, 4, 16)  # in one batch
    batch: int = 4  # questions of each document in a step
    steps: int = 10
    repeats: int = 5
    model: str = "nano"

    def __post_init__(self) -> None:
        if min((*self.tokens, *self.documents, self.batch, self.steps, self.repeats)) < 1:
            raise ConfigError("tokens, documents, batch, steps and repeats must be numbers from 1 on")


def bench(config: LoraConfig, progress: Progress = lambda label, done, total: None) -> dict[str, Any]:
    """Measure; rows ``prefix`` for each length, then rows ``side by side``."""
    engine, rows = TransformersEngine(config.model), list[dict[str, Any]]()
    total = len(config.tokens) + len(config.documents)
    for tokens in config.tokens:
        progress(f"prefix of {tokens}", len(rows), total)
        rows.append(prefix_reuse(engine, tokens, config.repeats))
    for count in config.documents:
        progress(f"{count} side by side", len(rows), total)
        rows.append(side_by_side(engine, count, config.steps, config.batch))
    return {
        "bench": "lora",
        "model": engine.base.name,
        **stamp(str(engine.base.model.device), f"{torch.get_num_threads()} threads"),
        "rows": rows,
    }
