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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from memkit.artifact.format import Artifact, Manifest, Provenance
from memkit.artifact.quantization import Tensors, quantized
from memkit.artifact.ragged import KIND, ragged_tensors
from memkit.compilers.base import Compiled, Estimate, Progress, Step, silent
from memkit.compilers.compact.budget import share_budget
from memkit.compilers.compact.capped import capped, uniform_direction
from memkit.compilers.compact.config import CompactConfig, parse_options
from memkit.compilers.compact.layout import Layout, Size
from memkit.compilers.compact.matching import NNLS_STEPS, fit_values, match
from memkit.compilers.compact.passes import Pass, dialogues, repetitions
from memkit.compilers.compact.reading import Reading
from memkit.compilers.compact.reference import LayerReferences, Reference, observe
from memkit.compilers.compact.refine import refine_flops, refined
from memkit.compilers.compact.self_check import unequal
from memkit.compilers.compact.writes import write_weights
from memkit.compilers.distillation.flops import FlopMeter
from memkit.document import Document
from memkit.engine.transformers import kv_cache
from memkit.engine.transformers.ragged import RaggedKV, Rows, unsupported, with_ragged_attention
from memkit.errors import CompileError
from memkit.models import rotary
from memkit.models.chat import text_ids
from memkit.models.loading import LoadedModel

FULL_PASSES = 4  # reference passes of which ``queries`` tokens each are recorded; more of them share that
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
        return unsupported(base.model) or base.fixed_keys

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
        compaction = _Compaction(base, config, layout.chunk, _Report(progress, started))
        memory = compaction.run([ids[cut] for cut in cuts])
        manifest = Manifest(
            kind=KIND if config.form == "ragged" else "kv",
            compiler=self.name,
            compiler_version=self.version,
            config={**asdict(config), "questions": config.asks, "refine": config.refinement},
            seed=config.seed,
            fingerprint=base.fingerprint,
            tokens=memory.tokens,
            tenant=tenant,
            sources=(Provenance(document.digest, 0, len(document.text)),),
            metrics={
                "context_tokens": len(ids),
                "segments": len(cuts),
                "rows": sum(len(head) for heads in memory.layers for head in heads),
                "longest_head": max(len(head) for heads in memory.layers for head in heads),
            },
        )
        data = Artifact.encode(manifest, _tensors(memory, config))
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
            pairs = again * (before + n + min(n, layout.chunk) / 2)
            total += meter.forward_flops(again, before + n) + meter.attention * pairs
            size = Size.of(config, n, before, number == len(layout.segments))
            before += size.positions
            rows += size.positions if config.form == "capped" else size.rows
            if size.rows < n:
                total += _refine_flops(base.model, config, min(again, layout.chunk), size.rows)
        return Estimate(total, _nbytes(base.model, config, rows))


def _refine_flops(model: PreTrainedModel, config: CompactConfig, tokens: float, rows: int) -> float:
    """Operations to refine ``rows`` rows a head for the queries of that many reference tokens."""
    layers, heads = int(model.config.num_hidden_layers), int(model.config.num_key_value_heads)
    queries = int(tokens) * int(model.config.num_attention_heads) // heads
    each = refine_flops(queries, rows, rotary.head_dim_of(model), config.refinement)
    return layers * heads * each


def _nbytes(model: PreTrainedModel, config: CompactConfig, rows: int) -> float:
    """The size of an artifact with ``rows`` rows a head on average."""
    heads = int(model.config.num_hidden_layers) * int(model.config.num_key_value_heads)
    size = rotary.head_dim_of(model)
    stored = {
        "model": size * model.dtype.itemsize,
        "bfloat16": 2 * size,
        "int8": size + 2,
        "int4": size / 2 + 2,
    }
    return heads * rows * (2 * stored[config.stored] + (4 if config.form == "ragged" else 0))


