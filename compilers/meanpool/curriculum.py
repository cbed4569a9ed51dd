"""Run one training stage: load its starting point, train, evaluate, write its checkpoint.

Each stage starts from the checkpoint of the previous one: CPT-1 → CPT-2 → SFT → RL.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from memkit.compilers.base import Progress, silent
from memkit.compilers.meanpool import checkpoint
from memkit.compilers.meanpool.config import (
    RLConfig,
    StageConfig,
    compressor_config,
    stage_config,
)
from memkit.compilers.meanpool.datasets import open_source
from memkit.compilers.meanpool.distributed import ProcessGroup
from memkit.compilers.meanpool.evaluate import Evaluator, question_answering, reconstruction
from memkit.compilers.meanpool.model import Compressor
from memkit.compilers.meanpool.options import STAGES
from memkit.compilers.meanpool.options import Stage as StageName
from memkit.compilers.meanpool.rewards import reward_function
from memkit.compilers.meanpool.rl import RLStage, Rollouts
from memkit.compilers.meanpool.tasks import Sampler
from memkit.compilers.meanpool.texts import Draw, Text
from memkit.compilers.meanpool.train import Run
from memkit.compilers.meanpool.training import Stage
from memkit.engine.transformers import decoder_checkpoint
from memkit.engine.transformers.decoder_checkpoint import DecoderCheckpoint
from memkit.errors import ConfigError
from memkit.models.loading import LoadedModel


@dataclass(frozen=True)
class Plan:
    """One stage of the training of a compressor. Raises `ConfigError` for invalid values.

    ``start`` is the id of the checkpoint to start from; "" takes the newest one of the previous stage. The
    first stage starts from random weights, or from a compressor with another ratio.
    """

    stage: StageName
    data: tuple[str, ...]  # files, or "generated"
    preset: str = "paper"
    ratio: int = 16  # tokens for each memory embedding
    options: Mapping[str, Any] = field(default_factory=dict)  # fields of the stage's configuration
    model_options: Mapping[str, Any] = field(default_factory=dict)  # of the compressor's; first stage only
    start: str = ""
    # Folder for checkpoints; default: `memkit.engine.transformers.decoder_checkpoint.default_store`.
    out: Path | None = None
    evaluated: int = 24  # held-out texts of the final evaluation

    def __post_init__(self) -> None:
        if self.stage != STAGES[0] and self.model_options:
            raise ConfigError("the compressor's own options are chosen in the first stage, cpt1")
        self.config  # noqa: B018 # a wrong option is an error now

    @property
    def config(self) -> StageConfig | RLConfig:
        return stage_config(self.stage, self.preset, self.options)

    @property
    def store(self) -> Path:
        return self.out or decoder_checkpoint.default_store()


@dataclass(frozen=True)
class TrainedStage:
    """A stage's checkpoint and its entry in the history."""

    checkpoint: DecoderCheckpoint
    entry: Mapping[str, Any]


def run(
    plan: Plan, base: LoadedModel, progress: Progress = silent, processes: ProcessGroup | None = None
) -> TrainedStage:
    """Train a stage, evaluate it and write its checkpoint. An interrupted run of the same plan is resumed.

    Of several ``processes`` the first writes the checkpoint. Raises `ConfigError` when the previous stage has
    no checkpoint, or for unusable settings or data.
    """
    compressor, history = begin(plan, base)
    folder = plan.store / f"{_slug(base)}-{compressor.config.chunk}x-{plan.stage}"
    processes = processes or ProcessGroup()
    training = _run(plan, compressor, folder, progress, processes)
    state = training.run()
    entry = {
        "stage": plan.stage,
        "preset": plan.preset,
        "data": [Path(name).name for name in plan.data],
        "config": asdict(training.config),
        "steps": state.step,
        "best_step": state.best_step,
        "seconds": round(state.seconds),
        "curve": [list(point) for point in state.curve],
        "evaluation": evaluate(plan, compressor),
    }
    name = f"{_slug(base)}-{compressor.config.chunk}x"
    if processes.leads:
        checkpoint.save(compressor, folder, plan.stage, name, [*history, entry])
    processes.wait()
    return TrainedStage(DecoderCheckpoint.open(folder), entry)


