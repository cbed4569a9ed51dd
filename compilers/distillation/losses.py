"""What a memory must do as the full context does: the training losses, and the held-out one."""

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

Pair = tuple[Example, Target]
Loss = Literal["kl", "mse"]


@dataclass(frozen=True)
class Part:
    """Examples of one kind: ``batch`` of them a step, their mean loss times ``weight``."""

    pairs: tuple[Pair, ...]
    batch: int
    weight: float


class DistillationLoss:
    """Discrepancies between the full context and a memory that stands behind ``front``.

    ``parts`` are drawn from at every step, each example once before any comes twice;
    ``held_out`` is never trained on, and decides when training stops.
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
        self.reader: PreTrainedModel = teacher.base.model  # answers behind a memory: the frozen model
        self.parts = [part for part in parts if part.pairs]
        self.held_out = tuple(held_out)
        random = torch.Generator().manual_seed(seed)
        self._draws: list[Iterator[list[int]]] = [
            cycle(len(part.pairs), part.batch, random) for part in self.parts
        ]

    @classmethod
    def union(
        cls, objectives: Sequence[DistillationLoss], front: kv_cache.KVCache | None
    ) -> DistillationLoss:
        """All examples of several objectives, for a memory that stands behind ``front``."""
        first = objectives[0]
        kinds = dict[str, list[Part]]()
        for objective in objectives:
            for part in objective.parts:
                kinds.setdefault(part.pairs[0][0].kind, []).append(part)
        parts = [
            Part(tuple(pair for part in same for pair in part.pairs), same[0].batch, same[0].weight)
            for same in kinds.values()
        ]
        held_out = [pair for objective in objectives for pair in objective.held_out]
        return cls(first.teacher, front, parts, held_out, loss=first.loss, seed=first.seed, meter=first.meter)

    def draw(self) -> list[list[Pair]]:
        """The next draw: examples of every part."""
        return [
            [part.pairs[i] for i in next(draws)] for part, draws in zip(self.parts, self._draws, strict=True)
        ]

    def step(self, memory: kv_cache.KVCache) -> Tensor:
        """The loss of the next draw."""
        before = self.meter.total
        total = torch.zeros((), device=self.teacher.base.model.device)
        for part, drawn in zip(self.parts, self.draw(), strict=True):
            total = total + part.weight * self.discrepancy(memory, drawn, self.loss)
        self.meter.total += self.meter.total - before  # backward: as much again, for activations
        return total

    def skip(self, count: int) -> None:
        """Pass over the next ``count`` draws, which an interrupted run has made."""
        for _ in range(count):
            self.draw()

    def measure(self, memory: kv_cache.KVCache) -> float:
        """Mean KL in nats per answer token over the held-out examples."""
        with torch.no_grad():
            return float(self.discrepancy(memory, self.held_out, "kl"))

    def discrepancy(self, memory: kv_cache.KVCache, pairs: Sequence[Pair], loss: Loss) -> Tensor:
        """Mean over answer tokens of KL(full context ‖ memory) in nats (LCC eq. 2 to 4), or squared error."""
        prefix = self.front.join(memory) if self.front else memory
        return discrepancies(self.reader, prefix, [pairs], loss, [self.meter])[0]


class BatchedLoss:
    """Objectives of several documents as one batch, for a ``student`` with an adapter for each of them.

    The objectives have the same kinds of parts, without a memory in front; see
    `memkit.engine.transformers.lora.AdaptedLinear` for how rows find their adapter.
    """

    def __init__(self, objectives: Sequence[DistillationLoss]) -> None:
        self.objectives = list(objectives)
        self._meters = [objective.meter for objective in objectives]

    def step(self, student: PreTrainedModel) -> Tensor:
        """The losses of the next draw, ``[document]``."""
        first, before = self.objectives[0], [meter.total for meter in self._meters]
        draws = [objective.draw() for objective in self.objectives]
        total = torch.zeros(len(draws), device=student.device)
        for part, *drawn in zip(first.parts, *draws, strict=True):
            total = total + part.weight * discrepancies(student, None, drawn, first.loss, self._meters)
        for meter, start in zip(self._meters, before, strict=True):
            meter.total += meter.total - start  # backward
        return total

    def skip(self, count: int) -> None:
        """As `DistillationLoss.skip`."""
        for objective in self.objectives:
            objective.skip(count)

    @torch.no_grad()
    def measure(self, student: PreTrainedModel) -> list[float]:
        """Each document's median KL, in nats per answer token, over its held-out examples.

        Not the mean: a few of them ask what no other question teaches, and cannot be learned without the
        context. Where there are only such questions, the median says nothing either.
        """
        held_out = [objective.held_out for objective in self.objectives]
        groups = _by_example(student, None, held_out, "kl", self._meters)
        return [statistics.median(float(tokens.mean()) for tokens in group) for group in groups]


def split_held_out(
    asked: tuple[Pair, ...], agnostic: tuple[Pair, ...]
) -> tuple[tuple[Pair, ...], tuple[Pair, ...], tuple[Pair, ...]]:
    """Questions to train on, context-agnostic queries to train on, and what decides when to stop.

    That looks at answers, never at reconstruction: a parrot reconstructs. Where nothing was asked, some
    of the context-agnostic queries take that part.
    """
    held_out = tuple(pair for pair in asked if pair[0].held_out)
    trained = tuple(pair for pair in asked if not pair[0].held_out)
    aside = 0 if asked else len(agnostic) // 8
    return trained, agnostic[aside:], held_out or agnostic[:aside]


def discrepancies(
    reader: PreTrainedModel,
    prefix: kv_cache.KVCache | None,
    groups: Sequence[Sequence[Pair]],
    loss: Loss,
    meters: Sequence[FlopMeter],
) -> Tensor:
    """Mean discrepancy over each group's answer tokens, ``[group]``; all groups are read as one batch."""
    each = _by_example(reader, prefix, groups, loss, meters)
    return torch.stack([torch.cat(tokens).mean() for tokens in each])


def _by_example(
    reader: PreTrainedModel,
    prefix: kv_cache.KVCache | None,
    groups: Sequence[Sequence[Pair]],
    loss: Loss,
    meters: Sequence[FlopMeter],
) -> list[list[Tensor]]:
    """Discrepancies ``[answer tokens]`` of every example of every group.

    The groups' shares of the batch are equal: one with fewer examples is filled up, which counts for
    nothing.
    """
    rows = max(len(group) for group in groups)
    filled = [pair for group in groups for pair in (*group, *[group[0]] * (rows - len(group)))]
    before = prefix.tokens if prefix else 0
    batch = kv_cache.AnswerBatch.of([(e.query, e.answer) for e, _ in filled], before, reader.device)
    for meter in meters:
        meter.forward(batch.packed.ids.numel() // len(groups), before)
    target = Target(
        torch.cat([t.ids for _, t in filled]),
        torch.cat([t.logprobs for _, t in filled]),
        torch.cat([t.rest for _, t in filled]),
    )
    logits = kv_cache.answer_logits(reader, prefix, batch)
    tokens = (kl if loss == "kl" else squared_error)(target, logits)
    parts = tokens.split([len(e.answer) for e, _ in filled])
    return [list(parts[i * rows : i * rows + len(group)]) for i, group in enumerate(groups)]
