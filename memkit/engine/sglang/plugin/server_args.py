"""The flags for an SGLang server that serves a bank's artifacts, and the files that they refer to."""

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

FOLDER = "sglang"  # in the bank's folder: the header of each model, and the secret
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class ServerFlags:
    """Settings of a server. Raises `ValueError` for invalid values."""

    page: int = 1  # page size in tokens
    lora_rank: int = 0  # highest rank of a LoRA artifact; 0: no LoRA artifacts are served
    loaded: int = 32  # LoRAs that stay loaded
    batched: int = 8  # LoRAs in one batch
    hidden_states: bool = True  # return them, for gates whose calibration uses them
    capacity: int = CAPACITY  # bytes of open artifacts

    def __post_init__(self) -> None:
        for name in ("page", "loaded", "batched", "capacity"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.lora_rank < 0:
            raise ValueError(f"lora_rank must be at least 0, got {self.lora_rank}")
        if self.batched > self.loaded:
            raise ValueError(f"batched must be at most loaded ({self.loaded}), got {self.batched}")

    def of(self, model_path: str, config: PluginConfig, dtype: str) -> list[str]:
        """The flags for a server of the model at ``model_path`` in ``dtype``."""
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
    """Create the files that a server needs to serve the bank at ``home`` with this model.

    ``artifacts`` is the URL of the artifact store, if it is not in the bank's folder; ``capacity`` is in
    bytes. Raises `ConfigError` when the bank cannot be written.
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
    """The flags, quoted for a shell."""
    return " ".join(shlex.quote(flag) for flag in flags)
