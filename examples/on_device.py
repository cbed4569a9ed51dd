"""Compile here, answer there without the text: ``python examples/on_device.py``. Needs no network."""

from __future__ import annotations

import tempfile
from pathlib import Path

import memkit
from memkit.artifact.format import Artifact
from memkit.config import Config
from memkit.engine.base import Request
from memkit.engine.transformers.engine import TransformersEngine

DOCUMENT = "Simsem lives in Lasces. Her horse is called Shopux. Vekek works at Palhus."


def compile_here(folder: Path, file: Path) -> None:
    """On a machine that has the document: compile it, and keep the artifact in a file."""
    with memkit.Memory(folder, user="mira") as memory:
        info = memory.remember(DOCUMENT, compile=False)
        _, made = memory.compile_with_cost(info.id)
        file.write_bytes(made.data)


def answer_there(file: Path) -> None:
    """On the device: the model and this file, no bank and no text."""
    engine = TransformersEngine(Config.load().model)
    with Artifact.open(file) as artifact:
        handle = engine.attach(artifact)  # refused, if it was made for another model
    print(f"{file.stat().st_size} bytes, {handle.tokens} tokens")
    for question in ("Where does Simsem live?", "Where does Vekek work?"):
        (answer,) = engine.generate([Request(question, handle=handle)])
        print(f"{question} {answer.text}")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "people.mka"
        compile_here(Path(folder) / "bank", file)
        answer_there(file)


if __name__ == "__main__":
    main()
