"""A calibration: classifiers and thresholds for one model, compiler and embedder, stored as JSON."""

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
    """The thresholds of the gates ``learned`` and ``entropy``.

    All but ``max_entropy`` are probabilities. Candidates below ``probe_from`` after the search are not
    probed. If the best candidate is below ``none_below`` after its probe, no memory is used. From
    ``latent_from`` on its artifact is used; below, its text is read once, and used from ``text_from`` on.
    ``max_entropy`` is the λ of CDLM, in nats. Raises `ConfigError` for values out of range.
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
    """Classifiers, thresholds and their figures on held-out questions.

    ``fingerprint`` is the base model's; ``compiler`` and ``embedder`` are names; ``hidden`` is the number
    of dimensions of the hidden state in the features. ``heads`` are the classifiers by name:

    ``found``  whether a candidate is the right memory, by its search features
    ``right``  the same, after a probe
    ``among``  the same, after several candidates were probed
    ``held``   whether the artifact of the right memory answers correctly
    ``text``   whether its text answers the question

    ``curve`` has points (coverage, risk): the share of the answerable questions that are answered from
    artifacts, and the share of those answers that are wrong. ``report`` has balanced accuracy, AUROC, n,
    seed, source and date. Raises `ConfigError` if a classifier is missing.
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
            raise ConfigError(f"a calibration has the classifiers {', '.join(HEADS)}")

    def plain(self) -> dict[str, Any]:
        """As plain data for JSON."""
        return {"format": FORMAT, **asdict(self)}


def parse(data: Any) -> Calibration:
    """A calibration from parsed JSON. Raises `ConfigError` for anything else."""
    keys = {"format", *(f.name for f in fields(Calibration))}
    if not isinstance(data, dict) or set(data) != keys:
        raise ConfigError(f"a calibration is an object with exactly {', '.join(sorted(keys))}")
    if data["format"] != FORMAT:
        raise ConfigError(
            f"the calibration has format {data['format']!r:.20}; this version of memkit reads format {FORMAT}"
        )
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
    """The file name of a calibration; unusual characters are replaced, so it never leaves its folder."""
    words = (fingerprint[:16], compiler, embedder)
    return "--".join(re.sub(r"[^\w.+-]", "_", word) for word in words) + ".json"


def folder_of(bank: Path) -> Path:
    """The folder in which a bank stores its calibrations."""
    return bank / "calibrations"


def save(calibration: Calibration, folder: Path) -> Path:
    """Write a calibration atomically; it replaces one of the same model, compiler and embedder.

    Returns the file's path.
    """
    path = folder / file_name(calibration.fingerprint, calibration.compiler, calibration.embedder)
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        partial.write_text(json.dumps(calibration.plain(), allow_nan=False) + "\n")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return path


def compilers(bank: Path, fingerprint: str, embedder: str) -> list[str]:
    """The compilers for which the bank has a calibration of this model and embedder."""
    before, _, after = file_name(fingerprint, "*", embedder).partition("_")
    names = [path.name for path in folder_of(bank).glob("*.json")]
    matches = sorted(name for name in names if name.startswith(before) and name.endswith(after))
    return [name[len(before) : -len(after)] for name in matches]


def find(bank: Path, fingerprint: str, compiler: str, embedder: str) -> Calibration | None:
    """The bank's calibration, or else one that ships with memkit, or else None.

    Raises `ConfigError` for a file that is not a calibration, or one of another model.
    """
    name = file_name(fingerprint, compiler, embedder)
    for folder in (folder_of(bank), files("memkit.router") / "calibrations"):
        file = folder / name
        if not file.is_file():
            continue
        try:
            calibration = parse(json.loads(file.read_text()))
        except (OSError, ValueError) as error:
            raise ConfigError(f"the calibration {file} cannot be used ({error}); calibrate again") from error
        if (calibration.fingerprint, calibration.compiler, calibration.embedder) != (
            fingerprint,
            compiler,
            embedder,
        ):
            raise ConfigError(f"the calibration {file} is of another model; calibrate again")
        return calibration
    return None
