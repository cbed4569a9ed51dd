"""A training step of a memory, with one sequence in each row of a batch and with filled rows, against the
rate of a matrix product.

Interleaved in one process; compare the ratios.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from memkit.bench.ttft import filler
from memkit.compilers.distillation.flops import FlopMeter
from memkit.compilers.distillation.losses import DistillationLoss, Pair, Part, discrepancies
from memkit.compilers.distillation.rule_questions import cloze_questions, following_sentences
from memkit.compilers.distillation.teacher import Teacher
from memkit.compilers.lcc.rows import TrainedRows
from memkit.engine.transformers import kv_cache
from memkit.engine.transformers.engine import TransformersEngine
from memkit.engine.transformers.kv_cache import AnswerBatch
from memkit.engine.transformers.packing import packed_answers
from memkit.engine.transformers.ragged import RaggedKV, with_ragged_attention
from memkit.errors import ConfigError
from memkit.evals.timing import interleaved, matrix_rate, stamp
from memkit.models.loading import LoadedModel

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class StepBenchConfig:
    """Steps of ``examples`` questions about a text of ``tokens`` tokens, which has one row for each ``ratio``
    of them in every head.

    Raises `ConfigError` for values below 1.
    """

    tokens: int = 400
    ratio: float = 8.0
    examples: int = 9
    repeats: int = 3
    model: str = "nano"

    def __post_init__(self) -> None:
        if min(self.tokens, self.ratio, self.examples, self.repeats) < 1:
            raise ConfigError("tokens, ratio, examples and repeats must be numbers from 1 on")


def bench(config: StepBenchConfig, progress: Progress = lambda label, done, total: None) -> dict[str, Any]:
    """Measure; returns ``{"bench": "step", "rows": [...]}``.

    ``of_rate`` is the share of the rate of a matrix product, in FLOPs of what is not padding. ``tokens`` are
    those of the examples, ``batch_tokens`` those of the batch with its padding.
    """
    engine = TransformersEngine(config.model)
    base, text = engine.base, filler(engine, config.tokens)
    header = kv_cache.prefill(base.model, list(base.chat.header)) if base.chat.header else None
    teacher = Teacher(base, engine.encode(text), header)
    progress("study set", 0, 2)
    questions = [
        *cloze_questions(text, -(-config.examples // 2), 0),
        *following_sentences(text, config.examples // 2, 0),
    ]
    examples = teacher.quoted(questions, 32)
    pairs = tuple(zip(examples, teacher.targets(examples, 256), strict=True))
    meter = FlopMeter(base.model)
    loss = DistillationLoss(
        teacher, header, [Part(pairs, len(pairs), 1.0)], (), loss="kl", seed=0, meter=meter
    )
    loss.reader = reader = with_ragged_attention(base.model)
    start, count = header.tokens if header else 0, max(1, round(len(teacher.context) / config.ratio))
    rows = TrainedRows(RaggedKV.of(teacher.prefix.slice(start, start + count)), biases=True)

    def padded() -> Tensor:
        return discrepancies(reader, rows.memory().after(header), [pairs], "kl", [meter])[0]

    calls = {"one sequence a row": padded, "filled rows": lambda: loss.step(rows.memory())}
    answers = [(e.query, e.answer) for e, _ in pairs]
    batches = (AnswerBatch.of(answers, header, "cpu"), packed_answers(answers, header, "cpu"))
    progress("steps", 1, 2)
    times = interleaved([_stepped(call) for call in calls.values()], config.repeats)
    rate, flops = matrix_rate(base.model.dtype), _step_flops(base, pairs, start + count)
    measured = [
        {
            "row": name,
            "tokens": sum(len(query) + len(answer) for query, answer in answers),
            "batch_tokens": batch.packed.ids.numel(),
            "step_s": statistics.median(ms) / 1000,
            "of_rate": flops / (statistics.median(ms) / 1000) / rate,
        }
        for name, batch, ms in zip(calls, batches, times, strict=True)
    ]
    machine = stamp(f"{torch.get_num_threads()} threads")
    return {"bench": "step", "model": config.model, **machine, "gflops": rate / 1e9, "rows": measured}


def _stepped(loss: Callable[[], Tensor]) -> Callable[[], object]:
    return lambda: loss().backward()


def _step_flops(base: LoadedModel, pairs: Sequence[Pair], attended: int) -> float:
    """The operations of a step: forward, and backward for activations alone; logits of answers only."""
    meter, head = FlopMeter(base.model), int(kv_cache.output_layer(base.model).weight.numel())
    lengths = [len(e.query) + len(e.answer) for e, _ in pairs]
    answers = sum(len(e.answer) for e, _ in pairs)
    forward = 2.0 * (meter.weights - head) * sum(lengths) + 2.0 * head * answers
    forward += meter.attention * sum(n * (attended + n / 2) for n in lengths)
    return 2 * forward
