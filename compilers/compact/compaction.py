"""The compaction of a text: which keys each head keeps, and what stands for them; see
`memkit.compilers.compact.compiler`."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor
from transformers import PreTrainedModel

from memkit.compilers.base import Progress, Step
from memkit.compilers.compact.budget import share_budget
from memkit.compilers.compact.capped import capped, uniform_direction
from memkit.compilers.compact.config import CompactConfig
from memkit.compilers.compact.layout import Size
from memkit.compilers.compact.matching import NNLS_STEPS, fit_values, match
from memkit.compilers.compact.passes import Pass, dialogues, repetitions
from memkit.compilers.compact.reading import Reading
from memkit.compilers.compact.reference import LayerReferences, Reference, observe
from memkit.compilers.compact.refine import refine_flops, refined
from memkit.compilers.compact.self_check import unequal
from memkit.compilers.compact.writes import write_weights
from memkit.compilers.distillation.flops import FlopMeter
from memkit.engine.transformers import kv_cache
from memkit.engine.transformers.ragged import RaggedKV, Rows, unsupported, with_ragged_attention
from memkit.errors import CompileError
from memkit.models import rotary
from memkit.models.kv_shape import kv_shape
from memkit.models.loading import LoadedModel

FULL_PASSES = 4  # reference passes of which ``queries`` tokens each are recorded; more of them share that


@dataclass
class Report:
    """Reports the passes of a compilation."""

    progress: Progress
    started: float
    steps: int = 0
    done: int = 0

    def __call__(self, phase: str) -> None:
        self.done += 1
        self.progress(Step(phase, self.done, self.steps, 0.0, time.perf_counter() - self.started))


def obstacle_of(base: LoadedModel) -> str:
    """Why a model cannot have compact memories, as far as its configuration and keys tell, or ""."""
    return unsupported(base.model) or base.fixed_keys


class Compaction:
    """The compaction of one text for ``base``, in reference passes of ``chunk`` tokens.

    ``flops`` counts its operations. Raises `CompileError` for a model that cannot read such memories.
    """

    def __init__(self, base: LoadedModel, config: CompactConfig, chunk: int, report: Report) -> None:
        self.base, self.config, self.chunk, self.report = base, config, chunk, report
        self.meter, self.flops = FlopMeter(base.model), 0.0
        obstacle = obstacle_of(base)
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
        layers = kv_shape(self.model.config).layers
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
            self.flops += self.meter.forward_flops(len(each.ids), reading.tokens)
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
