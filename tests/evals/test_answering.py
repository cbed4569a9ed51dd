"""Answers in a batch: the same as one by one, with and without drafts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
import torch

from memkit.artifact.format import Artifact
from memkit.compilers.compact.compiler import Compact
from memkit.document import Document
from memkit.engine.base import Request
from memkit.engine.transformers import kv_cache
from memkit.engine.transformers.engine import TransformersEngine
from memkit.engine.transformers.prefixes import Prefix
from memkit.evals import answering, records
from memkit.evals.measure import MethodEvaluator, answer_limit, divergences
from memkit.testing import TEXT

QUESTIONS = ("Where does Mira live?", "What is the dog called, and who has it?", "Who?")
LIMITS = (9, 4, 12)


@pytest.fixture(params=["text", "compact"])
def reader(engine: TransformersEngine, request: pytest.FixtureRequest) -> Iterator[Prefix]:
    """Behind a text, and behind a memory whose heads have different numbers of rows."""
    if request.param == "text":
        yield engine.reader(Request("?", context=TEXT))
        return
    compiled = Compact({"ratio": 2}).compile(Document(TEXT), engine.base, tenant="mira")
    with engine.attached(Artifact.decode(compiled.data)) as handle:
        yield engine.reader(Request("?", handle=handle))


@pytest.fixture
def asked(engine: TransformersEngine, reader: Prefix) -> list[list[int]]:
    return [reader.query(engine.base, question) for question in QUESTIONS]


def answers(
    reader: Prefix,
    asked: Sequence[Sequence[int]],
    drafts: Sequence[Sequence[int]] = ((), (), ()),
    end: int = -1,
) -> list[answering.Answer]:
    questions = [answering.Question(*parts) for parts in zip(asked, LIMITS, drafts, strict=True)]
    return answering.answer(reader, questions, end)


def expected(
    engine: TransformersEngine, reader: Prefix, asked: Sequence[Sequence[int]], end: int = -1
) -> list[list[int]]:
    """Each answer alone."""
    return [
        decoded.ids + ([] if not decoded.stopped else [end])
        for query, limit in zip(asked, LIMITS, strict=True)
        for decoded in kv_cache.decode(reader.model, reader.prefix, [query], max_tokens=limit, end=end)
    ]


def test_answers_are_those_of_one_question_at_a_time(
    engine: TransformersEngine, reader: Prefix, asked: list[list[int]]
) -> None:
    alone = expected(engine, reader, asked)
    assert [len(ids) for ids in alone] == list(LIMITS)
    assert [answer.tokens for answer in answers(reader, asked)] == alone
    end = alone[0][2]  # the first answer ends earlier than its limit
    ended = expected(engine, reader, asked, end)
    assert ended[0] == alone[0][:3]
    assert [answer.tokens for answer in answers(reader, asked, end=end)] == ended
    bare = engine.reader(Request("?"))
    assert [answer.tokens for answer in answers(bare, asked)] == expected(engine, bare, asked)


@pytest.mark.parametrize("right", [0, 1, 3, 20])
def test_a_draft_does_not_change_an_answer(
    engine: TransformersEngine, reader: Prefix, asked: list[list[int]], right: int
) -> None:
    alone = expected(engine, reader, asked)
    drafts = [ids[:right] + [7] * (limit - right) for ids, limit in zip(alone, LIMITS, strict=True)]
    drafted = answers(reader, asked, drafts)
    assert [answer.tokens for answer in drafted] == alone
    assert [len(answer.states) for answer in drafted] == [len(draft) for draft in drafts]


def test_a_right_draft_takes_one_pass(reader: Prefix, asked: list[list[int]]) -> None:
    passes = list[int]()

    def count(module: object, inputs: object, output: object) -> None:
        passes.append(1)

    hook = reader.model.base_model.register_forward_hook(count)
    try:
        first = answers(reader, asked)
        assert len(passes) == max(LIMITS)
        answers(reader, asked, [answer.tokens for answer in first])
        assert len(passes) == max(LIMITS) + 1
    finally:
        hook.remove()


def test_states_predict_the_answer_or_its_draft(reader: Prefix, asked: list[list[int]]) -> None:
    plain = answers(reader, asked)
    drafts = [[7, 8], plain[1].tokens, [plain[2].tokens[0], 9]]
    head = kv_cache.output_layer(reader.model)
    for said, answered in ((None, plain), (drafts, answers(reader, asked, drafts))):
        pairs = list(zip(asked, said or [answer.tokens for answer in plain], strict=True))
        batch = kv_cache.AnswerBatch.of(pairs, reader.prefix, reader.model.device)
        with torch.no_grad():
            forced = kv_cache.answer_logits(reader.model, reader.prefix, batch)
            assert torch.allclose(head(torch.cat([a.states for a in answered])), forced, atol=1e-3)


def test_long_prefixes_are_answered_behind_in_smaller_batches(
    monkeypatch: pytest.MonkeyPatch, engine: TransformersEngine, reader: Prefix, asked: list[list[int]]
) -> None:
    questions = [answering.Question(ids, limit) for ids, limit in zip(asked, LIMITS, strict=True)]
    longest = max(question.room for question in questions)
    monkeypatch.setattr(answering, "MAX_KEYS", 2 * (reader.tokens + longest))
    assert [len(group) for group in answering._groups(questions, reader.tokens)] == [2, 1]
    assert [a.tokens for a in answers(reader, asked)] == expected(engine, reader, asked)
    monkeypatch.setattr(answering, "MAX_KEYS", 1)
    assert [len(group) for group in answering._groups(questions, reader.tokens)] == [1, 1, 1]


def test_divergence_is_the_mean_over_the_teachers_answer(reader: Prefix, asked: list[list[int]]) -> None:
    taught = answers(reader, asked)
    student = [answering.Answer(a.tokens, a.states * 0.9) for a in taught]
    head = kv_cache.output_layer(reader.model)
    with torch.no_grad():
        pairs = [
            (head(t.states).log_softmax(-1), head(s.states).log_softmax(-1))
            for t, s in zip(taught, student, strict=True)
        ]
    by_hand = [float((t.exp() * (t - s)).sum(-1).mean()) for t, s in pairs]
    assert min(by_hand) > 1e-3
    assert divergences(reader, taught, reader, student) == pytest.approx(by_hand, rel=1e-4)
    assert divergences(reader, taught, reader, taught) == (0, 0, 0)
    assert divergences(reader, [], reader, []) == ()


def test_separate_contexts_are_read_in_one_batch(engine: TransformersEngine) -> None:
    """The answers and divergences are those behind a prefix of each context."""
    asked = tuple(records.Question(text, ("Keldor",)) for text in QUESTIONS)
    record = records.Record("a", TEXT, asked)
    measurer = MethodEvaluator(engine, None)
    reference = measurer.reference(record)
    contexts = [TEXT, TEXT[:40], "Jalo works at Brimtek."]
    together = measurer.measure_each(reference, contexts)
    for i, context in enumerate(contexts):
        alone = measurer.measure(reference, measurer.reader(context=context))
        assert together["answers"][i] == alone["answers"][i]
        assert together["kl"][i] == pytest.approx(alone["kl"][i], abs=1e-4)
    assert together["kl"][0] == pytest.approx(0, abs=1e-4)
    assert together["agreement_f1"][0] == 1


def test_the_first_token_is_timed_as_often_as_asked(engine: TransformersEngine) -> None:
    request = Request("Where does Mira live?", context=TEXT)
    (completion,) = engine.generate([request])
    for repeats in (0, 1, 3):
        timed = MethodEvaluator(engine, None, ttft=repeats).timed(request)
        assert len(timed["ttft_ms"]) == repeats
        assert timed["prompt_tokens"] == completion.prompt_tokens


@pytest.mark.parametrize(
    ("words", "metric", "limit"),
    [
        (1, "contains", 16),
        (6, "contains", 16),
        (9, "contains", 24),
        (200, "f1", 48),
        (31, "rouge_l", 83),
        (500, "rouge_l", 192),
    ],
)
def test_answers_are_limited_by_the_gold_answers(words: int, metric: str, limit: int) -> None:
    assert answer_limit(records.Question("?", ("one", "word " * words)), metric) == limit
