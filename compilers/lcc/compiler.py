"""Latent Context Compilation: a disposable LoRA encodes a context into K buffer tokens.

The model *with* a LoRA reads the context and the buffer; the frozen model *without* it answers every
training query from the buffer's keys and values alone. After training the LoRA is discarded: the artifact
is the buffer's KV.

References
    Latent Context Compilation (2026), §3.2 bottleneck, §3.3 disposable LoRA and gradient
    isolation, §3.4 objectives, Appendix A and B hyper-parameters and prompts.

Departures, each a config field
    - ``self_study`` adds questions that the frozen model writes and answers about the context; the
      paper's objective is data-free. The manifest records which one was used (``objective``).
    - ``phrases`` adds questions that are made by rule, for models too weak to write any.
    - ``kv_steps`` trains the extracted KV directly after the LoRA phase; with ``kv_init="attention"`` it
      starts from the context's keys and values that the questions attend to most, with
      ``kv_init="compact"`` from a compact memory, both without a LoRA.
    - A document longer than ``segment_tokens``, or than the window, is compiled in segments: each follows
      the memories of the earlier ones, and a final direct phase trains all of them together.
    - The ``fast`` preset, the default, replaces the paper's 22,500 steps at 2e-5 by few steps at a high rate,
      and reconstruction by self-study (``memkit eval --study recipe`` measures each choice).

Requirements
    A causal model with rotary positions (Llama, Qwen2, Mistral ...).

Example
    >>> LCC({"ratio": 8}).compile(document, base, tenant="mira")
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from memkit.artifact.format import Artifact, Manifest, Provenance
from memkit.artifact.quantization import Stored, Tensors, quantized
from memkit.compilers.base import Compiled, Estimate, Progress, silent, stored_settings
from memkit.compilers.compact.forms import kind_of, metrics_of, tensors_of
from memkit.compilers.distillation.checkpoint import Checkpoint, key_of
from memkit.compilers.distillation.flops import FlopMeter, kv_bytes
from memkit.compilers.distillation.losses import DistillationLoss
from memkit.compilers.distillation.segments import MAX_QUESTION, MIN_SEGMENT, QUESTION_TOKENS, split_segments
from memkit.compilers.distillation.teacher import Teacher
from memkit.compilers.distillation.training import History, Run, minimise
from memkit.compilers.lcc.attention_selection import most_attended
from memkit.compilers.lcc.buffer_encoder import BufferEncoder
from memkit.compilers.lcc.config import LCCConfig, parse_options
from memkit.compilers.lcc.rows import start_flops, start_metrics, train_rows
from memkit.compilers.lcc.study import distillation_loss
from memkit.document import Document
from memkit.engine.transformers import kv_cache
from memkit.engine.transformers.ragged import RaggedKV
from memkit.errors import CompileError
from memkit.models.chat import text_ids
from memkit.models.loading import LoadedModel


class LCC:
    """The LCC compiler. ``options`` are fields of `LCCConfig`, and ``preset``."""

    name = "lcc"
    version = "1"

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        self.config = parse_options(options)

    def compile(
        self,
        document: Document,
        base: LoadedModel,
        *,
        tenant: str,
        progress: Progress = silent,
        unfinished: Path | None = None,
    ) -> Compiled:
        """See `memkit.compilers.base.Compiler.compile`."""
        started, config = time.perf_counter(), self.config
        if config.coupled:
            raise CompileError("coupled is an ablation: an artifact holds no LoRA to answer with")
        context = text_ids(base.tokenizer, document.text)
        cuts = segments(base, config, len(context))
        meter, history = FlopMeter(base.model), History()
        key = key_of(self.name, self.version, repr(config), document, base, tenant)
        checkpoint = Checkpoint(unfinished, key)
        deadline = started + config.budget - checkpoint.seconds if config.budget else math.inf
        run = Run(progress, history, checkpoint, deadline)
        memory: kv_cache.KVCache | RaggedKV
        if config.kv_init == "compact":
            memory = train_rows(base, config, context, meter, run)
            tensors = tensors_of(memory, config.form, config.stored)
            own = {**metrics_of(memory), **start_metrics(history)}
        else:
            memory = _compile(base, config, [context[cut] for cut in cuts], meter, run)
            tensors, own = memory_tensors(memory, config.stored), {}
        manifest = Manifest(
            kind=kind_of(config.form),
            compiler=self.name,
            compiler_version=self.version,
            config=stored_settings(config),
            seed=config.seed,
            fingerprint=base.fingerprint,
            tokens=memory.tokens,
            tenant=tenant,
            sources=(Provenance(document.digest, 0, len(document.text)),),
            metrics={
                "objective": config.objective,
                "steps": history.steps,
                "held_out_kl": round(history.best, 5) if math.isfinite(history.best) else None,
                "context_tokens": len(context),
                "segments": len(cuts),
                **own,
            },
        )
        return Compiled(
            Artifact.encode(manifest, tensors),
            memory.tokens,
            time.perf_counter() - started,
            meter.total,
            history.steps,
            tuple(history.curve),
            tuple(history.held_out),
        )

    def estimate(self, tokens: int, base: LoadedModel) -> Estimate:
        """The cost of compiling ``tokens`` tokens if every phase takes all its steps."""
        config, meter = self.config, FlopMeter(base.model)
        total = start_flops(base, config, tokens) if config.kv_init == "compact" else 0.0
        cuts = segments(base, config, tokens)
        questions = config.self_study + config.phrases + config.cloze + config.following
        batch = (config.self_study_batch if questions else 0) + (
            config.agnostic_batch if config.agnostic else 0
        )
        step_tokens = batch * QUESTION_TOKENS + config.reconstruction_batch * 2 * config.reconstruction_window
        for cut in cuts:
            n = cut.stop - cut.start
            memory = buffer_tokens(n, config.ratio)
            answer = meter.forward_flops(step_tokens, memory)
            total += meter.forward_flops(n, 0) + meter.forward_flops(questions * QUESTION_TOKENS, n)
            total += (
                2 * config.steps * (meter.forward_flops(n + memory, n) + answer)
                + 2 * config.kv_steps * answer
            )
        if len(cuts) > 1:
            total += (
                2
                * config.together_steps
                * meter.forward_flops(step_tokens, buffer_tokens(tokens, config.ratio))
            )
        return Estimate(total, kv_bytes(base.model, buffer_tokens(tokens, config.ratio)))


def buffer_tokens(context_tokens: int, ratio: float) -> int:
    """The number of buffer tokens, K = ceil(n / ratio)."""
    return math.ceil(context_tokens / ratio)


def memory_tensors(memory: kv_cache.KVCache, stored: Stored) -> Tensors:
    """``keys`` and ``values`` ``[layer, kv_head, token, head_dim]`` as an artifact holds them."""
    both = {"keys": memory.keys, "values": memory.values}
    return quantized({name: torch.cat(layers).detach().cpu() for name, layers in both.items()}, stored)


def encode(manifest: Manifest, memory: kv_cache.KVCache, stored: Stored = "model") -> bytes:
    """The bytes of an artifact with a memory's keys and values."""
    return Artifact.encode(manifest, memory_tensors(memory, stored))


