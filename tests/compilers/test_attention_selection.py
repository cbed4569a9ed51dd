"""Memories that begin with the context's own, most attended keys and values."""

from __future__ import annotations

import pytest
import torch

from memkit.artifact.format import Artifact
from memkit.compilers.distillation.flops import FlopMeter
from memkit.compilers.distillation.teacher import Example, Teacher
from memkit.compilers.lcc import attention_selection
from memkit.compilers.lcc.attention_selection import attention, most_attended
from memkit.compilers.lcc.compiler import LCC
from memkit.document import Document
from memkit.engine.base import Request
from memkit.engine.transformers import kv_cache
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import CompileError, ConfigError
from memkit.models import rotary
from memkit.models.loading import LoadedModel
from memkit.prompts import phrase_questions
from memkit.testing import TEXT, TINY_OPTIONS

SELECTED = {**TINY_OPTIONS, "steps": 0, "kv_init": "attention", "self_study": 0, "phrases": 6, "ratio": 4}


@pytest.fixture
def teacher(tiny: LoadedModel) -> Teacher:
    ids = tiny.tokenizer.encode(TEXT, add_special_tokens=False)
    return Teacher(tiny, ids, kv_cache.prefill(tiny.model, tiny.chat.header))


@pytest.fixture
def examples(tiny: LoadedModel) -> list[Example]:
    questions = ["Where does Mira live?", "Who works at Brimtek, and since when has it been so?"]
    return [
        Example("self_study", tuple(tiny.chat.query(tiny.tokenizer, question, True)), (5, 6, 7), False)
        for question in questions
    ]


def scores_of(examples: list[Example], teacher: Teacher, batch: int) -> list[torch.Tensor]:
    return attention(teacher, examples, FlopMeter(teacher.base.model), batch)


def test_all_tokens_selected_are_the_context_as_it_was(teacher: Teacher, examples: list[Example]) -> None:
    everything = most_attended(teacher, examples, 10_000, FlopMeter(teacher.base.model))
    start = len(teacher.base.chat.header)
    for mine, whole in zip(everything.keys, teacher.prefix.keys, strict=True):
        torch.testing.assert_close(mine, whole[:, :, start:], rtol=1e-4, atol=1e-5)
    for mine, whole in zip(everything.values, teacher.prefix.values, strict=True):
        assert torch.equal(mine, whole[:, :, start:])


def test_selected_tokens_keep_their_order_and_stand_side_by_side(
    teacher: Teacher, examples: list[Example], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = [2, 9, 10, 20]
    start, tokens = len(teacher.base.chat.header), len(teacher.context)
    wanted = torch.zeros(1, tokens)
    wanted[0, chosen] = 1.0
    monkeypatch.setattr(attention_selection, "POOL", 1)
    monkeypatch.setattr(attention_selection, "attention", lambda *_: [wanted] * len(teacher.prefix.keys))
    memory = most_attended(teacher, examples, len(chosen), FlopMeter(teacher.base.model))
    values, whole = memory.values[1], teacher.prefix.values[1]
    assert torch.equal(values, whole[:, :, [start + i for i in chosen]])
    moved = kv_cache.KVCache(teacher.prefix.keys, teacher.prefix.values).shifted(
        -7, rotary.inv_freq_of(teacher.base.model)
    )  # the second one stood at 9 and stands at 1 now; the third one likewise, at 10 - 8
    eighth = rotary.rotate(moved.keys[1], torch.tensor([-1]), rotary.inv_freq_of(teacher.base.model))
    torch.testing.assert_close(memory.keys[1][:, :, 1], eighth[:, :, start + 9], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(memory.keys[1][:, :, 2], eighth[:, :, start + 10], rtol=1e-4, atol=1e-5)


def test_attention_is_the_models_own_whatever_the_batch(teacher: Teacher, examples: list[Example]) -> None:
    before = teacher.base.model.config._attn_implementation
    one, two = scores_of(examples, teacher, 1), scores_of(examples, teacher, 2)  # 2: the shorter is padded
    assert teacher.base.model.config._attn_implementation == before  # the shared model is left as it was
    for alone, together in zip(one, two, strict=True):
        torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)
    tokens = sum(len(example.query) + len(example.answer) for example in examples)
    heads = teacher.base.model.config.num_attention_heads
    assert one[0].shape == (1, len(teacher.context))
    assert 0 < float(one[0].sum()) < tokens * heads  # a row of attention sums to 1


def test_selection_without_questions_is_an_error(teacher: Teacher) -> None:
    with pytest.raises(CompileError, match="no question"):
        most_attended(teacher, [], 4, FlopMeter(teacher.base.model))
    with pytest.raises(ConfigError, match="needs questions"):
        LCC({**SELECTED, "phrases": 0})


def test_preset_compiles_and_its_artifact_answers(tiny: LoadedModel) -> None:
    small = {"kv_steps": 2, "phrases": 6, "agnostic": 2, "answer_tokens": 4, "reconstruction_window": 8}
    compiler = LCC({"preset": "selected", "wording": "{question} In short.", "ratio": 4, **small})
    artifact = Artifact.decode(compiler.compile(Document(TEXT), tiny, tenant="mira").data)
    assert artifact.manifest.metrics["objective"] == "phrases"
    engine = TransformersEngine(tiny)
    handle = engine.attach(artifact)
    (answer,) = engine.generate([Request("Where does Mira live?", handle=handle, max_tokens=4)])
    assert answer.prompt_tokens > len(tiny.chat.header) + artifact.manifest.tokens


def test_direct_phase_lowers_the_loss_of_what_was_selected(tiny: LoadedModel) -> None:
    options = {**SELECTED, "kv_steps": 60, "kv_lr": 3e-2, "agnostic": 0}
    made = LCC(options).compile(Document(TEXT), tiny, tenant="mira")
    losses = [value for phase, _, value in made.curve if phase == "kv"]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_a_document_in_segments_is_selected_from_piece_by_piece(tiny: LoadedModel) -> None:
    options = {**SELECTED, "segment_tokens": 20, "together_steps": 2}
    artifact = Artifact.decode(LCC(options).compile(Document(TEXT * 2), tiny, tenant="mira").data)
    assert artifact.manifest.tokens > 5


def test_phrase_questions_are_distinct_and_about_the_text() -> None:
    questions = phrase_questions(TEXT, 40, 0)
    assert len(set(questions)) == len(questions) > 10
    assert questions == phrase_questions(TEXT, 40, 0) != phrase_questions(TEXT, 40, 1)
    assert all(any(word.strip("?") in TEXT for word in question.split()[2:]) for question in questions)
    assert phrase_questions(TEXT, 0, 0) == phrase_questions(" \n", 5, 0) == []
    assert phrase_questions("word", 3, 0)  # shorter than any phrase
