"""Questions that are made by rule, with the text's own words as answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkit.compilers.distillation.rule_questions import GAP, cloze_questions, following_sentences
from memkit.compilers.distillation.teacher import Teacher
from memkit.engine.transformers import kv_cache
from memkit.models.loading import LoadedModel
from memkit.testing import TEXT

STORY = "Ada moved to Lisbon in May 2019. She teaches mathematics at a small school there. Her brother sails."


def test_the_answer_fills_the_gap() -> None:
    questions = cloze_questions(STORY, 30, 0)
    assert len(questions) > 10
    for question, answer in questions:
        before, _, after = question.partition(GAP)
        quoted = before.split('"', 1)[1] + answer
        assert quoted in STORY
        assert after


def test_gaps_go_through_all_sentences_before_any_comes_again() -> None:
    asked = " ".join(question for question, _ in cloze_questions(STORY, 2, 0))
    assert "Ada moved" in asked or "Lisbon" in asked
    assert "school" in asked
    assert "sails" not in asked  # too short


def test_gaps_are_more_often_names_and_numbers() -> None:
    text = "The old house of Ada Meier stands near the small river since 1871 and is still quite well kept."
    answers = [cloze_questions(text, 1, seed)[0][1] for seed in range(200)]
    facts = sum(any(c.isupper() or c.isdigit() for c in answer) for answer in answers)
    assert facts > 0.55 * len(answers)  # 0.42 of the gaps of one to four words have one


def test_the_sentence_that_follows() -> None:
    pairs = following_sentences(STORY, 9, 0)
    assert [answer.split()[0] for _, answer in pairs] == ["She", "Her"]
    assert "Ada moved to Lisbon" in pairs[0][0]
    assert len(following_sentences(STORY, 1, 0)) == 1
    assert following_sentences("One sentence only.", 5, 0) == []


@given(st.text(max_size=300), st.integers(0, 12), st.integers(0, 3))
def test_any_text_gives_at_most_so_many_and_the_same_again(text: str, count: int, seed: int) -> None:
    for make in (cloze_questions, following_sentences):
        questions = make(text, count, seed)
        assert len(questions) <= count
        assert all(answer.strip() for _, answer in questions)
        assert questions == make(text, count, seed)


@pytest.fixture
def teacher(tiny: LoadedModel) -> Teacher:
    ids = tiny.tokenizer.encode(TEXT, add_special_tokens=False)
    return Teacher(tiny, ids, kv_cache.prefill(tiny.model, tiny.chat.header))


def test_examples_have_the_given_answers_and_end_unless_cut_off(teacher: Teacher, tiny: LoadedModel) -> None:
    short, long = teacher.quoted([("Where?", "Porto"), ("What?", "Porto " * 40)], 24)
    assert str(tiny.tokenizer.decode(list(short.answer[:-1]))).strip() == "Porto"
    assert short.answer[-1] == tiny.chat.end
    assert len(long.answer) == 24
    assert tiny.chat.end not in long.answer
    assert not short.held_out


def test_coverage_is_the_share_of_the_words_that_answers_have(teacher: Teacher) -> None:
    assert teacher.coverage([]) == 0.0
    assert teacher.coverage(teacher.quoted([("?", TEXT)], 10_000)) == 1.0
    assert 0 < teacher.coverage(teacher.quoted([("?", TEXT.split(".")[0])], 10_000)) < 1
