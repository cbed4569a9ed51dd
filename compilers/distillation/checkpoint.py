"""Unfinished compilations: what a killed one needs to go on, in one file that is replaced at once."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memkit.document import Document
from memkit.models.loading import LoadedModel

SAVE_INTERVAL = 20.0  # seconds between two writes
FORMAT = 2  # of the states; files of another one are not read


@dataclass
class Checkpoint:
    """States of the phases of one compilation. Without a ``path`` nothing is kept.

    ``key`` names what is compiled, how and for which model: another one's file is not read. A file
    that cannot be read or written costs only the time to start again.
    """

    path: Path | None = None
    key: str = ""
    _phases: dict[str, dict[str, Any]] = field(default_factory=dict)
    _written: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if self.path is None:
            return
        with suppress(Exception):  # torch's parser raises anything on bytes from anywhere
            # Only tensors, numbers and texts are read, even if somebody changed the file.
            state = torch.load(self.path, weights_only=True)
            if isinstance(state, dict) and (state.get("key"), state.get("format")) == (self.key, FORMAT):
                self._phases = state["phases"]

    def get(self, phase: str, parameters: Sequence[Tensor]) -> dict[str, Any] | None:
        """The phase's state, if it is one of these parameters."""
        state = self._phases.get(phase)
        if state is None or [p.shape for p in parameters] != [p.shape for p in state["parameters"]]:
            return None
        return state

    def put(self, phase: str, state: dict[str, Any]) -> None:
        """Keep a phase's state; it reaches the disk every `SAVE_INTERVAL` seconds, and when the phase is
        done."""
        self._phases[phase] = state
        if self.path is None or not (state["done"] or time.monotonic() - self._written >= SAVE_INTERVAL):
            return
        self._written = time.monotonic()
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}.partial")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            torch.save({"key": self.key, "format": FORMAT, "phases": self._phases}, temporary)
            temporary.replace(self.path)
        except (OSError, RuntimeError):  # torch reports a full disk as a RuntimeError
            temporary.unlink(missing_ok=True)

    @property
    def due(self) -> bool:
        """Whether a state given now would reach the disk."""
        return self.path is not None and time.monotonic() - self._written >= SAVE_INTERVAL


def key_of(
    compiler: str, version: str, config: str, document: Document, base: LoadedModel, tenant: str
) -> str:
    """What an unfinished compilation must agree in, to be gone on with."""
    parts = (compiler, version, config, document.digest, base.fingerprint, tenant)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
