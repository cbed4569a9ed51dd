"""LoRA by context distillation: one adapter for each context, without any of its tokens in the prompt.

The frozen model reads the context once, writes questions about it and answers them. An adapter is then
trained so that the model with it, given only the question, answers as the frozen model does with the
context: KL(teacher(y | C, q) ‖ student(y | q, LoRA)). The context's KV and the teacher's distributions over
the answers are computed once.

References
    Context Distillation as Latent Memory Management (Zheng et al., arXiv:2605.28889, 2026): one
    independent adapter for each context.
    LoRA: Low-Rank Adaptation of Large Language Models (Hu et al., 2021).

Departures, each a config field
    - The ``fast`` preset takes about a hundred queries and few steps at a high rate; ``paper`` takes
      a thousand queries with sampled answers, as far as the paper's recipe is known.
    - Besides factual questions, ``kinds`` has listings, paraphrases, questions over two facts, and questions
      that the text does not answer, so that the adapter also learns what it does not know.
    - ``agnostic`` queries limit drift: their target is the frozen model without any context.
    - ``reconstruction_window`` adds windows of the text itself.
    - The last state is kept; ``patience`` stops early on held-out questions instead.

    A document longer than ``segment_tokens``, or than the window, is split into segments, which all train
    one adapter, with ``steps`` for each.

Requirements
    A causal model whose ``targets`` are linear layers. The prompt is the same with and without the adapter.

Example
    >>> made = LoRA({"rank": 8}).compile(document, base, tenant="mira")
    >>> export_peft(Artifact.decode(made.data), "adapter")  # for PEFT, or a server
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from memkit.artifact.format import Artifact, Manifest, Provenance
from memkit.compilers.base import Compiled, Estimate, Progress, silent, stored_settings
from memkit.compilers.distillation.agnostic_queries import queries_for
from memkit.compilers.distillation.checkpoint import Checkpoint, key_of
from memkit.compilers.distillation.flops import FlopMeter
from memkit.compilers.distillation.losses import BatchedLoss, DistillationLoss, Pair, Part, split_held_out
from memkit.compilers.distillation.segments import MAX_QUESTION, MIN_SEGMENT, QUESTION_TOKENS, split_segments
from memkit.compilers.distillation.teacher import Example, Teacher, targets
from memkit.compilers.distillation.training import History, minimise_all
from memkit.compilers.lora.config import PRESETS, LoRAConfig, parse_options
from memkit.document import Document
from memkit.engine.transformers import kv_cache
from memkit.engine.transformers.lora import Adapters, adapter_config, export_peft
from memkit.errors import CompileError
from memkit.models.chat import text_ids
from memkit.models.loading import LoadedModel
from memkit.prompts import is_held_out

__all__ = ["PRESETS", "LoRA", "LoRAConfig", "export_peft"]


class LoRA:
    """The LoRA compiler. ``options`` are fields of `LoRAConfig`, and ``preset``."""

    name = "lora"
    version = "1"
    takes_ratio = False

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
        key = key_of(self.name, self.version, repr(self.config), document, base, tenant)
        started, training_set = time.perf_counter(), self._training_set(document, base)
        adapters = self._train([training_set], base, progress, Checkpoint(unfinished, key))
        data = self._encode(training_set, adapters, 0, base, tenant)
        return training_set.compiled(data, time.perf_counter() - started)

    def compile_many(
        self, documents: Sequence[Document], base: LoadedModel, *, tenant: str, progress: Progress = silent
    ) -> list[Compiled]:
        """Compile several documents in one batch, with an independent adapter for each of them.

        Each artifact equals that of `compile`, up to rounding; the time is shared equally. Only documents
        with equally many segments are trained batched. Raises `CompileError` when any of them fails.
        """
        started = time.perf_counter()
        training_sets = [self._training_set(document, base) for document in documents]
        data = [b""] * len(training_sets)
        for shape in dict.fromkeys(training_set.shape for training_set in training_sets):
            group = [i for i, training_set in enumerate(training_sets) if training_set.shape == shape]
            adapters = self._train([training_sets[i] for i in group], base, progress, Checkpoint())
            for index, i in enumerate(group):
                data[i] = self._encode(training_sets[i], adapters, index, base, tenant)
        seconds = (time.perf_counter() - started) / max(len(training_sets), 1)
        return [
            training_set.compiled(d, seconds) for training_set, d in zip(training_sets, data, strict=True)
        ]

    def estimate(self, tokens: int, base: LoadedModel) -> Estimate:
        """The cost of compiling ``tokens`` tokens if all steps are taken."""
        config, meter = self.config, FlopMeter(base.model)
        cuts = split_segments(tokens, min(config.segment_tokens, _room(base, config, tokens)))
        batch = config.self_study_batch * bool(config.self_study) + config.agnostic_batch * bool(
            config.agnostic
        )
        step_tokens = batch * QUESTION_TOKENS + 2 * config.reconstruction_window
        read = sum(
            meter.forward_flops(n, 0) + meter.forward_flops(config.self_study * QUESTION_TOKENS, n)
            for n in (cut.stop - cut.start for cut in cuts)
        )
        shapes = [m.weight.shape for n, m in base.model.named_modules() if n.endswith(config.targets)]
        adapter = 4 * config.rank * sum(sum(shape) for shape in shapes)
        return Estimate(read + 2 * config.steps * len(cuts) * meter.forward_flops(step_tokens, 0), adapter)

    def _training_set(self, document: Document, base: LoadedModel) -> _TrainingSet:
        """The training set of a document: examples with the frozen model's answers."""
        context, config = text_ids(base.tokenizer, document.text), self.config
        if not context:
            raise CompileError("the document has no tokens")
        cuts = split_segments(len(context), min(config.segment_tokens, _room(base, config, len(context))))
        meter = FlopMeter(base.model)
        header = kv_cache.prefill(base.model, list(base.chat.header)) if base.chat.header else None
        losses = list[DistillationLoss]()
        for number, cut in enumerate(cuts):
            teacher = Teacher(base, context[cut], header, context[: cut.start])
            meter.forward(len(teacher.context), 0)
            losses.append(_distillation_loss(config, teacher, meter, config.seed + number))
        loss = DistillationLoss.union(losses, None)
        return _TrainingSet(document, len(context), len(cuts), loss, meter)

    def _train(
        self,
        training_sets: Sequence[_TrainingSet],
        base: LoadedModel,
        progress: Progress,
        checkpoint: Checkpoint,
    ) -> Adapters:
        """Train an adapter for each of several training sets with the same shape."""
        config, batched = self.config, BatchedLoss([each.loss for each in training_sets])
        try:
            adapters = Adapters.fresh(
                base.model, len(training_sets), config.rank, config.alpha, config.targets, config.seed
            )
        except ValueError as error:
            raise CompileError(f"the LoRA does not fit this model; choose other targets: {error}") from error
        student = adapters.student
        minimise_all(
            "lora",
            adapters.parameters,
            lambda step: batched.step(student),
            (lambda: batched.measure(student))
            if config.patience and training_sets[0].loss.held_out
            else None,
            config.schedule(training_sets[0].pieces),
            progress,
            [training_set.history for training_set in training_sets],
            checkpoint,
            batched.skip,
        )
        return adapters

    def _encode(
        self, training_set: _TrainingSet, adapters: Adapters, index: int, base: LoadedModel, tenant: str
    ) -> bytes:
        config, history = self.config, training_set.history
        manifest = Manifest(
            kind="lora",
            compiler=self.name,
            compiler_version=self.version,
            config=stored_settings(config),
            seed=config.seed,
            fingerprint=base.fingerprint,
            tokens=0,
            tenant=tenant,
            sources=(Provenance(training_set.document.digest, 0, len(training_set.document.text)),),
            metrics={
                "adapter": adapter_config(config.rank, config.alpha, config.targets),
                "steps": history.steps,
                "held_out_kl": round(history.best, 5) if math.isfinite(history.best) else None,
                "context_tokens": training_set.context_tokens,
                "segments": training_set.pieces,
            },
        )
        return Artifact.encode(manifest, adapters.tensors(index, base.model.dtype))


