"""Time to the first token: an artifact from disk against reading the whole text again.

``python -m memkit.evals.ttft --model nano --tokens 1500 --json OUT``. Both sides run interleaved in one
process; the figure that matters is their ratio.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from memkit.artifact import Artifact
from memkit.compilers.lcc import LCC
from memkit.document import Document
from memkit.engine.base import Request
from memkit.engine.transformers import TransformersEngine
from memkit.models.nano.documents import Generator

QUESTION = "Where does Mira live?"
# What the artifact knows does not change how fast it is read: one step is enough.
OPTIONS = {"steps": 1, "kv_steps": 0, "self_study": 0, "agnostic": 1, "answer_tokens": 1, "warmup": 0}


def measure(engine: TransformersEngine, tokens: int, ratio: float, repeats: int) -> dict[str, Any]:
    """Medians in ms of opening + attaching + first token, and of full prefill + first token."""
    text = filler(engine, tokens)
    made = LCC({**OPTIONS, "ratio": ratio}).compile(Document(text), engine.base, tenant="benchmark")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "memory.mka"
        file.write_bytes(made.data)

        def from_artifact() -> None:
            with Artifact.open(file) as artifact:
                handle = engine.attach(artifact)
                list(engine.generate([Request(QUESTION, handle=handle, max_tokens=1)]))
                engine.detach(handle)

        def from_text() -> None:
            list(engine.generate([Request(QUESTION, context=text, max_tokens=1)]))

        from_artifact()
        from_text()
        pairs = [(_time(from_artifact), _time(from_text)) for _ in range(repeats)]
    latent, full = ([p[i] for p in pairs] for i in (0, 1))
    ratios = sorted(f / a for a, f in pairs)
    return {
        "model": engine.base.name,
        "context_tokens": engine.count_tokens(text),
        "buffer_tokens": made.tokens,
        "artifact_bytes": len(made.data),
        "repeats": repeats,
        "artifact_ms": statistics.median(latent),
        "full_ms": statistics.median(full),
        "ratio": statistics.median(ratios),
        "ratio_range": [ratios[0], ratios[-1]],
    }


def _time(call: Callable[[], None]) -> float:
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1000


def filler(engine: TransformersEngine, tokens: int) -> str:
    """Filler of exactly or nearly ``tokens`` tokens."""
    generator, text = Generator(0), ""
    while engine.count_tokens(text) < tokens:
        text = f"{text} {generator.filler()}".strip()
    return text


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--tokens", type=int, default=1500)
    parser.add_argument("--ratio", type=float, default=16.0)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(argv)
    report = measure(TransformersEngine(options.model), options.tokens, options.ratio, options.repeats)
    text = json.dumps(report, indent=1)
    if options.json:
        options.json.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
