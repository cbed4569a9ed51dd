"""The cost of a compact memory: compiling it beside one prefill, answering behind it beside the full text.

Each length runs in a process of its own, so that its peak memory is its own. Compare ratios of one run.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from memkit.bench.isolated import peak_bytes, run_apart
from memkit.errors import ConfigError
from memkit.evals.timing import interleaved, stamp

Progress = Callable[[str, int, int], None]
QUESTION = "Where does Mira live?"


@dataclass(frozen=True)
class CompactBenchConfig:
    """Texts of about ``tokens`` tokens each, compiled at ``ratio``; answers of ``answer`` tokens.

    Raises `ConfigError` for values below 1.
    """

    tokens: tuple[int, ...] = (300, 2000)
    ratio: float = 4.0
    answer: int = 16
    repeats: int = 3
    model: str = "nano"

    def __post_init__(self) -> None:
        if not self.tokens or min(*self.tokens, self.answer, self.repeats, self.ratio) < 1:
            raise ConfigError("tokens, answer, repeats and ratio must be numbers from 1 on")


def bench(config: CompactBenchConfig, progress: Progress = lambda label, done, total: None) -> dict[str, Any]:
    """Measure; returns ``{"bench": "compact", "rows": [...]}`` with a row for each length.

    ``flops_ratio`` and ``seconds_ratio`` compare a compilation with one prefill of the text. ``first_ms`` and
    ``answer_ms`` are the times of the first token and of an answer behind the memory; ``full_first_ms`` and
    ``full_answer_ms`` those behind the prefilled text, interleaved with them. ``peak_bytes`` is the largest
    memory of the process until the memory was compiled, ``model_bytes`` before.
    """
    rows = list[dict[str, Any]]()
    for done, tokens in enumerate(config.tokens):
        progress(f"{tokens} tokens", done, len(config.tokens))
        rows.append(run_apart(_row, config, tokens))
    return {"bench": "compact", "model": config.model, **stamp(), "rows": rows}


def _row(config: CompactBenchConfig, tokens: int) -> dict[str, Any]:
    from memkit.artifact.format import Artifact
    from memkit.bench.ttft import filler
    from memkit.compilers.compact.compiler import Compact
    from memkit.compilers.distillation.flops import FlopMeter
    from memkit.document import Document
    from memkit.engine.base import Request
    from memkit.engine.transformers import kv_cache
    from memkit.engine.transformers.engine import TransformersEngine

    engine = TransformersEngine(config.model)
    base, text = engine.base, filler(engine, tokens)
    ids, before = engine.encode(text), peak_bytes()
    ((prefill,),) = interleaved([lambda: kv_cache.prefill(base.model, ids)], 1)
    compiled = Compact({"ratio": config.ratio}).compile(Document(text), base, tenant="benchmark")
    peak = peak_bytes()
    with engine.attached(Artifact.decode(compiled.data)) as handle:

        def answered(most: int, full: bool) -> Callable[[], object]:
            memory: dict[str, Any] = {"context": text} if full else {"handle": handle}
            return lambda: list(engine.generate([Request(QUESTION, max_tokens=most, **memory)]))

        calls = [answered(most, full) for most in (1, config.answer) for full in (False, True)]
        first, full_first, answer, full_answer = map(statistics.median, interleaved(calls, config.repeats))
    return {
        "row": f"{len(ids)} tokens",
        "context_tokens": len(ids),
        "memory_tokens": compiled.tokens,
        "artifact_bytes": len(compiled.data),
        "prefill_s": prefill / 1000,
        "compile_s": compiled.seconds,
        "seconds_ratio": 1000 * compiled.seconds / prefill,
        "flops_ratio": compiled.flops / FlopMeter(base.model).forward_flops(len(ids), 0),
        "model_bytes": before,
        "peak_bytes": peak,
        "first_ms": first,
        "full_first_ms": full_first,
        "first_ratio": full_first / first,
        "answer_ms": answer,
        "full_answer_ms": full_answer,
        "answer_ratio": full_answer / answer,
    }