def segments(base: LoadedModel, config: LCCConfig, tokens: int) -> list[slice]:
    """Segments of equal size, none longer than ``segment_tokens`` or than the window allows.

    Raises `CompileError` when the memories of all segments and the longest segment do not fit the window
    together.
    """
    queries = max(min(2 * config.reconstruction_window, tokens), config.answer_tokens) + MAX_QUESTION
    memory = buffer_tokens(tokens, config.ratio) + config.multiple - 1
    room = base.window - len(base.chat.header) - queries - memory - 1
    whole = config.kv_init == "compact"  # its rows are trained together, on questions about all of the text
    if room < (tokens if whole else min(tokens, MIN_SEGMENT)):
        raise CompileError(
            f"the document has {tokens:,} tokens, too many to compile at {config.ratio:g}x for {base.name}, "
            f"which reads {base.window:,} at once. It stays answerable from its text; choose a higher ratio, "
            "or split it into several documents"
        )
    return split_segments(tokens, room if whole else min(config.segment_tokens, room))


def _compile(
    base: LoadedModel,
    config: LCCConfig,
    pieces: Sequence[Sequence[int]],
    meter: FlopMeter,
    run: Run,
) -> kv_cache.KVCache:
    """The memory of all segments, in order."""
    before = kv_cache.prefill(base.model, list(base.chat.header)) if base.chat.header else None
    header = before.tokens if before else 0
    counts = [buffer_tokens(len(piece), config.ratio) for piece in pieces]
    counts[-1:] = [count + -(header + sum(counts)) % config.multiple for count in counts[-1:]]
    losses, previous = list[DistillationLoss](), list[int]()
    for number, (piece, count) in enumerate(zip(pieces, counts, strict=True), start=1):
        teacher = Teacher(base, piece, before, previous, run.progress)
        segment = _Segment(config, teacher, count, meter)
        label = f" {number}/{len(pieces)}" if len(pieces) > 1 else ""
        memory = segment.train(run, label)
        before = before.join(memory) if before else memory
        previous += piece
        losses.append(segment.loss)
    if before is None:
        raise CompileError("the document has no tokens")
    if before.tokens % config.multiple:  # attention selection had fewer tokens to choose from
        raise CompileError(f"the document is too short for a memory in multiples of {config.multiple} tokens")
    memory = before.slice(header)
    if len(losses) > 1 and config.together_steps:
        union = DistillationLoss.union(losses, before.slice(0, header))
        memory = train_kv(union, memory, config, config.together_steps, "kv together", run)
    return memory


