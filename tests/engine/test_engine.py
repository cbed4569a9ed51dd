"""The transformers engine against plain transformers, and its refusals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from memkit.artifact.format import Artifact
from memkit.compilers.lcc.compiler import LCC
from memkit.document import Document
from memkit.engine.base import Completion, Handle, Request
from memkit.engine.transformers import kv_cache, probe
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import ContextTooLongError, EngineError, FingerprintError
from memkit.models.loading import LoadedModel
from memkit.testing import TEXT, TINY_OPTIONS

QUESTIONS = ["Where does Mira live?", "What is the name of Mira's dog?", "Who works at Brimtek?"]


@pytest.fixture(scope="module")
def artifact(tiny: LoadedModel) -> Artifact:
    return Artifact.decode(LCC(TINY_OPTIONS).compile(Document(TEXT), tiny, tenant="mira").data)


def plain_answer(base: LoadedModel, context: str | None, question: str, tokens: int) -> str:
    """transformers' own greedy generation over the whole prompt."""
    ids = [*base.chat.header]
    if context is not None:
        ids += base.tokenizer.encode(context, add_special_tokens=False)
    ids += base.chat.query(base.tokenizer, question, context is not None)
    out = base.model.generate(  # type: ignore[operator] # transformers types it as a module's attribute
        torch.tensor([ids]),
        max_new_tokens=tokens,
        do_sample=False,
        eos_token_id=base.chat.end,
        pad_token_id=0,
    )
    return str(base.tokenizer.decode(out[0, len(ids) :], skip_special_tokens=True)).strip()


@pytest.mark.parametrize("context", [None, TEXT])
def test_answers_equal_plain_transformers(engine: TransformersEngine, context: str | None) -> None:
    requests = [Request(q, context=context, max_tokens=12) for q in QUESTIONS]
    answers = [c.text for c in engine.generate(requests)]
    assert answers == [plain_answer(engine.base, context, q, 12) for q in QUESTIONS]


def test_batched_answers_equal_single_ones(engine: TransformersEngine, artifact: Artifact) -> None:
    handle = engine.attach(artifact)
    requests = [Request(q, handle=handle, max_tokens=12) for q in QUESTIONS]
    batched = [c.text for c in engine.generate(requests)]
    single = [next(iter(engine.generate([r]))).text for r in requests]
    assert batched == single


def test_mixed_requests_keep_their_order(engine: TransformersEngine, artifact: Artifact) -> None:
    handle = engine.attach(artifact)
    mixed = [Request(QUESTIONS[0]), Request(QUESTIONS[0], handle=handle), Request(QUESTIONS[0], context=TEXT)]
    texts = [c.text for c in engine.generate(mixed)]
    assert texts == [next(iter(engine.generate([r]))).text for r in mixed]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("probed", [False, True])
def test_a_stream_is_the_answer_in_pieces(
    engine: TransformersEngine, artifact: Artifact, temperature: float, probed: bool
) -> None:
    handle = engine.attach(artifact)
    for question in QUESTIONS:
        request = Request(question, handle=handle, max_tokens=12, temperature=temperature, seed=3)
        (whole,) = engine.generate([request])
        if probed:
            engine.score([request])
        *pieces, last = engine.stream(request)
        assert isinstance(last, Completion)
        assert "".join(str(piece) for piece in pieces) == last.text == whole.text
        assert (last.tokens, last.prompt_tokens, last.stopped) == (
            whole.tokens,
            whole.prompt_tokens,
            whole.stopped,
        )


def test_streams_go_side_by_side(engine: TransformersEngine) -> None:
    first, second = (engine.stream(Request(q, context=TEXT, max_tokens=8)) for q in QUESTIONS[:2])
    mixed = [part for pair in zip(first, second, strict=False) for part in pair]
    (alone,) = engine.generate([Request(QUESTIONS[0], context=TEXT, max_tokens=8)])
    assert alone.text.startswith(str(mixed[0]))


