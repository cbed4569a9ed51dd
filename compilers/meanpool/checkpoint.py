"""Save and load compressors as checkpoints, and find the checkpoint for a base model."""

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
    """Write a compressor after a ``stage``; ``history`` has an entry for each stage so far."""
    about = {
        "name": name,
        "compiler": COMPILER,
        "model": Path(compressor.base.name).name,  # not the path, which would reveal folders
        "fingerprint": compressor.base.fingerprint,
        "stage": stage,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "config": asdict(compressor.config),
        "decoder": compressor.decoder_values,
        "history": list(history),
    }
    return decoder_checkpoint.write(folder, about, compressor.tensors(), STORED)


def load(checkpoint: DecoderCheckpoint, base: LoadedModel) -> Compressor:
    """The compressor of a checkpoint, which can be trained further.

    Raises `FingerprintError` for another model's checkpoint and `ArtifactError` for a malformed one.
    """
    checkpoint.require(base)
    try:
        config = compressor_config("paper", flat(checkpoint.about["config"]))
    except (ConfigError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{checkpoint.folder} describes no compressor: {error}") from error
    compressor = Compressor(base, config)
    compressor.load(checkpoint.tensors(), checkpoint.about["decoder"])
    return compressor


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """A compressor's stored configuration as options of `compressor_config`."""
    return {**{k: v for k, v in config.items() if k != "adapted"}, **config["adapted"]}


def candidates(base: LoadedModel, chunk: int | None = None) -> list[DecoderCheckpoint]:
    """The checkpoints for a base model (and a chunk size): stages sft and rl first, then by date, newest
    first."""
    fitting = [
        each
        for each in decoder_checkpoint.checkpoints(base.checkpoints)
        if each.about["compiler"] == COMPILER
        and each.about["fingerprint"] == base.fingerprint
        and chunk in (None, each.about["config"].get("chunk"))
    ]
    return sorted(
        fitting, key=lambda c: (c.about["stage"] in ("sft", "rl"), c.about["created"]), reverse=True
    )


def newest(base: LoadedModel, chunk: int | None, stage: str = "") -> DecoderCheckpoint:
    """The newest checkpoint for a base model with this ``chunk`` size (None: any) and ``stage``.

    With the stage "" sft and rl are preferred. Raises `CompileError`, which lists the others, if there is
    none.
    """
    available = candidates(base)
    for each in available:
        if chunk in (None, each.about["config"].get("chunk")) and stage in ("", each.about["stage"]):
            return each
    others = "; there are: " + ", ".join(c.label for c in available) if available else ""
    wanted = ("" if chunk is None else f" at {chunk}x") + (f" after the stage {stage}" if stage else "")
    raise CompileError(
        f"no mean-pool checkpoint{wanted} was trained for {base.name}{others}. Train one: memkit "
        f"train-compressor --model {base.name} --ratio {chunk or 16} --stage {STAGES[0]} --data FILE"
    )
