"""Compressors as checkpoints, and which checkpoint a base model has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from memkit.compilers.meanpool.config import compressor_config
from memkit.compilers.meanpool.model import Compressor
from memkit.compilers.meanpool.options import STAGES
from memkit.engine.transformers import decoder_checkpoint
from memkit.engine.transformers.decoder_checkpoint import DecoderCheckpoint
from memkit.errors import ArtifactError, CompileError, ConfigError
from memkit.models.loading import LoadedModel

COMPILER = "meanpool"
STORED = torch.bfloat16


def save(
    compressor: Compressor, folder: Path, stage: str, name: str, history: Sequence[Mapping[str, Any]]
) -> DecoderCheckpoint:
    """Write a compressor after a ``stage``; ``history`` says how each stage went."""
    about = {
        "name": name,
        "compiler": COMPILER,
        "model": Path(compressor.base.name).name,  # a checkpoint travels; a path would tell of its maker
        "fingerprint": compressor.base.fingerprint,
        "stage": stage,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": asdict(compressor.config),
        "decoder": compressor.decoder_values,
        "history": list(history),
    }
    return decoder_checkpoint.write(folder, about, compressor.tensors(), STORED)


def load(found: DecoderCheckpoint, base: LoadedModel) -> Compressor:
    """The compressor of a checkpoint, ready to train on.

    Raises `FingerprintError` for another model's checkpoint and `ArtifactError` for one that is not sound.
    """
    found.require(base)
    try:
        config = compressor_config("paper", flat(found.about["config"]))
    except (ConfigError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{found.folder} describes no compressor: {error}") from error
    compressor = Compressor(base, config)
    compressor.load(found.tensors(), found.about["decoder"])
    return compressor


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """A compressor's stored configuration as options of `compressor_config`."""
    return {**{k: v for k, v in config.items() if k != "adapted"}, **config["adapted"]}


def candidates(base: LoadedModel, chunk: int | None = None) -> list[DecoderCheckpoint]:
    """Checkpoints for a base model (and a chunk size): those that can answer first, then the newest."""
    fitting = [
        found
        for found in decoder_checkpoint.checkpoints(base.checkpoints)
        if found.about["compiler"] == COMPILER
        and found.about["fingerprint"] == base.fingerprint
        and chunk in (None, found.about["config"].get("chunk"))
    ]
    return sorted(
        fitting, key=lambda c: (c.about["stage"] in ("sft", "rl"), c.about["created"]), reverse=True
    )


def newest(base: LoadedModel, chunk: int | None, stage: str = "") -> DecoderCheckpoint:
    """The newest checkpoint for a base model at C = ``chunk``, of one ``stage`` or, before others, sft or rl.

    None is any C. Raises `CompileError` when there is none; it says which other ones there are.
    """
    everything = candidates(base)
    for found in everything:
        if chunk in (None, found.about["config"].get("chunk")) and stage in ("", found.about["stage"]):
            return found
    others = "; there are: " + ", ".join(c.label for c in everything) if everything else ""
    wanted = ("" if chunk is None else f" at {chunk}x") + (f" after the stage {stage}" if stage else "")
    raise CompileError(
        f"no mean-pool checkpoint{wanted} was trained for {base.name}{others}. Train one: memkit "
        f"train-compressor --model {base.name} --ratio {chunk or 16} --stage {STAGES[0]} --data FILE"
    )
