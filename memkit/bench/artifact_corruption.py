"""Check that damaged artifact files are refused: ``memkit bench codec``."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from memkit.artifact.format import Artifact, Manifest, Provenance
from memkit.artifact.quantization import quantized
from memkit.errors import ArtifactError, ConfigError
from memkit.evals.timing import stamp

Progress = Callable[[str, int, int], None]
REPORT_EVERY = 5000
MAX_BYTES = 64  # that one mutation inserts or removes


@dataclass(frozen=True)
class CodecConfig:
    """Mutate ``cases`` files, each one to four times. Raises `ConfigError` for invalid values."""

    cases: int = 100_000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.cases < 1:
            raise ConfigError(f"cases must be at least 1, got {self.cases}")


def bench(config: CodecConfig, progress: Progress = lambda label, done, total: None) -> dict[str, Any]:
    """Decode mutated files and read their tensors; returns one row of counts.

    ``refused`` files raised `ArtifactError`, ``other_errors`` another error. ``accepted`` files were read
    although they are altered: none should be, since every byte is covered by a digest.
    """
    rng, original, outcomes = random.Random(config.seed), _original(), Counter[str]()
    for case in range(config.cases):
        if case % REPORT_EVERY == 0:
            progress("mutated files", case, config.cases)
        data = original
        for _ in range(rng.randint(1, 4)):
            data = mutated(data, rng)
        outcomes["unchanged" if data == original else _outcome(data)] += 1
    names = ("refused", "other_errors", "accepted", "unchanged")
    return {
        "bench": "codec",
        "seed": config.seed,
        **stamp(),
        "rows": [{"row": "codec", "cases": config.cases, **{name: outcomes[name] for name in names}}],
    }


def _original() -> bytes:
    import torch

    torch.manual_seed(0)
    parts = {name: torch.randn(2, 2, 3, 4) for name in ("keys", "values")}
    sources = (Provenance("0" * 64, 0, 10),)
    manifest = Manifest("kv", "lcc", "1", {"ratio": 16.0}, 0, "f" * 64, 3, "mira", sources)
    return Artifact.encode(manifest, quantized(parts, "int8"))


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The data with one mutation: bytes flipped, overwritten, inserted, removed, repeated or truncated."""
    at, size = rng.randrange(len(data) + 1), rng.randint(1, MAX_BYTES)
    kind = rng.randrange(6)
    if kind == 0 and at < len(data):
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    if kind == 1:
        return data[:at] + rng.randbytes(size) + data[at + size :]
    if kind == 2:
        return data[:at] + rng.randbytes(size) + data[at:]
    if kind == 3:
        return data[:at] + data[at + size :]
    if kind == 4:
        return data[:at] + data[at : at + size] * 2 + data[at + size :]
    return data[:at] or b"\0"


def _outcome(data: bytes) -> str:
    try:
        artifact = Artifact.decode(data)
        for spec in artifact.manifest.tensors:
            artifact.tensor(spec.name)
    except ArtifactError:
        return "refused"
    except Exception:  # the finding that this benchmark looks for
        return "other_errors"
    return "accepted"
