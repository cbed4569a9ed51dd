"""Distillation losses: how far the answers with a memory are from those with the full context."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from memkit.compilers.distillation.flops import FlopMeter
from memkit.compilers.distillation.teacher import Example, Target, Teacher, kl, squared_error
from memkit.compilers.distillation.training import cycle
from memkit.engine.transformers import kv_cache
from memkit.engine.transformers.packing import answer_batch
from memkit.prompts import HELD_OUT_SHARE

Pair = tuple[Example, Target]
Loss = Literal["kl", "mse"]


@dataclass(frozen=True)
class Part:
    """Training examples of one kind: ``batch`` of them in each step, their mean loss times ``weight``."""

    pairs: tuple[Pair, ...]
    batch: int
    weight: float


class DistillationLoss:
    """The loss of a memory that follows the prefix ``front``.

    Every step draws from each of the ``parts``, every example once before any is repeated (order by
    ``seed``). The ``held_out`` examples are not trained on; they decide when training stops. ``meter`` counts
    the FLOPs.
    """

    def __init__(
        self,
        teacher: Teacher,
        front: kv_cache.KVCache | None,
        parts: Sequence[Part],
        held_out: Sequence[Pair],
        *,
        loss: Loss,
        seed: int,
        meter: FlopMeter,
    ) -> None:
        self.teacher, self.front, self.meter, self.loss, self.seed = teacher, front, meter, loss, seed
        self.reader: PreTrainedModel = teacher.base.model  # answers with the memory: the frozen model
        self.parts = [part for part in parts if part.pairs]
        self.held_out = tuple(held_out)
        random = torch.Generator().manual_seed(seed)
        self._draws: list[Iterator[list[int]]] = [
            cycle(len(part.pairs), part.batch, random) for part in self.parts
        ]

    @classmethod
    def union(cls, losses: Sequence[DistillationLoss], front: kv_cache.KVCache | None) -> DistillationLoss:
        """The examples of several losses together, for a memory that follows the prefix ``front``."""
        first = losses[0]
        kinds = dict[str, list[Part]]()
        for loss in losses:
            for part in loss.parts:
                kinds.setdefault(part.pairs[0][0].kind, []).append(part)
        parts = [
            Part(tuple(pair for part in same for pair in part.pairs), same[0].batch, same[0].weight)
            for same in kinds.values()
        ]
        held_out = [pair for loss in losses for pair in loss.held_out]
        return cls(first.teacher, front, parts, held_out, loss=first.loss, seed=first.seed, meter=first.meter)

    def draw(self) -> list[list[Pair]]:
        """The examples of the next step, by part."""
        return [
            [part.pairs[i] for i in next(draws)] for part, draws in zip(self.parts, self._draws, strict=True)
        ]

    def step(self, memory: kv_cache.KVPrefix) -> Tensor:
        """The loss of the next step, a scalar."""
        before = self.meter.total
        total = torch.zeros((), device=self.teacher.base.model.device)
        each = self.discrepancies(memory, self.draw(), self.loss)
        for part, mean in zip(self.parts, each, strict=True):
            total = total + part.weight * mean
        self.meter.total += self.meter.total - before  # the backward pass, for activations only
        return total

    def skip(self, count: int) -> None:
        """Skip the draws of ``count`` steps, which an interrupted run has made."""
        for _ in range(count):
            self.draw()

    def measure(self, memory: kv_cache.KVPrefix) -> float:
        """The mean KL over the held-out examples, in nats per answer token."""
        with torch.no_grad():
            return float(self.discrepancies(memory, [self.held_out], "kl"))

    def discrepancies(
        self, memory: kv_cache.KVPrefix, groups: Sequence[Sequence[Pair]], loss: Loss
    ) -> Tensor:
        """KL(full context ‖ memory) in nats, mean over each group's answer tokens (LCC eq. 2 to 4), or the
        squared error, ``[group]``."""
        prefix, pairs = memory.after(self.front), [pair for group in groups for pair in group]
        answers = [(e.query, e.answer) for e, _ in pairs]
        batch = answer_batch(self.reader, answers, prefix)
        self.meter.forward(batch.packed.ids.numel(), prefix.tokens)
        tokens = _losses(self.reader, prefix, batch, pairs, loss)
        sizes = [sum(len(e.answer) for e, _ in group) for group in groups]
        return torch.stack([each.mean() for each in tokens.split(sizes)])


class BatchedLoss:
    """The losses of several documents in one batch, for a student with one adapter for each of them.

    All ``losses`` must have the same kinds of parts and no prefix; see
    `memkit.engine.transformers.lora.AdaptedLinear` for how rows are assigned to adapters.
    """

    def __init__(self, losses: Sequence[DistillationLoss]) -> None:
        self.losses = list(losses)
        self._meters = [loss.meter for loss in losses]

    def step(self, student: PreTrainedModel) -> Tensor:
        """The losses of the next step, ``[document]``."""
        first, before = self.losses[0], [meter.total for meter in self._meters]
        draws = [loss.draw() for loss in self.losses]
        total = torch.zeros(len(draws), device=student.device)
        for part, *drawn in zip(first.parts, *draws, strict=True):
            total = total + part.weight * discrepancies(student, None, drawn, first.loss, self._meters)
        for meter, start in zip(self._meters, before, strict=True):
            meter.total += meter.total - start  # the backward pass
        return total

    def skip(self, count: int) -> None:
        """See `DistillationLoss.skip`."""
        for loss in self.losses:
            loss.skip(count)

    @torch.no_grad()
    def measure(self, student: PreTrainedModel) -> list[float]:
        """Each document's median KL over its held-out examples, in nats per answer token.

        The median, not the mean: some held-out questions ask for facts that no training question covers, so
        they cannot be learned.
        """
        held_out = [loss.held_out for loss in self.losses]
        groups = _by_example(student, None, held_out, "kl", self._meters)
        return [statistics.median(float(tokens.mean()) for tokens in group) for group in groups]


def split_held_out(
    questions: tuple[Pair, ...], agnostic: tuple[Pair, ...]
) -> tuple[tuple[Pair, ...], tuple[Pair, ...], tuple[Pair, ...]]:
    """Split into questions to train on, context-agnostic queries to train on, and held-out examples.

    The held-out examples are questions, never reconstructions: a low reconstruction loss does not make a
    memory. If none is marked as held out, every eighth question is; without questions, some of the
    context-agnostic queries are.
    """
    held_out = tuple(pair for pair in questions if pair[0].held_out)
    trained = tuple(pair for pair in questions if not pair[0].held_out)
    if not held_out and len(trained) > 1:
        held_out = trained[::HELD_OUT_SHARE]
        trained = tuple(pair for i, pair in enumerate(trained) if i % HELD_OUT_SHARE)
    reserved = 0 if questions else len(agnostic) // 8
    return trained, agnostic[reserved:], held_out or agnostic[:reserved]


def discrepancies(
    reader: PreTrainedModel,
    prefix: kv_cache.KVPrefix | None,
    groups: Sequence[Sequence[Pair]],
    loss: Loss,
    meters: Sequence[FlopMeter],
) -> Tensor:
    """The mean loss over each group's answer tokens, ``[group]``, computed as one batch."""
    each = _by_example(reader, prefix, groups, loss, meters)
    return torch.stack([torch.cat(tokens).mean() for tokens in each])


