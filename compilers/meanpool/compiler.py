"""The mean-pool compiler: one forward pass over a document with a compressor that is trained once for its
model.

References
    Bridging the Memorization-Utilization Gap: Near-Lossless Context Compression via Reinforcement Learning
    (2026), §3.1 model architecture, Appendix E precomputed memory embeddings.

Forms
    ``kv``: the keys and values that the decoder computes from the memory embeddings.
    ``embeds``: the memory embeddings, as small as one layer's share of the KV; prefilled when attached.
    Unless the compressor's decoder is the frozen base model, both refer to the checkpoint with the decoder.

Requirements
    A checkpoint for the base model (``memkit train-compressor``); one for nano ships with memkit.

Example
    >>> MeanPool({"form": "embeds"}).compile(document, base, tenant="mira")
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from memkit.artifact.format import Artifact, Manifest, Provenance
from memkit.compilers.base import Compiled, Estimate, Progress, Step, silent
from memkit.compilers.distillation.flops import FlopMeter, kv_bytes
from memkit.compilers.distillation.segments import MAX_QUESTION
from memkit.compilers.lcc.compiler import encode
from memkit.compilers.meanpool import checkpoint
from memkit.compilers.meanpool.model import Compressor
from memkit.compilers.meanpool.options import Form, parse_options
from memkit.document import Document
from memkit.engine.transformers import decoder_checkpoint, kv_cache
from memkit.engine.transformers.decoder_checkpoint import DecoderCheckpoint
from memkit.errors import CompileError
from memkit.models.chat import text_ids
from memkit.models.loading import LoadedModel

ANSWER_TOKENS = 64  # reserved in the window for an answer


class MeanPool:
    """The mean-pool compiler. ``options`` are fields of `MeanPoolConfig`, and ``preset``."""

    name = checkpoint.COMPILER
    version = "1"
    trains = False

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        self.config = parse_options(options)

    @staticmethod
    def own_ratio(base: LoadedModel) -> float:
        """The ratio of the checkpoint that is used for a model. Raises `CompileError` when there is none."""
        return float(checkpoint.newest(base, None).about["config"]["chunk"])

    @staticmethod
    def obstacle(base: LoadedModel, embedded: bool) -> str:
        """Why a model cannot have its memories, or why another than the embedded engine cannot use them."""
        try:
            found = checkpoint.newest(base, None)
        except CompileError:
            return "no compressor was trained for this model"
        if not embedded and found.about["config"].get("decoder") != "frozen":
            return "only the embedded engine runs the compressor's own decoder"
        return ""

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
        started, trained = time.perf_counter(), self._checkpoint(base)
        compressor = checkpoint.load(trained, base).frozen()
        ids = text_ids(base.tokenizer, document.text)
        tokens = self._tokens(compressor, ids)
        embeddings = compressor.embed(ids)
        kind: Form = self.config.form
        metrics = self._metrics(compressor, trained, len(ids), tokens)
        progress(Step(f"encode with {trained.label}", 1, 1, 0.0, time.perf_counter() - started))
        manifest = Manifest(
            kind=kind,
            compiler=self.name,
            compiler_version=self.version,
            config={**asdict(self.config), "checkpoint": trained.id},
            seed=self.config.seed,
            fingerprint=base.fingerprint,
            tokens=tokens,
            tenant=tenant,
            sources=(Provenance(document.digest, 0, len(document.text)),),
            metrics=metrics,
        )
        encode_form = _embeds if kind == "embeds" else _kv
        data = encode_form(manifest, compressor, embeddings)
        seconds = time.perf_counter() - started
        return Compiled(data, tokens, seconds, _flops(compressor, len(ids), tokens, kind), 1, ())

    def estimate(self, tokens: int, base: LoadedModel) -> Estimate:
        """The cost of compiling ``tokens`` tokens: each chunk is encoded once."""
        compressor = checkpoint.load(self._checkpoint(base), base)
        positions = -(-tokens // compressor.config.chunk) * compressor.config.positions
        as_kv = self.config.form == "kv"
        size = kv_bytes(base.model, positions) if as_kv else 4 * positions * base.model.config.hidden_size
        return Estimate(_flops(compressor, tokens, positions, self.config.form), size)

    def _checkpoint(self, base: LoadedModel) -> DecoderCheckpoint:
        if self.config.checkpoint:
            return decoder_checkpoint.by_id(self.config.checkpoint, base.checkpoints)
        ratio = self.config.ratio
        return checkpoint.newest(base, None if ratio is None else int(ratio), self.config.stage)

    def _tokens(self, compressor: Compressor, ids: list[int]) -> int:
        """The number of positions of the memory. Raises `CompileError` when they do not fit the window."""
        base, shape = compressor.base, compressor.config
        if not ids:
            raise CompileError("the document has no tokens")
        tokens = -(-len(ids) // shape.chunk) * shape.positions
        room = base.window - len(base.chat.header) - MAX_QUESTION - ANSWER_TOKENS
        if tokens > room:
            raise CompileError(
                f"the document has {len(ids):,} tokens, {tokens:,} positions at {shape.chunk}x with "
                f"{base.name}, which has room for {room:,}. It stays answerable from its text; take a "
                "checkpoint of a higher ratio or without wrapper tokens, or split it into several documents"
            )
        return tokens

    def _metrics(
        self, compressor: Compressor, trained: DecoderCheckpoint, context: int, tokens: int
    ) -> dict[str, Any]:
        frozen = compressor.config.decoder == "frozen"
        base_alone = frozen and self.config.form == "kv"  # the KV is all that the base model needs
        return {
            "decoder": None if base_alone else trained.id,
            "answers": "base" if frozen else "decoder",
            "checkpoint": trained.label,
            "context_tokens": context,
            "nominal_ratio": compressor.config.nominal_ratio,
            "effective_ratio": round(context / tokens, 3),
        }


def _embeds(manifest: Manifest, compressor: Compressor, embeddings: Tensor) -> bytes:
    """An artifact with the ``embeddings`` ``[chunk, hidden]``, and ``wrappers`` ``[2, hidden]`` if any."""
    dtype = compressor.base.model.dtype
    tensors = {"embeddings": (embeddings.to("cpu", dtype).contiguous(), ("chunk", "hidden"))}
    wrappers = compressor.head.wrappers
    if wrappers is not None:
        tensors["wrappers"] = (wrappers.detach().to("cpu", dtype).contiguous(), ("side", "hidden"))
    return Artifact.encode(manifest, tensors)


@torch.no_grad()
def _kv(manifest: Manifest, compressor: Compressor, embeddings: Tensor) -> bytes:
    """An artifact with the KV that the decoder computes from the ``embeddings`` ``[chunk, hidden]``."""
    front = compressor.front(compressor.base.chat.header)
    memory = compressor.wrapped(embeddings.to(compressor.base.model.dtype))[None]
    cache = kv_cache.KVCache.of(compressor.read(memory, front))
    return encode(manifest, cache.slice(front.tokens if front else 0))


def _flops(compressor: Compressor, context: int, tokens: int, form: Form) -> float:
    meter = FlopMeter(compressor.base.model)
    for _ in range(-(-context // compressor.config.chunk)):
        meter.forward(compressor.config.chunk, 0)
    if form == "kv":
        meter.forward(tokens, 0)
    return meter.total
