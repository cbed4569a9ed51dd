"""The cost of compilation: the fast recipe compared with the paper's, and cost by text length.

Every measurement runs in its own process, so that peak memory is measured separately. All rows of a report
come from one run on one machine; compare ratios, not seconds of different runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from memkit.bench.isolated import peak_bytes, run_apart
from memkit.errors import ConfigError
from memkit.evals import records
from memkit.evals.timing import matrix_rate, stamp

if TYPE_CHECKING:
    from memkit.compilers.base import Compiled

KEPT = ("n", "retention", "retention_ci95", "compile_s", "compile_steps", "compile_flops", "failed")
PAPER_STEPS = 22_500  # 45 epochs of 4,000 samples in batches of 8 (LCC, Appendix A)


@dataclass(frozen=True)
class BenchConfig:
    """What to measure. Raises `ConfigError` for invalid values.

    ``paper_steps`` of the paper's 22,500 steps are run; the reported FLOPs are for all of them (every step
    costs the same), the retention is after the steps that were run. 0 measures only the lengths.
    """

    source: str = "generated:3"
    model: str = "nano"
    ratio: float = 16.0
    paper_steps: int = PAPER_STEPS
    lengths: tuple[int, ...] = ()  # tokens of texts, a row for each
    length_steps: int = 10  # of each phase and segment in these rows
    seed: int = 0

    def __post_init__(self) -> None:
        if not (0 if self.lengths else 1) <= self.paper_steps <= PAPER_STEPS:
            raise ConfigError(f"paper_steps must be in [1, {PAPER_STEPS}], got {self.paper_steps}")
        if self.ratio < 1 or any(length < 1 for length in self.lengths) or self.length_steps < 1:
            raise ConfigError("the ratio, every length and length_steps must be at least 1")


Progress = Callable[[str, int, int], None]


def bench(config: BenchConfig, progress: Progress = lambda label, done, total: None) -> dict[str, Any]:
    """Measure; returns ``{"rows": [...]}`` with the rows ``fast``, ``paper`` and one for each length.

    ``floor_s`` is the time of the FLOPs at the rate of a matrix product, measured in the same run, and
    ``of_rate`` its share of the actual time; ``step_of_rate`` is the same for training steps only.
    ``flops_ratio_vs_paper`` is the share of the paper's training FLOPs, ``retention_ratio_vs_paper`` the
    retention divided by the paper's (None if that is 0).
    """
    jobs: list[tuple[str, Callable[..., dict[str, Any]], tuple[Any, ...]]] = [
        ("fast", _compile_records, (config, {})),
        ("paper", _paper, (config,)),
    ]
    jobs = jobs if config.paper_steps else []
    jobs += [(f"{n} tokens", _compile_length, (config, n)) for n in config.lengths]
    rows = list[dict[str, Any]]()
    for done, (name, work, arguments) in enumerate(jobs):
        progress(name, done, len(jobs))
        rows.append({"row": name, **run_apart(work, *arguments)})
    progress("done", len(jobs), len(jobs))
    if config.paper_steps:
        _compare(*rows[:2])
    return {
        "bench": "compile",
        "model": config.model,
        "source": config.source.rpartition("/")[2],
        "ratio": config.ratio,
        "seed": config.seed,
        **stamp(),
        "rows": rows,
    }


def _compare(fast: dict[str, Any], paper: dict[str, Any]) -> None:
    for row in (fast, paper):
        row["flops_ratio_vs_paper"] = row["compile_flops"] / paper["compile_flops"]
        retained = paper["retention"]
        row["retention_ratio_vs_paper"] = (
            row["retention"] / retained if retained and row["retention"] else None
        )


def _compile_records(config: BenchConfig, options: Mapping[str, Any]) -> dict[str, Any]:
    """Compile every record and measure its answers."""
    from memkit.engine.transformers.engine import TransformersEngine
    from memkit.evals.run import EvalConfig, Variant, evaluate

    engine = TransformersEngine(config.model)
    before = peak_bytes()
    variant = Variant("measured", "lcc", config.ratio, options)
    settings = EvalConfig(config.source, config.model, compilers=(), variants=(variant,), seed=config.seed)
    report = evaluate(settings, engine=engine)
    row = next(r for r in report["rows"] if r["method"] == "measured")
    return {**{key: row[key] for key in KEPT}, **_memory(before)}


def _paper(config: BenchConfig) -> dict[str, Any]:
    """The paper's preset: measures ``paper_steps`` steps and extrapolates the FLOPs to all of them."""
    from memkit.compilers.lcc.compiler import LCC
    from memkit.document import Document
    from memkit.models.loading import load

    row = _compile_records(config, {"preset": "paper", "steps": config.paper_steps})
    base, record = load(config.model), records.load(config.source, 1, config.seed)[0]
    few = [
        LCC({"preset": "paper", "ratio": config.ratio, "steps": steps})
        .compile(Document(record.context), base, tenant="benchmark")
        .flops
        for steps in (1, 2)
    ]
    step = few[1] - few[0]
    share = (few[0] + step * (PAPER_STEPS - 1)) / (few[0] + step * (config.paper_steps - 1))
    return {**row, "compile_flops": row["compile_flops"] * share, "steps_of_preset": PAPER_STEPS}


def _memory(before: int) -> dict[str, int]:
    peak = peak_bytes()
    return {"peak_bytes": peak, "peak_bytes_over_model": peak - before}


def _compile_length(config: BenchConfig, tokens: int) -> dict[str, Any]:
    """Compile a text of about ``tokens`` tokens for a fixed number of steps of every phase."""
    from memkit.bench.ttft import filler
    from memkit.compilers.lcc.compiler import LCC
    from memkit.document import Document
    from memkit.engine.transformers.engine import TransformersEngine

    engine = TransformersEngine(config.model)
    rate, before = matrix_rate(engine.base.model.dtype), peak_bytes()
    document = Document(filler(engine, tokens))

    def compiled(steps: int) -> Compiled:
        options = dict.fromkeys(("steps", "kv_steps", "together_steps"), steps) | {"warmup": 0}
        compiler = LCC({"ratio": config.ratio, "self_study": 16, **options})
        return compiler.compile(document, engine.base, tenant="benchmark")

    one_step, result = compiled(1), compiled(config.length_steps)
    stepped = result.flops - one_step.flops, result.seconds - one_step.seconds
    return {
        "context_tokens": tokens,
        "compile_s": result.seconds,
        "compile_steps": result.steps,
        "compile_flops": result.flops,
        "flops_per_token": result.flops / tokens,
        "floor_s": result.flops / rate,
        "of_rate": result.flops / rate / result.seconds,
        "step_of_rate": stepped[0] / rate / stepped[1] if min(stepped) > 0 else None,
        "artifact_bytes": len(result.data),
        **_memory(before),
    }
