"""A calibration: what the learned and the entropy gate know of one model, compiler and embedder."""

from __future__ import annotations

import json
import os
import re
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

from memkit.errors import ConfigError
from memkit.router.classifier import Head

FORMAT = 2
HEADS = ("found", "right", "among", "held", "text")


@dataclass(frozen=True)
class Thresholds:
    """Where the gates decide; all but ``max_entropy`` (nats) are probabilities.

    Candidates that the search puts below ``probe_from`` are not probed. Below ``none_below`` the best one
    is not the right memory. From ``latent_from`` on its artifact is
    trusted; else its text is read once, and used from ``text_from`` on. ``max_entropy`` is the paper's λ.
    """

    probe_from: float
    none_below: float
    latent_from: float
    text_from: float
    max_entropy: float

    def __post_init__(self) -> None:
        for name in ("probe_from", "none_below", "latent_from", "text_from"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value <= 1:
                raise ConfigError(f"the threshold {name} must be in [0, 1], got {value!r:.40}")
        if not isinstance(self.max_entropy, int | float) or not self.max_entropy >= 0:
            raise ConfigError(f"max_entropy must be at least 0 nats, got {self.max_entropy!r:.40}")


@dataclass(frozen=True)
class Calibration:
    """Scorers, thresholds and what they showed on questions that they were not fitted on.

    The scorers: ``found`` (is it the right memory, judging by the search alone), ``right`` (the same
    after a probe), ``among`` (the same where several were probed), ``held`` (does its artifact answer
    right), ``text`` (does its text, read once, hold the answer). ``curve`` is (share of the answerable
    questions that are left to artifacts, share of those answered wrong); ``report`` has balanced
    accuracy, AUROC, n, seed, source and date.
    """

    fingerprint: str
    compiler: str
    embedder: str
    hidden: int
    heads: Mapping[str, Head]
    thresholds: Thresholds
    curve: tuple[tuple[float, float], ...]
    report: Mapping[str, Any]

    def __post_init__(self) -> None:
        if set(self.heads) != set(HEADS):
            raise ConfigError(f"a calibration has the scorers {', '.join(HEADS)}")

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return {"format": FORMAT, **asdict(self)}


def parse(data: Any) -> Calibration:
    """A calibration from JSON. Raises `ConfigError` for anything else."""
    known = {"format", *(f.name for f in fields(Calibration))}
    if not isinstance(data, dict) or set(data) != known:
        raise ConfigError(f"a calibration is an object with exactly {', '.join(sorted(known))}")
    if data["format"] != FORMAT:
        raise ConfigError(f"a calibration of format {data['format']!r:.20}; this memkit reads {FORMAT}")
    try:
        return Calibration(
            str(data["fingerprint"]),
            str(data["compiler"]),
            str(data["embedder"]),
            int(data["hidden"]),
            {name: Head.parse(row) for name, row in data["heads"].items()},
            Thresholds(**data["thresholds"]),
            tuple((float(a), float(b)) for a, b in data["curve"]),
            dict(data["report"]),
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"not a calibration: {error}") from error


def file_name(fingerprint: str, compiler: str, embedder: str) -> str:
    """Name of the file of a calibration; nothing in it can leave the folder."""
    words = (fingerprint[:16], compiler, embedder)
    return "--".join(re.sub(r"[^\w.+-]", "_", word) for word in words) + ".json"


def folder_of(bank: Path) -> Path:
    """Where a bank keeps its calibrations."""
    return bank / "calibrations"


def save(calibration: Calibration, folder: Path) -> Path:
    """Write it beside, then replace an earlier one of the same model, compiler and embedder."""
    path = folder / file_name(calibration.fingerprint, calibration.compiler, calibration.embedder)
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        partial.write_text(json.dumps(calibration.plain(), indent=1, allow_nan=False) + "\n")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def compilers(bank: Path, fingerprint: str, embedder: str) -> list[str]:
    """The compilers that the bank has calibrations of, for a model and an embedder."""
    before, _, after = file_name(fingerprint, "*", embedder).partition("_")
    found = [path.name for path in folder_of(bank).glob("*.json")]
    named = sorted(name for name in found if name.startswith(before) and name.endswith(after))
    return [name[len(before) : -len(after)] for name in named]


def find(bank: Path, fingerprint: str, compiler: str, embedder: str) -> Calibration | None:
    """The bank's calibration, else one that ships with memkit, else None.

    Raises `ConfigError` for a file that holds none, or another model's.
    """
    name = file_name(fingerprint, compiler, embedder)
    for place in (folder_of(bank), files("memkit.router") / "calibrations"):
        file = place / name
        if not file.is_file():
            continue
        try:
            found = parse(json.loads(file.read_text()))
        except (OSError, ValueError) as error:
            raise ConfigError(f"the calibration {file} cannot be used ({error}); calibrate again") from error
        if (found.fingerprint, found.compiler, found.embedder) != (fingerprint, compiler, embedder):
            raise ConfigError(f"the calibration {file} is of another model; calibrate again")
        return found
    return None
