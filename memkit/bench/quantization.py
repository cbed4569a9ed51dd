"""The loss by quantization of artifacts: ``memkit bench bytes``.

Each record is compiled once; the memory is then stored in every form and asked the same questions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from memkit.artifact.format import Artifact
from memkit.artifact.quantization import STORED, Stored, quantized
from memkit.compilers.distillation.flops import kv_bytes
from memkit.compilers.lcc.compiler import LCC
from memkit.document import Document
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import ConfigError
from memkit.evals import records
from memkit.evals.measure import MethodEvaluator
from memkit.evals.timing import stamp

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class BytesConfig:
    """``source`` is one for `memkit.evals.records.load`; ``options`` are those of the compiler lcc.

    Raises `ConfigError` for the option ``stored``.
    """

    source: str = "generated:20"
    ratio: float = 16.0
    model: str = "nano"
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        if "stored" in self.options:
            raise ConfigError("every form is measured: leave out the option stored")


def bench(config: BytesConfig, progress: Progress = lambda label, done, total: None) -> dict[str, Any]:
    """Measure; returns a row for each form, and one for the full KV of the text.

    ``retention`` is (contains - none) / (full - none); ``loss_points`` is its loss relative to the form
    "model", in percentage points; ``saving`` is the size of the text's KV divided by the artifact's.
    """
    engine = TransformersEngine(config.model)
    measurer = MethodEvaluator(engine)
    right: dict[str, list[float]] = {name: [] for name in ("full", "none", *STORED)}
    kl: dict[str, list[float]] = {name: [] for name in STORED}
    size: dict[str, int] = dict.fromkeys(STORED, 0)
    tokens = 0
    chosen = records.load(config.source, None, config.seed)
    compiler = LCC({**config.options, "ratio": config.ratio, "seed": config.seed})
    for done, record in enumerate(chosen):
        progress(record.id, done, len(chosen))
        made = compiler.compile(Document(record.context), engine.base, tenant="benchmark").data
        reference = measurer.reference(record)
        right["full"] += measurer.measure(reference, reference.reader)["contains"]
        right["none"] += measurer.measure(reference, measurer.reader())["contains"]
        tokens += engine.count_tokens(record.context)
        for name in STORED:
            data = stored(made, name)
            size[name] += len(data)
            artifact = Artifact.decode(data)
            handle = engine.attach(artifact)
            figures = measurer.measure(reference, measurer.reader(handle))
            engine.detach(handle)
            right[name] += figures["contains"]
            kl[name] += figures["kl"]
    return _report(config, engine, right, kl, size, tokens)


def stored(data: bytes, form: Stored) -> bytes:
    """The bytes of a ``kv`` artifact, stored in another form."""
    artifact = Artifact.decode(data)
    parts = {name: artifact.tensor(name) for name in ("keys", "values")}
    return Artifact.encode(artifact.manifest, quantized(parts, form))


def _report(
    config: BytesConfig,
    engine: TransformersEngine,
    right: Mapping[str, list[float]],
    kl: Mapping[str, list[float]],
    size: Mapping[str, int],
    tokens: int,
) -> dict[str, Any]:
    raw = kv_bytes(engine.base.model, tokens)
    full, none = fmean(right["full"]), fmean(right["none"])
    room = full - none
    rows = list[dict[str, Any]]()
    for name in STORED:
        contains = fmean(right[name])
        lost = fmean(right["model"]) - contains
        rows.append(
            {
                "row": name,
                "n": len(right[name]),
                "contains": contains,
                "retention": (contains - none) / room if room > 0 else None,
                "loss_points": 100 * lost / room if room > 0 else None,
                "kl": fmean(kl[name]),
                "bytes": size[name],
                "bytes_per_token": size[name] / tokens,
                "saving": raw / size[name],
            }
        )
    text = {"row": "keys and values of the text", "n": len(right["full"]), "contains": full, "retention": 1.0}
    rows.append({**text, "bytes": raw, "bytes_per_token": raw / tokens, "saving": 1.0})
    return {
        "bench": "bytes",
        "model": config.model,
        "source": config.source,
        "ratio": config.ratio,
        "seed": config.seed,
        **stamp(),
        "rows": rows,
    }
