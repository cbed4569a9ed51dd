"""Checkpoints of trained compressors and decoders: a folder with two files.

``checkpoint.json`` describes the weights, the base model (by its fingerprint) and the training;
``weights.safetensors`` holds them, and its SHA-256 is in the description. A checkpoint's id is the SHA-256 of
``checkpoint.json``: an artifact names the decoder that reads it by this id.

Checkpoints are stored in ``MEMKIT_CHECKPOINTS`` (default: the platform's folder for user data). Those of nano
ship with memkit.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memkit.config import Config
from memkit.engine.transformers.finetune import FinetuneConfig, FinetunedModel
from memkit.engine.transformers.lora import adapter_config, peft_tensors, write_peft
from memkit.errors import ArtifactError, ConfigError, EngineError, FingerprintError
from memkit.models.loading import NANO_FOLDER, LoadedModel

ABOUT, WEIGHTS = "checkpoint.json", "weights.safetensors"
FORMAT = 1
SHIPPED = NANO_FOLDER.parent / "compressors"
MAX_ABOUT = 4 << 20  # bytes
_KEYS = {
    "format": int,
    "name": str,
    "compiler": str,
    "model": str,
    "fingerprint": str,
    "stage": str,
    "created": str,
    "sha256": str,
    "config": dict,
    "decoder": dict,
    "history": list,
}


def default_store() -> Path:
    """The folder of checkpoints that were trained here: `Config.checkpoints`, else the platform's."""
    from platformdirs import user_data_path

    return Config.load().checkpoints or user_data_path("memkit", appauthor=False) / "checkpoints"


@dataclass(frozen=True)
class DecoderCheckpoint:
    """A checkpoint's description, ``about``; `tensors` reads its weights.

    ``about["decoder"]`` is the `FinetuneConfig` of the decoder: of a LoRA on top of the encoder's weights, or
    of separate weights (``"apart": true``). If empty, encoder and decoder are the same model.
    """

    folder: Path
    id: str
    about: Mapping[str, Any]

    @classmethod
    def open(cls, folder: Path) -> DecoderCheckpoint:
        """Read a checkpoint's description. Raises `ArtifactError` when it is absent or malformed."""
        try:
            data = (folder / ABOUT).read_bytes()
        except OSError as error:
            raise ArtifactError(f"cannot read the checkpoint {folder.name}: {error.strerror}") from error
        try:
            about = json.loads(data) if len(data) <= MAX_ABOUT else None
        except ValueError:
            about = None
        if not isinstance(about, dict) or set(about) != set(_KEYS):
            raise ArtifactError(f"{folder.name}/{ABOUT} does not describe a checkpoint")
        if wrong := [key for key, kind in _KEYS.items() if type(about[key]) is not kind]:
            raise ArtifactError(f"{folder.name}/{ABOUT} has no sound {wrong[0]}")
        if about["format"] != FORMAT:
            raise ArtifactError(
                f"{folder.name}/{ABOUT} has format {about['format']}; this memkit reads {FORMAT}"
            )
        return cls(folder, hashlib.sha256(data).hexdigest(), about)

    @property
    def label(self) -> str:
        """A readable name such as "nano-16x, stage rl (1a2b3c4d5e6f)"."""
        return f"{self.about['name']}, stage {self.about['stage']} ({self.id[:12]})"

    def require(self, base: LoadedModel) -> None:
        """Raise `FingerprintError` unless the weights were trained for this base model."""
        if self.about["fingerprint"] != base.fingerprint:
            raise FingerprintError(
                f"the checkpoint {self.label} was trained for base model {self.about['fingerprint'][:12]} "
                f"({self.about['model']}), this is {base.fingerprint[:12]} ({base.name}); train one for it: "
                "memkit train-compressor"
            )

    def tensors(self) -> dict[str, Tensor]:
        """All weights, in float32. Raises `ArtifactError` when the file is absent, altered or malformed."""
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            data = (self.folder / WEIGHTS).read_bytes()
        except OSError as error:
            raise ArtifactError(f"cannot read the weights of {self.folder}: {error.strerror}") from error
        if hashlib.sha256(data).hexdigest() != self.about["sha256"]:
            raise ArtifactError(f"{self.folder / WEIGHTS} does not match its digest: the file was altered")
        try:
            return {name: tensor.float() for name, tensor in load(data).items()}
        except SafetensorError as error:
            raise ArtifactError(f"{self.folder / WEIGHTS} is not sound: {error}") from error