def test_earlier_turns_are_what_the_chat_template_makes_of_them(engine: TransformersEngine) -> None:
    base, history = engine.base, (("Who is Mira?", "a vet"), ("Where does she live?", "Lasces"))
    turns = [{"role": r, "content": t} for q, a in history for r, t in (("user", q), ("assistant", a))]
    turns.append({"role": "user", "content": QUESTIONS[1]})
    text = base.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids = [*base.chat.header, *base.chat.query(base.tokenizer, QUESTIONS[1], False, history)]
    # The tiny tokenizer puts spaces between tokens.
    assert "".join(str(base.tokenizer.decode(ids)).split()) == "".join(str(text).split())
    (completion,) = engine.generate([Request(QUESTIONS[1], history=history, max_tokens=4)])
    assert completion.prompt_tokens == len(ids)
    (told,) = engine.generate([Request(QUESTIONS[1], history=history, system="Be brief.", max_tokens=4)])
    assert told.prompt_tokens > len(ids)


def test_an_answer_that_was_cut_says_so(engine: TransformersEngine) -> None:
    (cut,) = engine.generate([Request(QUESTIONS[0], context=TEXT, max_tokens=1)])
    assert not cut.stopped


def test_a_temperature_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature"):
        Request("?", temperature=-1)


def test_prompt_tokens_count_everything_in_front(engine: TransformersEngine, artifact: Artifact) -> None:
    base, question = engine.base, QUESTIONS[0]
    query = len(base.chat.query(base.tokenizer, question, True))
    (completion,) = engine.generate([Request(question, handle=engine.attach(artifact))])
    assert completion.prompt_tokens == len(base.chat.header) + artifact.manifest.tokens + query


def test_detached_artifact_is_refused(engine: TransformersEngine, artifact: Artifact) -> None:
    handle = engine.attach(artifact)
    engine.detach(handle)
    with pytest.raises(EngineError, match="not attached"):
        list(engine.generate([Request("?", handle=handle)]))


def test_artifact_of_another_model_is_refused(other_model_folder: Path, artifact: Artifact) -> None:
    with pytest.raises(FingerprintError):
        TransformersEngine(str(other_model_folder)).attach(artifact)