@dataclass(frozen=True)
class _TrainingSet:
    """One document with its loss and the history of its training."""

    document: Document
    context_tokens: int
    pieces: int
    loss: DistillationLoss
    meter: FlopMeter
    history: History = field(default_factory=History)

    @property
    def shape(self) -> tuple[object, ...]:
        """What training_sets must agree in to be trained batched."""
        kinds = tuple(part.pairs[0][0].kind for part in self.loss.parts)
        return self.pieces, kinds, bool(self.loss.held_out)

    def compiled(self, data: bytes, seconds: float) -> Compiled:
        history = self.history
        return Compiled(data, 0, seconds, self.meter.total, history.steps, tuple(history.curve))


def _room(base: LoadedModel, config: LoRAConfig, tokens: int) -> int:
    """The tokens of the document that fit the window together with a question and its answer."""
    answer = max(2 * config.reconstruction_window, config.answer_tokens)
    room = base.window - len(base.chat.header) - MAX_QUESTION - answer
    if room < min(tokens, MIN_SEGMENT):
        raise CompileError(
            f"{base.name} reads {base.window:,} tokens at once, too few for a piece of the document and "
            "questions about it; choose a smaller reconstruction_window or answer_tokens"
        )
    return room


def _distillation_loss(config: LoRAConfig, teacher: Teacher, meter: FlopMeter, seed: int) -> DistillationLoss:
    """The loss of one segment: examples without the context, with the teacher's distributions given it."""
    base = teacher.base

    def with_targets(examples: Sequence[Example]) -> tuple[Pair, ...]:
        for example in examples:
            meter.forward(len(example.query) + len(example.answer), len(teacher.context))
        distributions = teacher.targets(examples, config.top_k)
        return tuple((e.without_context, t) for e, t in zip(examples, distributions, strict=True))

    study = with_targets(
        teacher.self_study(
            _questions(config, teacher, seed),
            config.answer_tokens,
            again=config.self_study_again,
            limit=config.self_study,
            seed=seed,
            temperature=config.self_study_temperature,
            answer_temperature=1.0 if config.answers == "sampled" else 0.0,
        )
    )
    queries = queries_for(base, config.queries)[: config.agnostic]
    bare = [example.without_context for example in teacher.agnostic(queries, config.answer_tokens)]
    agnostic = tuple(zip(bare, targets(base, None, bare, config.top_k), strict=True))
    windows = with_targets(teacher.reconstructions(config.reconstruction_window, 0, seed))
    trained, regularizing, held_out = split_held_out(study, agnostic)
    return DistillationLoss(
        teacher,
        None,
        [
            Part(trained, config.self_study_batch, 1.0),
            Part(regularizing, config.agnostic_batch, 1.0),
            Part(windows, 1, config.reconstruction_weight),
        ],
        held_out,
        loss="kl",
        seed=config.seed,
        meter=meter,
    )


def _questions(config: LoRAConfig, teacher: Teacher, seed: int) -> list[str]:
    """Questions of the configured kinds. Held-out questions are not paraphrased."""
    if not config.self_study:
        return []
    requests = teacher.requests(config.self_study, config.written)
    written = teacher.write(requests, seed, config.self_study_temperature)
    if "paraphrase" not in config.kinds:
        return written
    plain = [question for question in written if not is_held_out(question)][: len(written) // 4]
    rephrased = teacher.base.prompts.paraphrase_requests(plain)
    return list(dict.fromkeys((*written, *teacher.write(rephrased, seed, config.self_study_temperature))))