def _by_example(
    reader: PreTrainedModel,
    prefix: kv_cache.KVPrefix | None,
    groups: Sequence[Sequence[Pair]],
    loss: Loss,
    meters: Sequence[FlopMeter],
) -> list[list[Tensor]]:
    """The losses ``[answer tokens]`` of every example of every group.

    All groups get equally many rows of the batch; smaller ones are padded with rows that are ignored.
    """
    rows = max(len(group) for group in groups)
    filled = [pair for group in groups for pair in (*group, *[group[0]] * (rows - len(group)))]
    before = prefix.tokens if prefix else 0
    batch = kv_cache.AnswerBatch.of([(e.query, e.answer) for e, _ in filled], prefix, reader.device)
    for meter in meters:
        meter.forward(batch.packed.ids.numel() // len(groups), before)
    tokens = _losses(reader, prefix, batch, filled, loss)
    parts = tokens.split([len(e.answer) for e, _ in filled])
    return [list(parts[i * rows : i * rows + len(group)]) for i, group in enumerate(groups)]


def _losses(
    reader: PreTrainedModel,
    prefix: kv_cache.KVPrefix | None,
    batch: kv_cache.AnswerBatch,
    pairs: Sequence[Pair],
    loss: Loss,
) -> Tensor:
    """The losses of the answers of a batch, ``[answer tokens]``, in the order of ``pairs``."""
    target = Target(
        torch.cat([t.ids for _, t in pairs]),
        torch.cat([t.logprobs for _, t in pairs]),
        torch.cat([t.rest for _, t in pairs]),
    )
    logits = kv_cache.answer_logits(reader, prefix, batch)
    return (kl if loss == "kl" else squared_error)(target, logits)
