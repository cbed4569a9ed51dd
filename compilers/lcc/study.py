"""What a memory of a text is trained on: the study set, and the loss over it."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from random import Random

from memkit.compilers.distillation.agnostic_queries import queries_for
from memkit.compilers.distillation.checkpoint import Checkpoint
from memkit.compilers.distillation.flops import FlopMeter
from memkit.compilers.distillation.losses import DistillationLoss, Pair, Part, split_held_out
from memkit.compilers.distillation.rule_questions import cloze_questions, following_sentences
from memkit.compilers.distillation.teacher import Example, Teacher
from memkit.compilers.lcc.config import LCCConfig
from memkit.errors import CompileError
from memkit.prompts import phrase_questions

WRITING = 0.5  # of the time for the study set goes into writing questions, the rest into answering them
_PHASE = "study"  # of the checkpoint


def distillation_loss(
    config: LCCConfig,
    teacher: Teacher,
    meter: FlopMeter,
    *,
    seconds: float = math.inf,
    checkpoint: Checkpoint | None = None,
) -> DistillationLoss:
    """The loss of one segment: all examples, with the teacher's answers and distributions.

    The questions of the study set are written and answered in about so many ``seconds``; an interrupted run
    takes them from its ``checkpoint``.
    """

    def with_targets(examples: Sequence[Example]) -> tuple[Pair, ...]:
        targets = teacher.targets(examples, config.top_k)
        for example in examples:
            meter.forward(len(example.query) + len(example.answer), len(teacher.context))
        return tuple(zip(examples, targets, strict=True))

    study = _saved(checkpoint) or study_set(config, teacher, seconds)
    if checkpoint is not None:
        _save(checkpoint, study)
    queries = queries_for(teacher.base, config.queries)[: config.agnostic]
    agnostic = with_targets(teacher.agnostic(queries, config.answer_tokens))
    windows = with_targets(
        teacher.reconstructions(config.reconstruction_window, config.reconstruction, config.seed)
    )
    trained, regularizing, held_out = split_held_out(with_targets(study), agnostic)
    if not (trained or regularizing or windows):
        raise CompileError(
            "the text gave nothing to train on, as it is too short or the time was over: raise the budget, "
            "or self_study, phrases, agnostic or reconstruction_window, which need less of the text than "
            "cloze and following"
        )
    return DistillationLoss(
        teacher,
        teacher.before,
        [
            Part(trained, config.self_study_batch, 1.0),
            Part(regularizing, config.agnostic_batch, 1.0),
            Part(windows, config.reconstruction_batch, config.reconstruction_weight),
        ],
        held_out,
        loss=config.loss,
        seed=config.seed,
        meter=meter,
    )


def study_set(config: LCCConfig, teacher: Teacher, seconds: float = math.inf) -> list[Example]:
    """Questions that the model writes, and questions made by rule, with their answers.

    In limited time the model writes about parts of the text in random order, so that the questions it gets
    to are about all of it; those by rule that the text answers are always there.
    """
    started = time.perf_counter()
    quoted = teacher.quoted(
        [
            *cloze_questions(teacher.text, config.cloze, config.seed),
            *following_sentences(teacher.text, config.following, config.seed),
        ],
        config.answer_tokens,
    )
    requests = teacher.requests(config.self_study, config.kinds)
    if math.isfinite(seconds):
        Random(config.seed).shuffle(requests)
    temperature = config.self_study_temperature
    written = teacher.write(requests, config.seed, temperature, until=started + WRITING * seconds)
    by_rule = phrase_questions(teacher.text, config.phrases, config.seed)
    asked = teacher.self_study(
        [config.wording.replace("{question}", question) for question in (*written, *by_rule)],
        config.answer_tokens,
        again=config.self_study_again,
        limit=config.self_study,
        seed=config.seed,
        temperature=temperature,
        until=started + seconds,
    )
    return [*asked, *quoted]


def _saved(checkpoint: Checkpoint | None) -> list[Example]:
    state = checkpoint.get(_PHASE, []) if checkpoint is not None else None
    return [
        Example(kind, tuple(query), tuple(answer), held_out, tuple(closed))
        for kind, query, answer, held_out, closed in (state["examples"] if state else ())
    ]


def _save(checkpoint: Checkpoint, study: Sequence[Example]) -> None:
    rows = [[e.kind, list(e.query), list(e.answer), e.held_out, list(e.closed)] for e in study]
    checkpoint.put(_PHASE, {"parameters": [], "done": True, "examples": rows})
