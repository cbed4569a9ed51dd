"""What a memory must do as the full context does: the training losses, and the held-out one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedModel

from memkit.compilers.arithmetic import FlopMeter
from memkit.compilers.teacher import Example, Target, Teacher, kl, squared_error
from memkit.compilers.training import cycle
from memkit.engine import kv

Pair = tuple[Example, Target]
Loss = Literal["kl", "mse"]


@dataclass(frozen=True)
class Part:
    """Examples of one kind: ``batch`` of them a step, their mean loss times ``weight``."""

    pairs: tuple[Pair, ...]
    batch: int
    weight: float


class Objective:
    """Discrepancies between the full context and a memory that stands behind ``front``.

    ``parts`` are drawn from at every step, each example once before any comes twice;
    ``held_out`` is never trained on, and decides when training stops.
    """

    def __init__(
        self,
        teacher: Teacher,
        front: kv.KV | None,
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
    def union(cls, objectives: Sequence[Objective], front: kv.KV | None) -> Objective:
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

    def step(self, memory: kv.KV) -> Tensor:
        """The loss of the next draw."""
        before = self.meter.total
        total = torch.zeros((), device=self.teacher.base.model.device)
        for part, draws in zip(self.parts, self._draws, strict=True):
            drawn = [part.pairs[i] for i in next(draws)]
            total = total + part.weight * self.discrepancy(memory, drawn, self.loss)
        self.meter.total += self.meter.total - before  # backward: as much again, for activations
        return total

    def skip(self, count: int) -> None:
        """Pass over the next ``count`` draws, which an interrupted run has made."""
        for _ in range(count):
            for draws in self._draws:  # in the order of `step`: they share one generator
                next(draws)

    def measure(self, memory: kv.KV) -> float:
        """Mean KL in nats per answer token over the held-out examples."""
        with torch.no_grad():
            return float(self.discrepancy(memory, self.held_out, "kl"))

    def discrepancy(self, memory: kv.KV, pairs: Sequence[Pair], loss: Loss) -> Tensor:
        """Mean over answer tokens of KL(full context ‖ memory) in nats (LCC eq. 2 to 4), or squared error."""
        prefix = self.front.join(memory) if self.front else memory
        batch = kv.AnswerBatch.of([(e.query, e.answer) for e, _ in pairs], prefix.tokens, self.reader.device)
        self.meter.forward(batch.packed.ids.numel(), prefix.tokens)
        logits = kv.answer_logits(self.reader, prefix, batch)
        target = Target(
            torch.cat([t.ids for _, t in pairs]),
            torch.cat([t.logprobs for _, t in pairs]),
            torch.cat([t.rest for _, t in pairs]),
        )
        return (kl if loss == "kl" else squared_error)(target, logits).mean()
