"""A stage from its start to its checkpoint: what it begins from, its run, its evaluation.

A stage begins from the checkpoint of the one before it: CPT-1 → CPT-2 → SFT → RL.
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
    """One stage of one compressor. ``options`` are fields of the stage's configuration, ``model_options`` of
    the compressor's, for the first stage; ``start`` is the checkpoint to begin from ("": the newest of the
    stage before; for the first stage: none, else one of another ratio).
    """

    stage: StageName
    data: tuple[str, ...]
    preset: str = "paper"
    ratio: int = 16
    options: Mapping[str, Any] = field(default_factory=dict)
    model_options: Mapping[str, Any] = field(default_factory=dict)
    start: str = ""
    out: Path | None = (
        None  # the store; default: `memkit.engine.transformers.decoder_checkpoint.default_store`
    )
    evaluated: int = 24  # held-out texts at the end

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
    """Train a stage, evaluate it and write its checkpoint; the same plan goes on where it was interrupted.

    Of several ``processes`` the first writes the checkpoint.

    Raises `ConfigError` when the stage before it has not been run, or a setting or the data is unusable.
    """
    compressor, history = begin(plan, base)
    folder = plan.store / f"{_slug(base)}-{compressor.config.chunk}x-{plan.stage}"
    processes = processes or ProcessGroup()
    under_way = _run(plan, compressor, folder, progress, processes)
    state = under_way.run()
    entry = {
        "stage": plan.stage,
        "preset": plan.preset,
        "data": [Path(name).name for name in plan.data],
        "config": asdict(under_way.config),
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
    """The compressor that a stage trains, and the history of the stages before it."""
    config, number = plan.config, STAGES.index(plan.stage)
    if number == 0 and plan.start:
        return _of_another_ratio(plan, base)
    if number == 0:
        shape = compressor_config(plan.preset, {"chunk": plan.ratio, **plan.model_options})
        return Compressor(base, shape, config.seed), []
    before = _before(plan, base, STAGES[number - 1])
    compressor = checkpoint.load(before, base)
    if isinstance(config, RLConfig) and compressor.decoder is compressor.encoder:
        compressor.part_decoder(config.rank, config.seed)
    return compressor, before.about["history"]


def _of_another_ratio(plan: Plan, base: LoadedModel) -> tuple[Compressor, Sequence[Mapping[str, Any]]]:
    """A compressor that was trained for chunks of another size: shorter ones are learned sooner.

    A decoder that reinforcement learning gave weights of its own stays behind.
    """
    found = decoder_checkpoint.by_id(plan.start, plan.store)
    if plan.model_options:
        raise ConfigError(f"{found.label} has its own options: give those of the compressor without --start")
    compressor = checkpoint.load(found, base)
    compressor.decoder, compressor.decoder_values = compressor.encoder, {}
    compressor.config = replace(compressor.config, chunk=plan.ratio)
    return compressor, found.about["history"]


def _before(plan: Plan, base: LoadedModel, stage: StageName) -> DecoderCheckpoint:
    if plan.start:
        found = decoder_checkpoint.by_id(plan.start, plan.store)
        if found.about["stage"] != stage:
            raise ConfigError(
                f"{plan.stage} begins after {stage}; {found.label} is not that stage's checkpoint"
            )
        return found
    for found in sorted(
        decoder_checkpoint.checkpoints(plan.store), key=lambda c: str(c.about["created"]), reverse=True
    ):
        same = (
            found.about["fingerprint"] == base.fingerprint and found.about["compiler"] == checkpoint.COMPILER
        )
        if same and found.about["stage"] == stage and found.about["config"].get("chunk") == plan.ratio:
            return found
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
    standard = compressor.config.decoder != "frozen"  # an untouched decoder has nothing to forget
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
    made: dict[str, Any] = {
        "nominal_ratio": compressor.config.nominal_ratio,
        "effective_ratio": round(compressor.config.effective_ratio, 3),
        "reconstruction": reconstruction(evaluator, draw, plan.evaluated, 1),
    }
    if texts := _asked(draw, plan.evaluated):
        made["qa"] = question_answering(evaluator, texts)
    return made


def _asked(draw: Draw, count: int) -> list[Text]:
    """Held-out texts with questions; none where the data has no questions."""
    rng = random.Random(2)
    try:
        return [draw(rng, "qa", 1.0) for _ in range(count)]
    except ConfigError:
        return []
