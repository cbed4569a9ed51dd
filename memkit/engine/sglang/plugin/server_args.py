"""The flags with which an SGLang server serves a bank's artifacts, and the files that they name."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from memkit.engine.sglang.plugin.config import CAPACITY, PluginConfig
from memkit.engine.sglang.plugin.header import make_secret, write

if TYPE_CHECKING:
    from memkit.models.loading import LoadedModel

FOLDER = "sglang"  # below the bank's: the header of each model, and the secret
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class ServerFlags:
    """What a server is to offer beside artifacts of the kinds kv and embeds.

    ``page`` is its page size in tokens. ``lora_rank`` is the highest rank of a LoRA artifact, 0: none are
    served; ``loaded`` how many stay loaded, ``batched`` how many of them answer in one batch.
    """

    page: int = 1
    lora_rank: int = 0
    loaded: int = 32
    batched: int = 8
    hidden_states: bool = True  # for the learned gate, where its calibration uses them
    capacity: int = CAPACITY  # bytes of opened artifacts

    def __post_init__(self) -> None:
        for name in ("page", "loaded", "batched", "capacity"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.lora_rank < 0:
            raise ValueError(f"lora_rank must be at least 0, got {self.lora_rank}")
        if self.batched > self.loaded:
            raise ValueError(f"batched must be at most loaded ({self.loaded}), got {self.batched}")

    def of(self, model_path: str, config: PluginConfig, dtype: str) -> list[str]:
        """The flags, for a server of the model at that path."""
        flags = ["--model-path", model_path, "--dtype", dtype, "--page-size", str(self.page)]
        flags += ["--enable-unified-cache-external-linker"]
        flags += ["--unified-cache-external-linker-backend", "dynamic"]
        flags += ["--unified-cache-external-linker-config", config.flag()]
        if self.hidden_states:
            flags += ["--enable-return-hidden-states"]
        if self.lora_rank:
            flags += ["--enable-lora", "--max-lora-rank", str(self.lora_rank)]
            flags += ["--lora-target-modules", *TARGETS]
            flags += ["--max-loras-per-batch", str(self.batched), "--max-loaded-loras", str(self.loaded)]
        return flags


def prepare(
    home: Path, base: LoadedModel, artifacts: str | None = None, capacity: int = CAPACITY
) -> PluginConfig:
    """Make what a server needs to serve the bank at ``home`` with this model: the header and the secret.

    ``artifacts`` is their URL, where they are not in the bank's folder. Raises `ConfigError` when the bank
    cannot be written.
    """
    home = home.absolute()
    folder = home / FOLDER
    return PluginConfig(
        artifacts or str(home / "artifacts"),
        str(write(base, folder)),
        str(make_secret(folder)),
        str(home / "cache") if artifacts else "",
        capacity,
    )


def command(flags: Sequence[str]) -> str:
    """The flags as a line for a shell."""
    return " ".join(shlex.quote(flag) for flag in flags)