def write(
    folder: Path, about: Mapping[str, Any], tensors: Mapping[str, Tensor], dtype: torch.dtype
) -> DecoderCheckpoint:
    """Write a checkpoint atomically, its weights in ``dtype``, and read its description back.

    Raises `ConfigError` when the folder cannot be written.
    """
    from safetensors.torch import save

    data = save({name: t.detach().to("cpu", dtype).contiguous() for name, t in sorted(tensors.items())})
    described = {**about, "format": FORMAT, "sha256": hashlib.sha256(data).hexdigest()}
    text = json.dumps(described, indent=1, sort_keys=True) + "\n"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in (
            (WEIGHTS, data),
            (ABOUT, text.encode()),
        ):  # the description last
            temporary = folder / f".{name}.{os.getpid()}.partial"
            temporary.write_bytes(content)
            temporary.replace(folder / name)
    except OSError as error:
        raise ConfigError(f"cannot write the checkpoint {folder}: {error.strerror}") from error
    return DecoderCheckpoint.open(folder)


def checkpoints(store: Path | None = None) -> Iterator[DecoderCheckpoint]:
    """The valid checkpoints of a store (default: `default_store`) and those that ship with memkit."""
    for place in (store or default_store(), SHIPPED):
        for file in sorted(place.glob(f"*/{ABOUT}")):
            try:
                yield DecoderCheckpoint.open(file.parent)
            except ArtifactError:
                continue


def by_id(identity: str, store: Path | None = None) -> DecoderCheckpoint:
    """The checkpoint with that id or unique prefix of it. Raises `ConfigError` if none or several match."""
    matches = {c.id: c for c in checkpoints(store) if c.id.startswith(identity)}
    if len(matches) != 1:
        problem = "no checkpoint" if not matches else f"{len(matches)} checkpoints"
        raise ConfigError(
            f"there is {problem} {identity[:12]} here; name another, or set MEMKIT_CHECKPOINTS to the folder "
            "that holds it"
        )
    return next(iter(matches.values()))


def section(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors whose names start with ``name.``, with that prefix removed."""
    return {key.removeprefix(f"{name}."): t for key, t in tensors.items() if key.startswith(f"{name}.")}


def finetune_config(values: Mapping[str, Any]) -> FinetuneConfig:
    """A `FinetuneConfig` from a checkpoint's description. Raises `ArtifactError` when it is invalid."""
    try:
        return FinetuneConfig(**values)
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"not a sound checkpoint: {error}") from error


def _decoder_config(values: Mapping[str, Any]) -> FinetuneConfig:
    """Like `finetune_config`, for a decoder's values, which also hold ``apart``."""
    return finetune_config({key: value for key, value in values.items() if key != "apart"})


def decoder_over(encoder: FinetunedModel, base: LoadedModel, values: Mapping[str, Any]) -> FinetunedModel:
    """The decoder that a checkpoint's ``decoder`` describes, before its weights are loaded; or the
    encoder."""
    if not values:
        return encoder
    apart = bool(values.get("apart"))
    config = _decoder_config(values)
    return FinetunedModel(base.model if apart else encoder.student, config)


def load_decoder(identity: str, base: LoadedModel) -> Any:
    """The decoder of a checkpoint: a copy of ``base.model`` that shares all weights that were not trained.

    Raises `EngineError` when the checkpoint is absent, `FingerprintError` for another base model's.
    """
    try:
        checkpoint = by_id(identity, base.checkpoints)
    except ConfigError as error:
        raise EngineError(f"the artifact is read by a trained decoder that is not here: {error}") from error
    checkpoint.require(base)
    tensors = checkpoint.tensors()
    encoder = FinetunedModel(base.model, finetune_config(checkpoint.about["config"].get("adapted", {})))
    encoder.load(section(tensors, "encoder"))
    encoder.frozen(base.model.dtype)
    decoder = decoder_over(encoder, base, checkpoint.about["decoder"])
    if decoder is not encoder:
        decoder.load(section(tensors, "decoder"))
    return decoder.frozen(base.model.dtype)


def export_decoder(checkpoint: DecoderCheckpoint, folder: str | Path) -> Path:
    """Write a checkpoint's decoder as a PEFT adapter; returns the folder.

    The base model with this adapter reads memory embeddings (the mean-pool paper's pure LoRA decoder).
    Raises `ConfigError` for a decoder that is more than a LoRA, or when the folder cannot be written.
    """
    about = checkpoint.about
    values = about["decoder"] or about["config"].get("adapted", {})
    config = _decoder_config(values)
    if config.full_every or config.embeddings or about["config"].get("decoder") == "frozen":
        raise ConfigError(
            f"the decoder of {checkpoint.label} is no LoRA; train one with decoder=lora, full_every=0 and "
            "embeddings=false"
        )
    weights = section(section(checkpoint.tensors(), "decoder" if about["decoder"] else "encoder"), "lora")
    layers = dict.fromkeys(name.rpartition(".")[0] for name in weights)
    pairs = {layer: (weights[f"{layer}.a"], weights[f"{layer}.b"]) for layer in layers}
    try:
        return write_peft(
            Path(folder), peft_tensors(pairs), adapter_config(config.rank, config.alpha, config.targets)
        )
    except OSError as error:
        raise ConfigError(f"cannot write the adapter to {folder}: {error.strerror}") from error
