"""LoRA by context distillation: one adapter for each context, and no token of it in the prompt.

The frozen model reads the context once, writes questions about it and answers them. An adapter is then
trained so that the model with it, given the bare question, answers as the frozen one does with the
context in view: KL(teacher(y | C, q) ‖ student(y | q, LoRA)). The teacher's keys and values of the context,
and its distributions over the answers, are computed once.

References
    Context Distillation as Latent Memory Management (Zheng et al., arXiv:2605.28889, 2026): one
    independent adapter for each context.
    LoRA: Low-Rank Adaptation of Large Language Models (Hu et al., 2021).

Departures, each a config field
    - The ``fast`` preset takes about a hundred queries and few steps at a high rate; ``paper`` takes
      a thousand queries with sampled answers, as far as the paper's recipe is known.
    - Besides factual questions, ``kinds`` has listings, paraphrases, questions over two facts, and questions
      that the text does not answer, so that the adapter also learns what it does not know.
    - ``agnostic`` queries hold the model where it is: their target is the frozen model without any context.
    - ``reconstruction_window`` adds windows of the text itself.
    - The last state is kept; ``patience`` stops early on held-out questions instead.

    A document longer than ``segment_tokens``, or than the window, is studied in pieces; all of them train the
    one adapter, in as many steps for each.

Requirements
    A causal model whose ``targets`` are linear layers. A question is phrased as without a memory: the prompt
    is the same whether the adapter is there or not.

Example
    >>> made = LoRA({"rank": 8}).compile(document, base, tenant="mira")
    >>> export_peft(Artifact.decode(made.data), "adapter")  # for PEFT, or a server
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from memkit.artifact.format import Artifact, Manifest, Provenance
from memkit.compilers.base import Compiled, Estimate, Progress, silent
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
        started, lesson = time.perf_counter(), self._lesson(document, base)
        adapters = self._train([lesson], base, progress, Checkpoint(unfinished, key))
        data = self._encode(lesson, adapters, 0, base, tenant)
        return lesson.compiled(data, time.perf_counter() - started)

    def compile_many(
        self, documents: Sequence[Document], base: LoadedModel, *, tenant: str, progress: Progress = silent
    ) -> list[Compiled]:
        """Compile documents side by side: one batch, with an independent adapter for each of them.

        Each artifact is what `compile` gives, up to rounding; its seconds are an equal share. Only documents
        of equally many pieces are trained together. All are given up when one fails: raises `CompileError`.
        """
        started = time.perf_counter()
        lessons = [self._lesson(document, base) for document in documents]
        data = [b""] * len(lessons)
        for shape in dict.fromkeys(lesson.shape for lesson in lessons):
            group = [i for i, lesson in enumerate(lessons) if lesson.shape == shape]
            adapters = self._train([lessons[i] for i in group], base, progress, Checkpoint())
            for index, i in enumerate(group):
                data[i] = self._encode(lessons[i], adapters, index, base, tenant)
        seconds = (time.perf_counter() - started) / max(len(lessons), 1)
        return [lesson.compiled(d, seconds) for lesson, d in zip(lessons, data, strict=True)]

    def estimate(self, tokens: int, base: LoadedModel) -> Estimate:
        """Costs of a document of that many tokens, if all steps are taken."""
        config, meter = self.config, FlopMeter(base.model)
        cuts = split_segments(tokens, min(config.segment_tokens, _room(base, config, tokens)))
        batch = config.self_study_batch * bool(config.self_study) + config.agnostic_batch * bool(
            config.agnostic
        )
        drawn = batch * QUESTION_TOKENS + 2 * config.reconstruction_window
        read = sum(
            meter.ahead(n, 0) + meter.ahead(config.self_study * QUESTION_TOKENS, n)
            for n in (cut.stop - cut.start for cut in cuts)
        )
        shapes = [m.weight.shape for n, m in base.model.named_modules() if n.endswith(config.targets)]
        adapter = 4 * config.rank * sum(sum(shape) for shape in shapes)
        return Estimate(read + 2 * config.steps * len(cuts) * meter.ahead(drawn, 0), adapter)

    def _lesson(self, document: Document, base: LoadedModel) -> _TrainingSet:
        """All that the frozen model says with the document in view."""
        context, config = text_ids(base.tokenizer, document.text), self.config
        if not context:
            raise CompileError("the document has no tokens")
        cuts = split_segments(len(context), min(config.segment_tokens, _room(base, config, len(context))))
        meter = FlopMeter(base.model)
        header = kv_cache.prefill(base.model, list(base.chat.header)) if base.chat.header else None
        objectives = list[DistillationLoss]()
        for number, cut in enumerate(cuts):
            teacher = Teacher(base, context[cut], header, context[: cut.start])
            meter.forward(len(teacher.context), 0)
            objectives.append(_study(config, teacher, meter, config.seed + number))
        objective = DistillationLoss.union(objectives, None)
        return _TrainingSet(document, len(context), len(cuts), objective, meter)

    def _train(
        self, lessons: Sequence[_TrainingSet], base: LoadedModel, progress: Progress, checkpoint: Checkpoint
    ) -> Adapters:
        """An adapter for each of some lessons of one shape."""
        config, together = self.config, BatchedLoss([lesson.objective for lesson in lessons])
        try:
            adapters = Adapters.fresh(
                base.model, len(lessons), config.rank, config.alpha, config.targets, config.seed
            )
        except ValueError as error:
            raise CompileError(f"the LoRA does not fit this model; choose other targets: {error}") from error
        student = adapters.student
        minimise_all(
            "lora",
            adapters.parameters,
            lambda step: together.step(student),
            (lambda: together.measure(student))
            if config.patience and lessons[0].objective.held_out
            else None,
            config.schedule(lessons[0].pieces),
            progress,
            [lesson.history for lesson in lessons],
            checkpoint,
            together.skip,
        )
        return adapters

    def _encode(
        self, lesson: _TrainingSet, adapters: Adapters, index: int, base: LoadedModel, tenant: str
    ) -> bytes:
        config, history = self.config, lesson.history
        manifest = Manifest(
            kind="lora",
            compiler=self.name,
            compiler_version=self.version,
            config={
                **asdict(config),
                "targets": list(config.targets),
                "kinds": list(config.kinds),
                "queries": Path(config.queries).name,  # an artifact travels; a path would tell of its maker
            },
            seed=config.seed,
            fingerprint=base.fingerprint,
            tokens=0,
            tenant=tenant,
            sources=(Provenance(lesson.document.digest, 0, len(lesson.document.text)),),
            metrics={
                "adapter": adapter_config(config.rank, config.alpha, config.targets),
                "steps": history.steps,
                "held_out_kl": round(history.best, 5) if math.isfinite(history.best) else None,
                "context_tokens": lesson.context_tokens,
                "segments": lesson.pieces,
            },
        )
        return Artifact.encode(manifest, adapters.tensors(index, base.model.dtype))


@dataclass(frozen=True)
class _TrainingSet:
    """One document, what is to be learned of it, and how that went."""

    document: Document
    context_tokens: int
    pieces: int
    objective: DistillationLoss
    meter: FlopMeter
    history: History = field(default_factory=History)

    @property
    def shape(self) -> tuple[object, ...]:
        """What lessons must agree in to be trained together."""
        kinds = tuple(part.pairs[0][0].kind for part in self.objective.parts)
        return self.pieces, kinds, bool(self.objective.held_out)

    def compiled(self, data: bytes, seconds: float) -> Compiled:
        history = self.history
        return Compiled(data, 0, seconds, self.meter.total, history.steps, tuple(history.curve))


def _room(base: LoadedModel, config: LoRAConfig, tokens: int) -> int:
    """Tokens of the document that fit the window beside a question and its answer."""
    answer = max(2 * config.reconstruction_window, config.answer_tokens)
    room = base.window - len(base.chat.header) - MAX_QUESTION - answer
    if room < min(tokens, MIN_SEGMENT):
        raise CompileError(
            f"{base.name} reads {base.window:,} tokens at once, too few for a piece of the document and "
            "questions about it; choose a smaller reconstruction_window or answer_tokens"
        )
    return room


def _study(config: LoRAConfig, teacher: Teacher, meter: FlopMeter, seed: int) -> DistillationLoss:
    """What the teacher says about one piece: examples, without it, and its distributions with it."""
    base = teacher.base

    def told(examples: Sequence[Example]) -> tuple[Pair, ...]:
        for example in examples:
            meter.forward(len(example.query) + len(example.answer), len(teacher.context))
        taught = teacher.targets(examples, config.top_k)
        return tuple((e.without_context, t) for e, t in zip(examples, taught, strict=True))

    sampled = 1.0 if config.answers == "sampled" else 0.0
    study = told(
        teacher.self_study(
            _questions(config, teacher, seed),
            config.answer_tokens,
            again=config.self_study_again,
            most=config.self_study,
            seed=seed,
            temperature=config.self_study_temperature,
            answers=sampled,
        )
    )
    queries = queries_for(base, config.queries)[: config.agnostic]
    bare = [example.without_context for example in teacher.agnostic(queries, config.answer_tokens)]
    agnostic = tuple(zip(bare, targets(base, None, bare, config.top_k), strict=True))
    windows = told(teacher.reconstructions(config.reconstruction_window, 0, seed))
    trained, kept, held_out = split_held_out(study, agnostic)
    return DistillationLoss(
        teacher,
        None,
        [
            Part(trained, config.self_study_batch, 1.0),
            Part(kept, config.agnostic_batch, 1.0),
            Part(windows, 1, config.reconstruction_weight),
        ],
        held_out,
        loss="kl",
        seed=config.seed,
        meter=meter,
    )


def _questions(config: LoRAConfig, teacher: Teacher, seed: int) -> list[str]:
    """Questions of the configured kinds. None is a paraphrase of a question that is held out."""
    if not config.self_study:
        return []
    requests = teacher.requests(config.self_study, config.written)
    written = teacher.write(requests, seed, config.self_study_temperature)
    if "paraphrase" not in config.kinds:
        return written
    plain = [question for question in written if not is_held_out(question)][: len(written) // 4]
    rephrased = teacher.base.prompts.paraphrase_requests(plain)
    return list(dict.fromkeys((*written, *teacher.write(rephrased, seed, config.self_study_temperature))))
