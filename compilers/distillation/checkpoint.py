"""Checkpoints of a compilation: one file, replaced atomically, from which an interrupted one resumes."""

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
FORMAT = 3  # of the file; files with another format are ignored


@dataclass
class Checkpoint:
    """The states of the phases of one compilation. Without a ``path`` nothing is saved.

    ``key`` identifies the compilation (see `key_of`): a file with another key is ignored, as is one that
    cannot be read. Failing writes are ignored, too: the compilation then starts over when interrupted.
    """

    path: Path | None = None
    key: str = ""
    _phases: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: float = 0.0  # that interrupted runs took
    _opened: float = field(default_factory=time.monotonic)
    _written: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if self.path is None:
            return
        with suppress(Exception):  # torch's parser raises many kinds of errors on damaged files
            # weights_only: nothing but tensors, numbers and texts is read, even from an altered file.
            state = torch.load(self.path, weights_only=True)
            if isinstance(state, dict) and (state.get("key"), state.get("format")) == (self.key, FORMAT):
                self._phases, self.seconds = state["phases"], float(state["seconds"])

    def get(self, phase: str, parameters: Sequence[Tensor]) -> dict[str, Any] | None:
        """The phase's saved state; None if there is none for parameters with these shapes."""
        state = self._phases.get(phase)
        if state is None or [p.shape for p in parameters] != [p.shape for p in state["parameters"]]:
            return None
        return state

    def put(self, phase: str, state: dict[str, Any]) -> None:
        """Keep a phase's state. It is written every `SAVE_INTERVAL` seconds and when the phase is done."""
        self._phases[phase] = state
        if self.path is None or not (state["done"] or time.monotonic() - self._written >= SAVE_INTERVAL):
            return
        self._written = time.monotonic()
        temporary = self.path.with_name(f"{self.path.name}.{os.getpid()}.partial")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            seconds = self.seconds + self._written - self._opened
            state = {"key": self.key, "format": FORMAT, "seconds": seconds, "phases": self._phases}
            torch.save(state, temporary)
            temporary.replace(self.path)
        except (OSError, RuntimeError):  # torch reports a full disk as a RuntimeError
            temporary.unlink(missing_ok=True)

    @property
    def due(self) -> bool:
        """Whether a state given now would be written."""
        return self.path is not None and time.monotonic() - self._written >= SAVE_INTERVAL


def key_of(
    compiler: str, version: str, config: str, document: Document, base: LoadedModel, tenant: str
) -> str:
    """SHA-256 over everything that must be equal for an interrupted compilation to be resumed."""
    parts = (compiler, version, config, document.digest, base.fingerprint, tenant)
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()
