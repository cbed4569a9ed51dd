"""Time to first token with an artifact from a bank, compared with prefilling the full text.

Both run interleaved in one process; compare their ratio with the ratio of their FLOPs.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from memkit.bank import Bank
from memkit.compilers.lcc.compiler import LCC
from memkit.document import Document, Span
from memkit.engine.base import Handle, Request
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import ConfigError
from memkit.evals.probe_flops import RequestFlops
from memkit.evals.timing import copy_rate, interleaved, matrix_rate, stamp
from memkit.models.nano.documents import Generator

Progress = Callable[[str, int, int], None]
TENANT = "benchmark"
QUESTION = "Where does Mira live?"
# The quality of the artifact does not affect its speed, so one training step is enough.
OPTIONS = {"steps": 1, "kv_steps": 0, "self_study": 0, "agnostic": 1, "answer_tokens": 1, "warmup": 0}


@dataclass(frozen=True)
class TtftConfig:
    """Texts of about ``tokens`` tokens each, compiled at ``ratio``. Raises `ConfigError` for values below
    1."""

    tokens: tuple[int, ...] = (500, 1000, 2000)
    ratio: float = 16.0
    repeats: int = 15
    model: str = "nano"

    def __post_init__(self) -> None:
        if not self.tokens or min(self.tokens) < 1 or self.repeats < 1:
            raise ConfigError("tokens and repeats must be numbers from 1 on")


def bench(config: TtftConfig, progress: Progress = lambda label, done, total: None) -> dict[str, Any]:
    """Measure; returns ``{"bench": "ttft", "rows": [...]}`` with a row for each length.

    ``cold_ms``: an artifact is read from a bank, attached and answered from; ``warm_ms``: it is already
    attached; ``full_ms``: the text is prefilled. ``ratio`` is full to cold, ``ideal`` the ratio of their
    FLOPs. ``flops_ms`` is the time of the cold path's FLOPs at the rate of a matrix product, ``bytes_ms``
    that of copying the weights and the artifact, both at rates of the same run; ``floor_ms`` is the larger of
    the two.
    """
    engine = TransformersEngine(config.model)
    limits = matrix_rate(engine.base.model.dtype), copy_rate()
    rows = list[dict[str, Any]]()
    for done, tokens in enumerate(config.tokens):
        progress(f"{tokens} tokens", done, len(config.tokens))
        rows.append(_row(engine, tokens, config, *limits))
    return {
        "bench": "ttft",
        "model": config.model,
        **stamp(),
        "matrix_gflops": limits[0] / 1e9,
        "copied_gbytes": limits[1] / 1e9,
        "rows": rows,
    }


def _row(
    engine: TransformersEngine, tokens: int, config: TtftConfig, rate: float, copied: float
) -> dict[str, Any]:
    text = filler(engine, tokens)
    document = Document(text)
    compiled = LCC({**OPTIONS, "ratio": config.ratio}).compile(document, engine.base, tenant=TENANT)
    with tempfile.TemporaryDirectory() as folder, Bank(Path(folder)) as bank:
        vector = np.ones((1, 1), dtype=np.float32)  # nothing is searched for
        memory_id = bank.remember(TENANT, document, [Span(0, len(text))], vector).id
        bank.publish(TENANT, memory_id, compiled.data)
        with bank.artifact(TENANT, memory_id) as artifact:
            view = engine.attach(artifact)

        def cold() -> None:
            engine.detach(view)
            with bank.artifact(TENANT, memory_id) as artifact:
                _first(engine, handle=engine.attach(artifact))

        def warm() -> None:
            _first(engine, handle=view)

        def full() -> None:
            _first(engine, context=text)

        times = interleaved((cold, warm, full), config.repeats)
        requests = [
            Request(QUESTION, handle=view, max_tokens=1),
            Request(QUESTION, context=text, max_tokens=1),
        ]
        flops = [RequestFlops(engine).probe(each) for each in requests]
        engine.detach(view)
    ratios = sorted(f / c for c, f in zip(times[0], times[2], strict=True))
    ratio, ideal = statistics.median(ratios), flops[1] / flops[0]
    weights = sum(p.numel() * p.element_size() for p in engine.base.model.parameters())
    limits = 1000 * flops[0] / rate, 1000 * (weights + len(compiled.data)) / copied
    return {
        "row": f"{engine.count_tokens(text)} tokens",
        "buffer_tokens": compiled.tokens,
        "artifact_bytes": len(compiled.data),
        "cold_ms": statistics.median(times[0]),
        "warm_ms": statistics.median(times[1]),
        "full_ms": statistics.median(times[2]),
        "ratio": ratio,
        "ratio_range": [ratios[0], ratios[-1]],
        "warm_ratio": statistics.median(f / w for w, f in zip(times[1], times[2], strict=True)),
        "ideal": ideal,
        "of_ideal": ratio / ideal,
        "flops_ms": limits[0],
        "bytes_ms": limits[1],
        "floor_ms": max(limits),
        "of_floor": max(limits) / statistics.median(times[0]),
        "full_of_rate": flops[1] / rate / (statistics.median(times[2]) / 1000),
    }


def _first(engine: TransformersEngine, handle: Handle | None = None, context: str | None = None) -> None:
    list(engine.generate([Request(QUESTION, handle=handle, context=context, max_tokens=1)]))


def filler(engine: TransformersEngine, tokens: int) -> str:
    """A text of about ``tokens`` tokens, made of filler sentences."""
    generator, sentences, counted = Generator(0), list[str](), 0
    while counted < tokens:  # counts by sentence: recounting a long text is slow
        sentences.append(generator.filler())
        counted += engine.count_tokens(f" {sentences[-1]}" if len(sentences) > 1 else sentences[-1])
    return " ".join(sentences)
