"""Compact: keeps the context's own keys where they are needed and refits their values; nothing is trained.

The text is read once, and once more as the answer to "Please repeat the text."; above 4x, questions about
phrases of its sentences, with the sentences as their answers, are read too. How the tokens of these
reference passes attend to the text says which keys each head needs. One budget of rows (cached keys with
their values) is shared over all heads of all layers, because heads need very different numbers. The kept
keys get biases and values with which they stand for all of them, and are moved to where they do so best.
Two prefills (above 4x about four), some linear algebra and a few iterations on each head's queries.

References
    Fast KV Compaction via Attention Matching (Zweiger et al., 2026), §3: biases and values.
    KVSculpt (2026): keys that are moved; see `memkit.compilers.compact.refine`.
    KVzip (Kim et al., 2025), §3.2: the text's repetition as reference queries, one budget over all heads.

Departures
    - Importance is the root mean square of a key's attention, weighted by what its value writes into the
      hidden states (`memkit.compilers.compact.writes`), over all reference queries; not the maximum of its
      attention.
    - The fit weighs a query by the share of its attention that the text gets; see
      `memkit.compilers.compact.matching`.
    - The kept keys are rotated so that the memory takes as many positions as a head has rows on average: the
      distance from the text to the question stays, that from the header to the text shrinks.
    - A text longer than the window is compiled in segments: each is read behind the memory of the earlier
      ones.

Requirements
    A causal model with rotary positions whose attention is transformers' `AttentionInterface`, without a
    sliding window or capped scores: Llama, Qwen2, Qwen3, Mistral since v0.2, the first Gemma.

Example
    >>> Compact({"ratio": 4}).compile(document, base, tenant="mira")
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from memkit.artifact.format import Artifact, Manifest, Provenance
from memkit.compilers.base import Compiled, Estimate, Progress, silent
from memkit.compilers.compact.compaction import Compaction, Report, obstacle_of
from memkit.compilers.compact.config import CompactConfig, parse_options
from memkit.compilers.compact.forms import kind_of, metrics_of, tensors_of
from memkit.compilers.compact.layout import Layout, Size
from memkit.compilers.compact.refine import refine_flops
from memkit.compilers.distillation.flops import FlopMeter
from memkit.document import Document
from memkit.models.chat import text_ids
from memkit.models.kv_shape import kv_shape
from memkit.models.loading import LoadedModel

REQUEST_TOKENS = 30  # of a request to repeat a chunk
DIALOGUE = 1.7  # tokens of the questions about a text with their answers, for each of its own


class Compact:
    """See the module; options are those of `memkit.compilers.compact.config.CompactConfig`."""

    name = "compact"
    version = "1"
    trains = False

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        self.config = parse_options(options)

    @staticmethod
    def obstacle(base: LoadedModel, embedded: bool) -> str:
        """Why a model cannot have its memories, or why another than the embedded engine cannot read them."""
        if not embedded:
            return "only the embedded engine reads its artifacts"
        return obstacle_of(base)

    def compile(
        self,
        document: Document,
        base: LoadedModel,
        *,
        tenant: str,
        progress: Progress = silent,
        unfinished: Path | None = None,
    ) -> Compiled:
        """See `memkit.compilers.base.Compiler.compile`; ``unfinished`` is not used, as nothing is trained."""
        started, config = time.perf_counter(), self.config
        ids = text_ids(base.tokenizer, document.text)
        layout = Layout.of(base, config, len(ids))
        cuts = layout.segments
        compaction = Compaction(base, config, layout.chunk, Report(progress, started))
        memory = compaction.run([ids[cut] for cut in cuts])
        manifest = Manifest(
            kind=kind_of(config.form),
            compiler=self.name,
            compiler_version=self.version,
            config={**asdict(config), "questions": config.asks, "refine": config.refinement},
            seed=config.seed,
            fingerprint=base.fingerprint,
            tokens=memory.tokens,
            tenant=tenant,
            sources=(Provenance(document.digest, 0, len(document.text)),),
            metrics={"context_tokens": len(ids), "segments": len(cuts), **metrics_of(memory)},
        )
        data = Artifact.encode(manifest, tensors_of(memory, config.form, config.stored))
        seconds = time.perf_counter() - started
        return Compiled(data, memory.tokens, seconds, compaction.flops, 0, ())

    def estimate(self, tokens: int, base: LoadedModel) -> Estimate:
        """The cost of compiling ``tokens`` tokens."""
        meter, config = FlopMeter(base.model), self.config
        layout, total, before, rows = Layout.of(base, config, tokens), 0.0, len(base.chat.header), 0
        for number, cut in enumerate(layout.segments, start=1):
            n = cut.stop - cut.start
            requests = REQUEST_TOKENS * math.ceil(n / layout.chunk)
            again = requests + n * (1 + (DIALOGUE if config.asks else 0))  # tokens of the reference passes
            total += meter.forward_flops(n, before)
            # Each chunk is read behind the text alone, not behind the other ones.
            total += again * (2.0 * meter.weights + meter.attention * (before + n + min(n, layout.chunk) / 2))
            size = Size.of(config, n, before, number == len(layout.segments))
            before += size.positions
            rows += size.positions if config.form == "capped" else size.rows
            if size.rows < n:
                total += _refine_flops(base.model, config, min(again, layout.chunk), size.rows)
        return Estimate(total, _nbytes(base.model, config, rows))


def _refine_flops(model: PreTrainedModel, config: CompactConfig, tokens: float, rows: int) -> float:
    """Operations to refine ``rows`` rows a head for the queries of that many reference tokens."""
    shape = kv_shape(model.config)
    queries = int(tokens) * int(model.config.num_attention_heads) // shape.heads
    return shape.layers * shape.heads * refine_flops(queries, rows, shape.size, config.refinement)


def _nbytes(model: PreTrainedModel, config: CompactConfig, rows: int) -> float:
    """The size of an artifact with ``rows`` rows a head on average."""
    layers, heads, size = kv_shape(model.config)
    stored = {
        "model": size * model.dtype.itemsize,
        "bfloat16": 2 * size,
        "int8": size + 2,
        "int4": size / 2 + 2,
    }
    return layers * heads * rows * (2 * stored[config.stored] + (4 if config.form == "ragged" else 0))
