"""The supervised stages CPT-1, CPT-2 and SFT: one class with different settings (§3.3, Appendix I.2)."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from memkit.compilers.base import Progress, Step, silent
from memkit.compilers.meanpool.batches import Batch, Sample, collate, padded
from memkit.compilers.meanpool.config import StageConfig
from memkit.compilers.meanpool.distributed import ProcessGroup
from memkit.compilers.meanpool.model import Compressor
from memkit.compilers.meanpool.tasks import Sampler
from memkit.compilers.meanpool.train import Run, autocast, means
from memkit.errors import ConfigError

MAX_SPREAD = 1.5  # maximal ratio of the lengths of the longest and the shortest sample of a batch


def cosine(step: int, steps: int, warmup: int, minimum: float) -> float:
    """The learning rate at a step as a share of the peak: linear warm-up, then a cosine to ``minimum``."""
    if step < warmup:
        return (step + 1) / warmup
    done = min((step - warmup) / max(steps - warmup, 1), 1.0)
    return minimum + (1 - minimum) * 0.5 * (1 + math.cos(math.pi * done))


def optimizers(compressor: Compressor, config: StageConfig) -> list[torch.optim.Optimizer]:
    """The optimizers of a stage, with one group for each kind of weight; a learning rate of 0 freezes a kind.

    Muon trains the matrices of fully trained layers; their vectors use AdamW at a tenth of its rate. Raises
    `ConfigError` when this torch has no Muon, or when nothing is left to train.
    """
    adapted, head = compressor.encoder, compressor.head
    projection = [p for name, p in head.named_parameters() if name != "wrappers"]
    full = [*adapted.full.values(), *([] if head.wrappers is None else [head.wrappers])]
    for parameter in compressor.trained:
        parameter.requires_grad_(False)
    groups = [(adapted.low_rank, config.lora_lr, config.lora_decay), (projection, config.projection_lr, 0.0)]
    chosen = list[torch.optim.Optimizer]()
    if config.optimizer == "muon" and config.full_lr:
        muon = getattr(torch.optim, "Muon", None)
        if muon is None:
            raise ConfigError("optimizer='muon' needs torch 2.9 or newer; take adamw")
        matrices = [p for p in adapted.full.values() if p.ndim == 2]
        matrix_ids = {id(p) for p in matrices}
        groups.append(([p for p in full if id(p) not in matrix_ids], config.full_lr / 10, 0.0))
        if matrices:
            decay = config.full_decay
            chosen.append(muon(matrices, lr=config.full_lr, weight_decay=decay, adjust_lr_fn="original"))
    else:
        groups.append((full, config.full_lr, config.full_decay))
    trained = [{"params": p, "lr": lr, "weight_decay": decay} for p, lr, decay in groups if p and lr]
    if trained:
        chosen.append(torch.optim.AdamW(trained, betas=(0.9, 0.98)))
    if not chosen:
        raise ConfigError("the learning rates of everything that this model trains are 0")
    for parameter in (p for o in chosen for group in o.param_groups for p in group["params"]):
        parameter.requires_grad_(True)
    return chosen


def micro_batches(
    samples: Sequence[Sample], limit: int, compressor: Compressor, chunk: int = 0
) -> list[Batch]:
    """Batches of samples of similar length, with at most ``limit`` tokens each (or a single sample).

    Samples with and without a memory are in separate batches. ``chunk`` tokens become one memory embedding;
    0 takes the compressor's own size.
    """
    batches, device, positions = list[Batch](), compressor.base.model.device, compressor.config.positions
    chunk = chunk or compressor.config.chunk
    for kind in (True, False):
        matching = (s for s in samples if bool(s.context) == kind)
        group = list[Sample]()
        for sample in sorted(matching, key=lambda s: (s.width, s.cost)):
            # One long branch would pad all short ones to its length.
            longer = bool(group) and sample.width > MAX_SPREAD * group[0].width
            if group and (longer or padded([*group, sample]) > limit):
                batches.append(collate(group, chunk, positions, device))
                group = []
            group.append(sample)
        if group:
            batches.append(collate(group, chunk, positions, device))
    return batches


def by_task(batch: Batch, losses: Tensor) -> dict[str, tuple[float, float]]:
    """(sum, count) of the losses ``[target]`` for each task."""
    parts = [losses.detach()[batch.task == number] for number in range(len(batch.tasks))]
    return {
        task: (float(part.sum()), float(len(part))) for task, part in zip(batch.tasks, parts, strict=True)
    }


class Stage(Run):
    """One supervised stage of one compressor."""

    config: StageConfig

    def __init__(
        self,
        compressor: Compressor,
        train: Sampler,
        held_out: Sampler,
        folder: Path,
        key: str,
        progress: Progress = silent,
        processes: ProcessGroup | None = None,
    ) -> None:
        self.train, self.held_out = train, held_out
        stage_optimizers = optimizers(compressor, train.config)
        super().__init__(compressor, stage_optimizers, train.config, folder, key, progress, processes)

    def step(self) -> dict[str, tuple[float, float]]:
        seed = self.config.seed * 1_000_003 + self.state.step
        with torch.random.fork_rng():  # dropout draws from torch's generator
            torch.manual_seed(seed)
            return self._step(random.Random(seed))

    def _step(self, rng: random.Random) -> dict[str, tuple[float, float]]:
        config, state = self.config, self.state
        samples = [self.train.sample(rng, self.reached) for _ in range(config.batch)]
        chunk = config.chunk_at(self.reached, self.compressor.config.chunk)
        batches = micro_batches(samples, config.micro_tokens, self.compressor, chunk)
        total = sum(float(batch.weight.sum()) for batch in batches)
        losses_by_task, self.loss = list[dict[str, tuple[float, float]]](), 0.0
        self.compressor.encoder.student.train()  # dropout
        for batch in self.processes.share(batches):
            with autocast(self.compressor, config.precision):
                losses = -self.compressor(batch)
            loss = (losses * batch.weight).sum() / total
            loss.backward()
            self.loss += float(loss.detach())
            losses_by_task.append(by_task(batch, losses))
        self.compressor.encoder.student.eval()
        series = self.processes.total(losses_by_task)
        self.loss = sum(self.processes.gather([self.loss]))
        self.check(self.loss)
        warmup = round(config.warmup_ratio * config.steps)
        self.advance(cosine(state.step, config.steps, warmup, config.min_lr_ratio), self.compressor.trained)
        return series

    @torch.no_grad()
    def measure(self) -> tuple[float, dict[str, float]]:
        """The weighted mean loss on held-out texts, and the mean of each task, in nats per token."""
        config, rng = self.config, random.Random(self.config.seed + 1)
        samples = [self.held_out.sample(rng, 1.0) for _ in range(config.held_out)]
        total, weight, losses_by_task = 0.0, 0.0, list[dict[str, tuple[float, float]]]()
        for batch in self.processes.share(micro_batches(samples, config.micro_tokens, self.compressor)):
            with autocast(self.compressor, config.precision):
                losses = -self.compressor(batch)
            total += float((losses * batch.weight).sum())
            weight += float(batch.weight.sum())
            losses_by_task.append(by_task(batch, losses))
        total, weight = (sum(self.processes.gather([value])) for value in (total, weight))
        return total / max(weight, 1e-9), means(self.processes.gather(losses_by_task))

    def report(self) -> None:
        state, phase = self.state, self.key.partition(" ")[0]
        self.progress(Step(phase, state.step, self.config.steps, self.loss, state.seconds))