def _tensors(memory: RaggedKV, config: CompactConfig) -> Tensors:
    """The tensors of the artifact."""
    if config.form == "ragged":
        heads = [[(head.keys, head.values, head.bias) for head in layer] for layer in memory.layers]
        return ragged_tensors(heads, config.stored)
    keys = torch.stack([torch.stack([head.keys for head in layer]) for layer in memory.layers]).cpu()
    values = torch.stack([torch.stack([head.values for head in layer]) for layer in memory.layers]).cpu()
    return quantized({"keys": keys, "values": values}, config.stored)


@dataclass
class _Report:
    """Reports the passes of a compilation."""

    progress: Progress
    started: float
    steps: int = 0
    done: int = 0

    def __call__(self, phase: str) -> None:
        self.done += 1
        self.progress(Step(phase, self.done, self.steps, 0.0, time.perf_counter() - self.started))


class _Compaction:
    """One compilation."""

    def __init__(self, base: LoadedModel, config: CompactConfig, chunk: int, report: _Report) -> None:
        self.base, self.config, self.chunk, self.report = base, config, chunk, report
        self.meter, self.flops = FlopMeter(base.model), 0.0
        obstacle = Compact.obstacle(base, embedded=True)
        if not obstacle:
            self.model: PreTrainedModel = with_ragged_attention(base.model)
            obstacle = unequal(base.model, self.model)
        if obstacle:
            raise CompileError(
                f"this model cannot have compact memories: {obstacle}. Its documents stay answerable from "
                "their text; use another compiler"
            )
        self.inv_freq = rotary.inv_freq_of(base.model)
        self.header = kv_cache.prefill(self.model, list(base.chat.header)) if base.chat.header else None

    def run(self, pieces: Sequence[Sequence[int]]) -> RaggedKV:
        """The memory of all segments, without the header; keys are rotated to their places behind it."""
        layers = int(self.model.config.num_hidden_layers)
        passes = [self._passes(piece) for piece in pieces]
        for piece, each in zip(pieces, passes, strict=True):
            self.report.steps += math.ceil(len(piece) / self.chunk) + len(each) + layers
        kept: RaggedKV | None = None
        for number, piece in enumerate(pieces):
            if kept is None:
                reading = Reading(self.header, self.header.tokens if self.header else 0)
            else:
                reading = Reading(None, 0, kept.after(self.header))
            last = number == len(pieces) - 1
            size = Size.of(self.config, len(piece), reading.tokens, last)
            memory = self._segment(reading, piece, passes[number], size)
            kept = memory if kept is None else kept.join(memory)
        if kept is None:
            raise CompileError("the document has no tokens")
        return kept

    def _segment(self, reading: Reading, ids: Sequence[int], passes: Sequence[Pass], size: Size) -> RaggedKV:
        """The memory, of that size, of one segment that is read behind ``reading``."""
        config, start = self.config, reading.tokens
        for extended in reading.extended(self.model, ids, self.chunk):
            reading = extended
            self.report("read")
        self.flops += self.meter.forward_flops(len(ids), start)
        # Recorded queries are in memory until the fit, so the passes of a long text share a limit.
        limit = min(config.queries, -(-FULL_PASSES * config.queries // len(passes)))
        references = [LayerReferences.of(w) for w in write_weights(self.model, reading, config.writes)]
        for each, _ in zip(
            passes,
            observe(self.model, reading, passes, references, limit, config.seed),
            strict=True,
        ):
            self.report("repeat")
            pairs = len(each.ids) * (reading.tokens + len(each.ids) / 2)
            # The recorder computes the scores and the reads of attention a second time.
            self.flops += self.meter.forward_flops(len(each.ids), reading.tokens)
            self.flops += self.meter.attention * pairs
        masks = self._masks(references, size, len(ids))
        layers = []
        for layer, (seen, mask) in enumerate(zip(references, masks, strict=True)):
            spans = seen.by_span()
            layers.append(
                tuple(
                    self._head(reading, layer, spans, head, kept, size.positions)
                    for head, kept in enumerate(mask)
                )
            )
            self.report("fit")
        return RaggedKV(tuple(layers), size.positions)

    def _masks(self, references: Sequence[LayerReferences], size: Size, tokens: int) -> list[Tensor]:
        """Which keys ``[kv_head, key]`` of each layer are kept."""
        config, heads = self.config, len(references) * references[0].squares.shape[0]
        floor, cap = max(1, round(config.floor * size.rows)), math.ceil(config.cap * size.rows) or tokens
        if config.form == "capped":  # every head has as many in any case
            floor = cap = size.rows
        sharpen = config.sharpen if config.refinement else 1.0
        importance = [layer.importance(sharpen) for layer in references]
        return share_budget(importance, size.rows * heads, floor, cap)

    def _passes(self, ids: Sequence[int]) -> list[Pass]:
        """The reference passes over a segment."""
        passes = list(repetitions(self.base, ids, self.chunk))
        if self.config.asks:
            passes += dialogues(self.base, ids, self.chunk, self.config.seed)
        return passes

    def _head(
        self,
        reading: Reading,
        layer: int,
        spans: Sequence[Reference],
        head: int,
        mask: Tensor,
        positions: int,
    ) -> Rows:
        """The kept rows of one head, moved so that the text's end stays right in front of the question."""
        cache, config = reading.cache, self.config
        if cache is None:
            raise CompileError("the document has no tokens")
        keys, values = (part[layer][0, head, reading.start :] for part in (cache.keys, cache.values))
        parts = list[Rows]()
        for chunk in spans:
            kept = mask[chunk.span].nonzero().flatten()
            parts.append(
                self._fitted(chunk, head, keys[chunk.span].float(), values[chunk.span].float(), kept)
            )
        rows = reduce(Rows.join, parts)
        rows = Rows(rows.keys.to(keys.dtype), rows.values.to(values.dtype), rows.bias)
        if config.form == "capped":
            rows = self._capped(rows, spans, head, positions)
        moved = torch.tensor([positions - reading.context], device=keys.device)
        return Rows(rotary.rotate(rows.keys, moved, self.inv_freq), rows.values, rows.bias)

    def _fitted(self, chunk: Reference, head: int, keys: Tensor, values: Tensor, kept: Tensor) -> Rows:
        """Rows for the ``kept`` of the keys of a chunk, in float32."""
        config, attention, queries = self.config, chunk.attention(head, keys), chunk.query[head]
        value, bias = match(
            attention, values, kept, bias=config.bias, refit=config.values, ridge=config.ridge
        )
        self.flops += _fit_flops(len(queries), len(kept), len(keys), keys.shape[1])
        rows = Rows(keys[kept], value, bias)
        if not config.refinement:
            return rows
        generator = torch.Generator().manual_seed(config.seed)
        rows = refined(queries, attention, keys, values, rows, config.refinement, generator)
        if len(rows) < len(keys):
            self.flops += refine_flops(len(queries), len(rows), keys.shape[1], config.refinement)
            scores = queries @ rows.keys.T + rows.bias
            rows = Rows(
                rows.keys, fit_values(attention, values, scores, rows.values, config.ridge), rows.bias
            )
        return rows

    def _capped(self, rows: Rows, spans: Sequence[Reference], head: int, length: int) -> Rows:
        """``length`` rows without biases that read like these; see `memkit.compilers.compact.capped`."""
        queries = torch.cat([chunk.query[head] for chunk in spans])
        even, values = capped(rows, uniform_direction(queries), length)
        return Rows(even, values, rows.bias.new_zeros(length))


def _fit_flops(queries: int, kept: int, keys: int, size: int) -> float:
    """Operations to fit ``kept`` of ``keys`` keys of one head to so many queries."""
    if kept == keys:
        return 0.0
    smaller = min(queries, kept)
    systems = 2 * queries * kept**2 + 2 * queries * kept * smaller + smaller**3 / 3
    return systems + 2 * NNLS_STEPS * kept**2 + 4 * queries * keys * size
