"""Options of the mean-pool compiler, and the stages of its training. Importable without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from memkit.compilers.base import configure

Form = Literal["kv", "embeds"]
Stage = Literal["cpt1", "cpt2", "sft", "rl"]
STAGES: tuple[Stage, ...] = get_args(Stage)


@dataclass(frozen=True)
class MeanPoolConfig:
    """Options of the compiler; the compressor's hyper-parameters come with its checkpoint."""

    ratio: float | None = None  # C, tokens for each memory embedding; None: the checkpoint's
    form: Form = "kv"
    checkpoint: str = ""  # an id, or a prefix of it; "": the newest for the base model and the ratio
    stage: str = ""  # of that checkpoint; "": the latest stage
    seed: int = 0  # has no effect: compilation is deterministic

    def __post_init__(self) -> None:
        if self.ratio is not None and (not self.ratio >= 1 or self.ratio != int(self.ratio)):
            raise ValueError(f"ratio must be a whole number of tokens from 1 on, got {self.ratio}")
        if self.form not in get_args(Form):
            raise ValueError(f"form must be one of {', '.join(get_args(Form))}, got {self.form!r}")
        if self.stage not in ("", *STAGES):
            raise ValueError(f"stage must be one of {', '.join(STAGES)}, got {self.stage!r}")


PRESETS: dict[str, dict[str, Any]] = {
    "kv": {"form": "kv"},
    "embeds": {"form": "embeds"},
    **{stage: {"stage": stage} for stage in STAGES},
}


def parse_options(options: Mapping[str, Any] | None) -> MeanPoolConfig:
    """A config from options. Raises `ConfigError`."""
    return configure(MeanPoolConfig, PRESETS, options)
