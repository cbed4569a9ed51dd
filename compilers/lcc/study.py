"""What a memory of a text is trained on: the study set, and the loss over it."""

from __future__ import annotations

from collections.abc import Sequence

from memkit.compilers.distillation.agnostic_queries import queries_for
from memkit.compilers.distillation.flops import FlopMeter
from memkit.compilers.distillation.losses import DistillationLoss, Pair, Part, split_held_out
from memkit.compilers.distillation.rule_questions import cloze_questions, following_sentences
from memkit.compilers.distillation.teacher import Example, Teacher
from memkit.compilers.lcc.config import LCCConfig
from memkit.prompts import phrase_questions


def distillation_loss(config: LCCConfig, teacher: Teacher, meter: FlopMeter) -> DistillationLoss:
    """The loss of one segment: all examples, with the teacher's answers and distributions."""

    def with_targets(examples: Sequence[Example]) -> tuple[Pair, ...]:
        targets = teacher.targets(examples, config.top_k)
        for example in examples:
            meter.forward(len(example.query) + len(example.answer), len(teacher.context))
        return tuple(zip(examples, targets, strict=True))

    questions = teacher.questions(
        config.self_study, config.seed, config.self_study_temperature, kinds=config.kinds
    )
    by_rule = phrase_questions(teacher.text, config.phrases, config.seed)
    study = teacher.self_study(
        [config.wording.replace("{question}", question) for question in (*questions, *by_rule)],
        config.answer_tokens,
        again=config.self_study_again,
        limit=config.self_study,
        seed=config.seed,
        temperature=config.self_study_temperature,
    )
    study += teacher.quoted(
        [
            *cloze_questions(teacher.text, config.cloze, config.seed),
            *following_sentences(teacher.text, config.following, config.seed),
        ],
        config.answer_tokens,
    )
    queries = queries_for(teacher.base, config.queries)[: config.agnostic]
    agnostic = with_targets(teacher.agnostic(queries, config.answer_tokens))
    windows = with_targets(
        teacher.reconstructions(config.reconstruction_window, config.reconstruction, config.seed)
    )
    trained, regularizing, held_out = split_held_out(with_targets(study), agnostic)
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