def test_a_text_is_read_once_while_it_is_prefilled(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = [Request(q, context=TEXT, max_tokens=n) for n, q in enumerate(QUESTIONS, start=2)]
    answers, read = ["Keldor", "Rex", "Mira"], list[int]()

    def asked() -> tuple[list[str], list[float]]:
        return [c.text for c in engine.generate(requests)], engine.likelihood(requests, answers)

    before, prefill = asked(), kv_cache.prefill

    def counted(model: PreTrainedModel, ids: Sequence[int], *rest: Any) -> kv_cache.KVCache:
        read.append(len(ids))
        return prefill(model, ids, *rest)

    monkeypatch.setattr(kv_cache, "prefill", counted)
    with engine.prefilled(TEXT), engine.prefilled(TEXT):
        assert asked() == before
    assert len(read) == 1
    assert asked() == before
    assert len(read) > 2  # nothing of it is kept
    with pytest.raises(ContextTooLongError), engine.prefilled(TEXT * 40):
        pass


def test_prompt_longer_than_the_window(engine: TransformersEngine) -> None:
    with pytest.raises(ContextTooLongError, match="512"):
        engine.generate([Request("?", context=TEXT * 40)])


def test_score_is_the_first_tokens_distribution(engine: TransformersEngine) -> None:
    (score,) = engine.score([Request(QUESTIONS[0], context=TEXT)])
    assert score.entropy > 0
    assert score.top_logprob < 0


def test_memories_of_any_length_are_probed_in_one_pass(
    engine: TransformersEngine, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = engine.attach(artifact)
    requests = [Request(q, handle=h, context=c) for q in QUESTIONS[:2] for h, c in _memories(handle)]
    alone = [engine.score([request])[0] for request in requests]
    passes = list[int]()

    def counted(model: Any, prefixes: Any, queries: Any) -> list[probe.Prefilled]:
        passes.append(len(queries))
        return whole(model, prefixes, queries)

    whole = probe.prefill_side_by_side
    monkeypatch.setattr("memkit.engine.transformers.engine.prefill_side_by_side", counted)
    for score, single in zip(engine.score(requests), alone, strict=True):
        assert score.entropy == pytest.approx(single.entropy, abs=1e-4)
        assert score.hidden == pytest.approx(single.hidden, abs=1e-4)
    assert passes == [len(requests)]


def test_an_answer_goes_on_from_its_probe(
    engine: TransformersEngine, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    memories = _memories(engine.attach(artifact))
    settings: list[dict[str, Any]] = [{"max_tokens": 8}, {"max_tokens": 8, "temperature": 1.5, "seed": 3}]
    for wanted in settings:
        requests = [Request(QUESTIONS[0], handle=h, context=c, **wanted) for h, c in memories]
        plain = [next(iter(engine.generate([request]))) for request in requests]
        for request, expected in zip(requests, plain, strict=True):
            engine.score([replace(r, temperature=0.0) for r in requests])
            with monkeypatch.context() as patch:
                patch.setattr(kv_cache, "prefill", None)  # nothing is read again
                (again,) = engine.generate([request])
            assert (again.text, again.prompt_tokens) == (expected.text, expected.prompt_tokens)


def test_a_probe_does_not_outlive_its_artifact(engine: TransformersEngine, artifact: Artifact) -> None:
    request = Request(QUESTIONS[0], handle=engine.attach(artifact))
    engine.score([request])
    engine.detach(Handle(artifact.id, 0))
    with pytest.raises(EngineError, match="not attached"):
        list(engine.generate([request]))


def _memories(handle: Handle) -> list[tuple[Handle | None, str | None]]:
    return [(None, None), (handle, None), (None, TEXT)]


def test_request_takes_one_memory_at_most() -> None:
    with pytest.raises(ValueError, match="not both"):
        Request("?", handle=Handle("a", 1), context="b")


def test_sampling_is_seeded(engine: TransformersEngine) -> None:
    def sample(seed: int) -> str:
        return next(iter(engine.generate([Request("?", temperature=2.0, seed=seed, max_tokens=20)]))).text

    assert sample(1) == sample(1)
    assert len({sample(s) for s in range(5)}) > 1


def test_slices_and_joins_are_inverse(tiny: LoadedModel) -> None:
    ids = tiny.tokenizer.encode(TEXT, add_special_tokens=False)
    whole = kv_cache.prefill(tiny.model, ids)
    again = whole.slice(0, 5).join(whole.slice(5))
    assert all(torch.equal(a, b) for a, b in zip(whole.keys, again.keys, strict=True))


def test_likelihood_is_that_of_the_plain_prompt(engine: TransformersEngine, tiny: LoadedModel) -> None:
    answer = "Keldor"
    requests = [Request(QUESTIONS[0], context=TEXT), Request(QUESTIONS[0])]
    got = engine.likelihood(requests, [answer, answer])
    said = [*tiny.tokenizer.encode(answer, add_special_tokens=False), tiny.chat.end]
    for mean, request in zip(got, requests, strict=True):
        context = tiny.tokenizer.encode(request.context or "", add_special_tokens=False)
        query = tiny.chat.query(tiny.tokenizer, request.question, request.context is not None)
        prompt = [*tiny.chat.header, *context, *query]
        with torch.no_grad():
            logprobs = tiny.model(torch.tensor([prompt + said])).logits[0].log_softmax(-1)
        expected = [float(logprobs[len(prompt) - 1 + i, token]) for i, token in enumerate(said)]
        assert mean == pytest.approx(sum(expected) / len(expected), abs=1e-3)
    with pytest.raises(ValueError, match="answers"):
        engine.likelihood(requests, [answer])