def train_coupled(
    document: Document, base: LoadedModel, config: LCCConfig
) -> tuple[LoadedModel, kv_cache.KVCache]:
    """The coupled ablation of LCC §4.5: a memory, and the model with the LoRA that must answer from it.

    Raises `CompileError` for a document of more than one segment.
    """
    config = replace(config, coupled=True)
    context = text_ids(base.tokenizer, document.text)
    if len(segments(base, config, len(context))) > 1:
        raise CompileError("the coupled ablation takes documents of one segment")
    header = kv_cache.prefill(base.model, list(base.chat.header)) if base.chat.header else None
    teacher = Teacher(base, context, header)
    segment = _Segment(config, teacher, buffer_tokens(len(context), config.ratio), FlopMeter(base.model))
    memory = segment.train(Run())
    return replace(base, model=segment.encoder.student), memory


class _Segment:
    """The training of one segment's memory: its loss and its encoder."""

    def __init__(self, config: LCCConfig, teacher: Teacher, count: int, meter: FlopMeter) -> None:
        self.config, self.teacher, self.count, self.meter = config, teacher, count, meter
        self.loss = distillation_loss(config, teacher, meter)
        torch.manual_seed(config.seed)
        self.encoder = BufferEncoder(
            teacher.base,
            teacher.context,
            teacher.before,
            count,
            rank=config.rank,
            alpha=config.alpha,
            targets=config.targets,
            init=config.init,
        )
        if config.coupled:
            self.loss.reader = self.encoder.student

    def read(self) -> kv_cache.KVCache:
        return self.encoder.read(self.meter)

    def train(self, run: Run, label: str = "") -> kv_cache.KVCache:
        """The LoRA phase, then the direct phase; returns the artifact's KV, detached."""
        config, loss = self.config, self.loss
        if config.kv_init == "attention":
            pairs = (pair for part in loss.parts for pair in part.pairs)
            questions = [example for example, _ in pairs if example.kind == "self_study"]
            memory = most_attended(self.teacher, questions, self.count, self.meter)
            return train_kv(loss, memory, config, config.kv_steps, f"kv{label}", run)
        minimise(
            f"lora{label}",
            self.encoder.parameters,
            lambda step: loss.step(self.read()),
            (lambda: loss.measure(self._extract())) if loss.held_out else None,
            config.schedule(config.steps, config.lr),
            run.progress,
            run.history,
            run.checkpoint,
            loss.skip,
        )
        memory = self._extract()  # the last use of the LoRA
        steps = config.kv_steps
        return train_kv(loss, memory, config, steps, f"kv{label}", run) if steps else memory

    @torch.no_grad()
    def _extract(self) -> kv_cache.KVCache:
        return self.read()


def train_kv(
    loss: DistillationLoss, memory: kv_cache.KVCache, config: LCCConfig, steps: int, phase: str, run: Run
) -> kv_cache.KVCache:
    """The direct phase: trains the keys and values themselves, in float32."""
    free = [nn.Parameter(t.detach().float().clone()) for t in (*memory.keys, *memory.values)]
    layers, dtype = len(memory.keys), memory.keys[0].dtype

    def current() -> kv_cache.KVCache:
        cast = [t.to(dtype) for t in free]
        return kv_cache.KVCache(tuple(cast[:layers]), tuple(cast[layers:]))

    minimise(
        phase,
        free,
        lambda step: loss.step(current()),
        (lambda: loss.measure(current())) if loss.held_out else None,
        config.schedule(steps, config.kv_lr),
        run.progress,
        run.history,
        run.checkpoint,
        loss.skip,
    )
    with torch.no_grad():
        return current()