def begin(plan: Plan, base: LoadedModel) -> tuple[Compressor, Sequence[Mapping[str, Any]]]:
    """The compressor at the start of a stage, and the history of the previous stages."""
    config, number = plan.config, STAGES.index(plan.stage)
    if number == 0 and plan.start:
        return _of_another_ratio(plan, base)
    if number == 0:
        shape = compressor_config(plan.preset, {"chunk": plan.ratio, **plan.model_options})
        return Compressor(base, shape, config.seed), []
    before = _previous(plan, base, STAGES[number - 1])
    compressor = checkpoint.load(before, base)
    if isinstance(config, RLConfig) and compressor.decoder is compressor.encoder:
        compressor.separate_decoder(config.rank, config.seed)
    return compressor, before.about["history"]


def _of_another_ratio(plan: Plan, base: LoadedModel) -> tuple[Compressor, Sequence[Mapping[str, Any]]]:
    """Start from a compressor with another chunk size, since short chunks are learned faster.

    Its separate decoder, if reinforcement learning gave it one, is dropped.
    """
    start = decoder_checkpoint.by_id(plan.start, plan.store)
    if plan.model_options:
        raise ConfigError(f"{start.label} has its own options: give those of the compressor without --start")
    compressor = checkpoint.load(start, base)
    compressor.decoder, compressor.decoder_values = compressor.encoder, {}
    compressor.config = replace(compressor.config, chunk=plan.ratio)
    return compressor, start.about["history"]


def _previous(plan: Plan, base: LoadedModel, stage: StageName) -> DecoderCheckpoint:
    if plan.start:
        start = decoder_checkpoint.by_id(plan.start, plan.store)
        if start.about["stage"] != stage:
            raise ConfigError(
                f"{plan.stage} begins after {stage}; {start.label} is not that stage's checkpoint"
            )
        return start
    for each in sorted(
        decoder_checkpoint.checkpoints(plan.store), key=lambda c: str(c.about["created"]), reverse=True
    ):
        matches = (
            each.about["fingerprint"] == base.fingerprint and each.about["compiler"] == checkpoint.COMPILER
        )
        if matches and each.about["stage"] == stage and each.about["config"].get("chunk") == plan.ratio:
            return each
    raise ConfigError(
        f"{plan.stage} begins from a checkpoint of {stage}, and there is none for {base.name} at "
        f"{plan.ratio}x in {plan.store}; run --stage {stage} first"
    )


def _run(
    plan: Plan, compressor: Compressor, folder: Path, progress: Progress, processes: ProcessGroup
) -> Run:
    config, key = plan.config, f"{plan.stage} {_digest(plan, compressor)}"
    train, held_out = _draws(plan)
    if isinstance(config, RLConfig):
        reward = reward_function(config)
        first, second = (Rollouts(compressor, config, draw, reward) for draw in (train, held_out))
        return RLStage(first, second, folder, key, progress, processes)
    standard = compressor.config.decoder != "frozen"  # a frozen decoder cannot forget language modelling
    samplers = [Sampler(compressor.base, config, draw, standard) for draw in (train, held_out)]
    return Stage(compressor, samplers[0], samplers[1], folder, key, progress, processes)


def _draws(plan: Plan) -> tuple[Draw, Draw]:
    config = plan.config
    train, held_out = (
        open_source(plan.data, split, config.seed, config.facts) for split in ("train", "held_out")
    )
    return train, held_out


def _digest(plan: Plan, compressor: Compressor) -> str:
    about = [asdict(plan.config), asdict(compressor.config), list(plan.data), compressor.base.fingerprint]
    return hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _slug(base: LoadedModel) -> str:
    return "".join(c if c.isalnum() else "-" for c in Path(base.name).name).strip("-") or "model"


def evaluate(plan: Plan, compressor: Compressor) -> dict[str, Any]:
    """Reconstruction and question answering on held-out texts."""
    evaluator, (_, draw) = Evaluator(compressor), _draws(plan)
    figures: dict[str, Any] = {
        "nominal_ratio": compressor.config.nominal_ratio,
        "effective_ratio": round(compressor.config.effective_ratio, 3),
        "reconstruction": reconstruction(evaluator, draw, plan.evaluated, 1),
    }
    if texts := _texts_with_questions(draw, plan.evaluated):
        figures["qa"] = question_answering(evaluator, texts)
    return figures


def _texts_with_questions(draw: Draw, count: int) -> list[Text]:
    """Held-out texts with questions; none if the data has no questions."""
    rng = random.Random(2)
    try:
        return [draw(rng, "qa", 1.0) for _ in range(count)]
    except ConfigError:
        return []
