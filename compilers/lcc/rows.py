"""The direct phase from a compact memory, in which every head may have as many rows as it needs.

`memkit.compilers.compact` gives the start in a few prefills: the context's own keys where heads need them,
with values and biases refitted. Training moves them further than a fit to recorded queries can, as it sees
what the whole model answers. No LoRA and no buffer tokens: a departure from LCC.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain

import torch
from torch import Tensor, nn

from memkit.compilers.compact.compaction import Compaction, Report
from memkit.compilers.compact.compiler import Compact
from memkit.compilers.compact.layout import Layout
from memkit.compilers.distillation.flops import FlopMeter
from memkit.compilers.distillation.teacher import Teacher
from memkit.compilers.distillation.training import History, Run, minimise
from memkit.compilers.lcc.config import LCCConfig
from memkit.compilers.lcc.study import distillation_loss
from memkit.engine.transformers import kv_cache
from memkit.engine.transformers.ragged import RaggedKV, Rows
from memkit.errors import CompileError
from memkit.models.loading import LoadedModel

STUDY = 0.35  # of a budget's time after the start goes into the study set
BUDGETS = 3  # times what passed before the first step make a budget worth it
_MOMENT = 1e-9  # seconds of a budget that is used up: what an interrupted run has trained is kept
_TINY = 1e-6  # least unit of a head's numbers


class TrainedRows:
    """The rows of a memory as tensors to train, in float32, for all heads one after the other.

    ``parameters`` are keys and values ``[row, head_dim]``, in units of the root mean square of their head, so
    that one learning rate suits all heads, and the biases ``[row]``, in nats, if they are trained.
    """

    def __init__(self, start: RaggedKV, biases: bool) -> None:
        heads = list(chain.from_iterable(start.layers))
        self._start, self._lengths = start, [len(head) for head in heads]
        self._units = [_units([head.keys for head in heads]), _units([head.values for head in heads])]
        keys, values = (
            torch.cat([getattr(head, part).float() for head in heads]) for part in ("keys", "values")
        )
        self._bias = torch.cat([head.bias for head in heads])
        self.parameters: list[Tensor] = [
            nn.Parameter(both / unit) for both, unit in zip((keys, values), self._units, strict=True)
        ]
        if biases:
            self._bias = nn.Parameter(self._bias.clone())
            self.parameters.append(self._bias)

    def memory(self) -> RaggedKV:
        """The memory; differentiable in the ``parameters``."""
        dtype = self._start.layers[0][0].keys.dtype
        keys, values = (
            (part * unit).to(dtype).split(self._lengths)
            for part, unit in zip(self.parameters[:2], self._units, strict=True)
        )
        heads = map(Rows, keys, values, self._bias.split(self._lengths))
        return RaggedKV(
            tuple(tuple(next(heads) for _ in layer) for layer in self._start.layers), self._start.tokens
        )


def _units(heads: Sequence[Tensor]) -> Tensor:
    """The root mean square of each head's numbers, ``[row, 1]``."""
    sizes = [head.float().square().mean().sqrt().clamp(min=_TINY) if len(head) else 1.0 for head in heads]
    return torch.cat(
        [
            head.new_full((len(head), 1), float(size), dtype=torch.float32)
            for head, size in zip(heads, sizes, strict=True)
        ]
    )


def train_rows(
    base: LoadedModel, config: LCCConfig, ids: Sequence[int], meter: FlopMeter, run: Run
) -> RaggedKV:
    """The memory of a text's ``ids`` after `LCCConfig.kv_steps` steps from its compact memory.

    Of the states that were measured on the held-out examples it is the best; the start is among them.
    With `LCCConfig.budget`, `STUDY` of the time after the start goes into the study set, the rest into steps.

    Raises `CompileError` for a model that cannot have compact memories and for a budget without time for a
    step.
    """
    start, started = config.compact_start(), time.perf_counter()
    layout = Layout.of(base, start, len(ids))
    compaction = Compaction(base, start, layout.chunk, Report(run.progress, started))
    rows = TrainedRows(compaction.run([ids[cut] for cut in layout.segments]), biases=config.form == "ragged")
    meter.total += compaction.flops
    header = kv_cache.prefill(base.model, list(base.chat.header)) if base.chat.header else None
    teacher, share = Teacher(base, ids, header, progress=run.progress), STUDY * run.seconds_left
    loss = distillation_loss(config, teacher, meter, seconds=share, checkpoint=run.checkpoint)
    loss.reader = compaction.model
    trained = [example for part in loss.parts for example, _ in part.pairs if example.kind == "self_study"]
    run.history.coverage = teacher.coverage(trained)
    if not loss.held_out:
        raise CompileError(
            "no question is left to measure the memory by: raise self_study, phrases, cloze or agnostic"
        )
    minimise(
        "train",
        rows.parameters,
        lambda step: loss.step(rows.memory()),
        lambda: loss.measure(rows.memory()),
        config.schedule(config.kv_steps, config.kv_lr, max(run.seconds_left, _MOMENT)),
        run.progress,
        run.history,
        run.checkpoint,
        loss.skip,
    )
    if not run.history.steps:
        spent = time.perf_counter() - started
        raise CompileError(
            f"a budget of {config.budget:g} seconds is too small: {spent:,.0f} passed without a step. "
            f"Give at least {BUDGETS * spent:,.0f} seconds"
        )
    with torch.no_grad():
        return rows.memory()


def start_flops(base: LoadedModel, config: LCCConfig, tokens: int) -> float:
    """The operations of the compact memory of so many tokens."""
    return Compact(asdict(config.compact_start())).estimate(tokens, base).flops


def start_metrics(history: History) -> dict[str, float | None]:
    """What a manifest says of a training: the held-out loss of its start, in nats, and the study set's
    coverage of the text."""
    start = next((value for _, step, value in history.held_out if step == 0), None)
    covered = history.coverage
    return {"start_kl": start, "coverage": None if covered is None else round(covered, 3)}
