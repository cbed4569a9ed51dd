"""The LoRA compiler: what it trains on, alone and side by side, and what is measured of it."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from memkit import registry
from memkit.artifact.format import Artifact
from memkit.bench import lora
from memkit.compilers.distillation.losses import BatchedLoss, discrepancies
from memkit.compilers.distillation.teacher import Teacher, targets
from memkit.compilers.lora.compiler import PRESETS, LoRA
from memkit.document import Document
from memkit.engine.transformers import kv_cache
from memkit.engine.transformers.engine import TransformersEngine
from memkit.engine.transformers.lora import Adapters
from memkit.errors import CompileError, ConfigError
from memkit.evals.run import EvalConfig, evaluate
from memkit.memory import Memory
from memkit.models.loading import LoadedModel
from memkit.models.prompt_sets import prompt_set
from memkit.pipeline.admission import AdmissionConfig
from memkit.prompts import REPEAT, PromptSet, QuestionKind, is_held_out
from memkit.testing import TEXT, TINY

QUESTION = "Where does Mira live?"
QUESTIONS = [QUESTION, "What is the name of Mira's dog?", "Who works at Brimtek?"]
OPTIONS = {**TINY["lora"], "lr": 0.05}
OTHER = "Jalo has a boat. The boat is called Simsem, and it is green."


def compiled(base: LoadedModel, text: str = TEXT, **changes: Any) -> Artifact:
    return Artifact.decode(LoRA({**OPTIONS, **changes}).compile(Document(text), base, tenant="mira").data)


# --- the compiler ----------------------------------------------------------------------------
def test_what_is_trained_is_the_prompt_that_the_engine_sends(tiny: LoadedModel) -> None:
    context = tiny.tokenizer.encode(TEXT, add_special_tokens=False)
    teacher = Teacher(tiny, context, kv_cache.prefill(tiny.model, tiny.chat.header))
    examples = [*teacher.study([QUESTION], 4), *teacher.agnostic([QUESTION], 4)]
    sent = [*tiny.chat.header, *tiny.chat.query(tiny.tokenizer, QUESTION, False)]
    assert [list(example.without_context.query) for example in examples] == [sent, sent]
    assert [list(example.query) for example in examples] == [
        tiny.chat.query(tiny.tokenizer, QUESTION, True)
    ] * 2
    first, second = teacher.reconstruction(0, 16), teacher.reconstruction(16, 16)
    repeat = [*tiny.chat.header, *tiny.chat.query(tiny.tokenizer, REPEAT, False)]
    assert [list(e.without_context.query) for e in (first, second)] == [repeat, [*repeat, *context[:16]]]
    for part in LoRA(OPTIONS)._training_set(Document(TEXT), tiny).loss.parts:
        assert all(example.query == example.closed != () for example, _ in part.pairs)


def test_an_untrained_adapter_is_the_frozen_model(tiny: LoadedModel) -> None:
    training_set = LoRA(OPTIONS)._training_set(Document(TEXT), tiny)
    fresh = Adapters.fresh(tiny.model, 1, 2, 4.0, ["q_proj"], 0)
    losses = {
        part.pairs[0][0].kind: float(
            discrepancies(fresh.student, None, [part.pairs], "kl", [training_set.meter]).detach()
        )
        for part in training_set.loss.parts
    }
    assert losses["agnostic"] == pytest.approx(0, abs=1e-4)  # it is held where the model is
    assert losses["self_study"] > 0.01  # where the context would change the answer


def test_training_lowers_the_loss_on_a_random_model(tiny: LoadedModel) -> None:
    made = LoRA({**OPTIONS, "steps": 60, "lr": 0.02, "self_study_batch": 4, "patience": 100}).compile(
        Document(TEXT), tiny, tenant="mira"
    )
    losses = [loss for _, _, loss in made.curve]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert made.flops > 0


def test_held_out_questions_are_neither_trained_on_nor_rephrased(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    rephrased = list[str]()

    paraphrase_requests = PromptSet.paraphrase_requests

    def noted(prompts: PromptSet, questions: list[str]) -> list[str]:
        rephrased.extend(questions)
        return paraphrase_requests(prompts, questions)

    monkeypatch.setattr(PromptSet, "paraphrase_requests", noted)
    training_set = LoRA({**OPTIONS, "self_study": 48})._training_set(Document(TEXT), tiny)
    assert rephrased
    assert not any(is_held_out(question) for question in rephrased)
    assert training_set.loss.held_out
    assert all(example.held_out for example, _ in training_set.loss.held_out)
    assert not any(example.held_out for part in training_set.loss.parts for example, _ in part.pairs)


def test_kinds_of_questions() -> None:
    kinds: tuple[QuestionKind, ...] = ("factual", "listing", "two_hop", "unanswered")
    for model, missing in (("nano", 1), ("other", 0)):
        requests = prompt_set(model).requests(TEXT, 20, kinds)
        assert len(requests) == 20
        special = {
            r for r in requests if "answer is a list" in r or "links two" in r or "does not answer" in r
        }
        assert len(special) == 3 - missing
    assert prompt_set("other").requests(TEXT, 4, ("unanswered",)) == [requests[-1]] * 4


def test_sampled_answers_differ_from_greedy_ones_and_are_seeded(tiny: LoadedModel) -> None:
    greedy, one, same, two = (
        compiled(tiny, **options).id
        for options in (
            {},
            {"answers": "sampled"},
            {"answers": "sampled"},
            {"answers": "sampled", "seed": 1},
        )
    )
    assert one == same
    assert len({greedy, one, two}) == 3


def test_stopping_looks_at_the_median_held_out_question(tiny: LoadedModel) -> None:
    training_set = LoRA({**OPTIONS, "self_study": 48})._training_set(Document(TEXT), tiny)
    together = BatchedLoss([training_set.loss])
    student = Adapters.fresh(tiny.model, 1, 2, 4.0, ["q_proj"], 0).student
    with torch.no_grad():
        each = [
            float(discrepancies(student, None, [[pair]], "kl", [training_set.meter]))
            for pair in training_set.loss.held_out
        ]
    assert len(set(each)) > 2
    assert together.measure(student) == [pytest.approx(statistics.median(each), rel=1e-4)]


def test_long_documents_are_studied_in_pieces(tiny: LoadedModel) -> None:
    tokens = len(tiny.tokenizer.encode(TEXT * 20, add_special_tokens=False))
    assert tokens > tiny.window
    artifact = compiled(tiny, TEXT * 20)
    room = tiny.window - len(tiny.chat.header) - 128 - 128
    assert artifact.manifest.metrics["segments"] == math.ceil(tokens / room)
    assert artifact.manifest.metrics["steps"] == OPTIONS["steps"] * math.ceil(tokens / room)


def test_what_cannot_be_compiled_says_so(tiny: LoadedModel) -> None:
    with pytest.raises(CompileError, match="smaller reconstruction_window"):
        compiled(tiny, reconstruction_window=300)
    with pytest.raises(CompileError, match="no linear layer called c_attn"):
        compiled(tiny, targets=["c_attn"])
    with pytest.raises(CompileError, match="lower lr"):
        compiled(tiny, lr=1e30, steps=4)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_presets_are_valid(preset: str) -> None:
    assert LoRA({"preset": preset}).config.rank >= 1


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"rank": 0}, "rank"),
        ({"steps": 0}, "steps"),
        ({"alpha": 0}, "alpha"),
        ({"lr": math.nan}, "lr"),
        ({"warmup": -1}, "warmup"),
        ({"targets": []}, "targets is empty"),
        ({"targets": "q_proj"}, "list of names"),
        ({"kinds": ["nonsense"]}, "nonsense"),
        ({"kinds": ["paraphrase"]}, "paraphrase alone"),
        ({"answers": "beam"}, "beam"),
        ({"self_study": 0, "reconstruction_window": 0}, "nothing would be learned"),
        ({"ratio": 8}, "unknown option ratio"),
    ],
)
def test_wrong_options_are_refused(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LoRA(bad)


def test_ratio_is_declared() -> None:
    assert registry.takes_ratio("lcc")
    assert not registry.takes_ratio("lora")
    with pytest.raises(ConfigError, match="nonsense"):
        registry.takes_ratio("nonsense")


# --- side by side ----------------------------------------------------------------------------
def test_documents_side_by_side_give_what_each_gives_alone(tiny: LoadedModel) -> None:
    texts = [TEXT, OTHER, TEXT * 12, f"{OTHER} {TEXT}"]  # the third has more pieces than the others
    compiler = LoRA({**OPTIONS, "steps": 6, "lr": 5e-3, "self_study": 16, "self_study_batch": 3})
    many = compiler.compile_many([Document(text) for text in texts], tiny, tenant="mira")
    for text, made in zip(texts, many, strict=True):
        alone = compiler.compile(Document(text), tiny, tenant="mira")
        ours, theirs = Artifact.decode(made.data), Artifact.decode(alone.data)
        assert ours.manifest.sources == theirs.manifest.sources
        assert ours.manifest.metrics["steps"] == theirs.manifest.metrics["steps"]
        for spec in theirs.manifest.tensors:
            torch.testing.assert_close(ours.tensor(spec.name), theirs.tensor(spec.name), rtol=1e-3, atol=1e-4)
        assert [p[:2] for p in made.curve] == [p[:2] for p in alone.curve]
    assert compiler.compile_many([], tiny, tenant="mira") == []


def test_an_adapter_answers_its_own_rows(tiny: LoadedModel) -> None:
    both = Adapters.fresh(tiny.model, 2, 2, 4.0, ["q_proj", "down_proj"], 0)
    with torch.no_grad():
        for layer in both.layers.values():
            layer.b[1].normal_()
        ids = torch.tensor([list(tiny.tokenizer.encode(TEXT))[:9]] * 4)
        out = both.student(ids).logits
        plain = tiny.model(ids).logits
    torch.testing.assert_close(out[:2], plain[:2])
    torch.testing.assert_close(out[2], out[3])
    assert not torch.allclose(out[2], plain[2], atol=1e-2)


# --- as a memory -----------------------------------------------------------------------------
def test_an_adapter_serves_a_memory(tmp_path: Path, engine: TransformersEngine) -> None:
    quick = AdmissionConfig(questions=4, answer_tokens=4)
    with Memory(tmp_path, engine=engine, compiler="lora", options=OPTIONS, admission=quick) as memory:
        info = memory.remember(TEXT, wait=True)
        assert (info.compiler, info.status) == ("lora", "compiled")
        answer = memory.ask(QUESTION)
        assert answer.route == "latent"
        assert answer.trace.artifact_id == info.artifact_id
        assert memory.verify(info.id, replay=True).replayed
        memory.forget_all()
        assert info.artifact_id not in engine._attached


# --- measured --------------------------------------------------------------------------------
def test_an_evaluation_has_one_row_for_it_whatever_the_ratios(
    tmp_path: Path, engine: TransformersEngine
) -> None:
    file = tmp_path / "records.jsonl"
    file.write_text(
        json.dumps({"id": "a", "context": TEXT, "questions": [{"q": QUESTION, "answers": ["x"]}]})
    )
    config = EvalConfig(str(file), compilers=("lora",), ratios=(4, 8), options=OPTIONS)
    rows = {row["method"]: row for row in evaluate(config, engine=engine)["rows"]}
    assert list(rows) == ["full", "none", "lora"]
    row = rows["lora"]
    assert (row["ratio"], row["n"], row["failed"]) == (None, 1, 0)
    assert row["prompt_tokens"] == rows["none"]["prompt_tokens"]
    assert row["kl"] > 0
    assert row["kl"] != pytest.approx(rows["none"]["kl"], rel=1e-3)  # measured with the adapter
    assert row["artifact_bytes"] > 0


def test_targets_are_the_same_however_the_context_is_read(tiny: LoadedModel) -> None:
    header = kv_cache.prefill(tiny.model, tiny.chat.header)
    context = tiny.tokenizer.encode(TEXT, add_special_tokens=False)
    teacher = Teacher(tiny, context, header)
    examples = teacher.study(QUESTIONS, 6)
    whole = [replace(e, query=(*tiny.chat.header, *context, *e.query)) for e in examples]
    for once, again in zip(teacher.targets(examples, 64), targets(tiny, None, whole, 64), strict=True):
        torch.testing.assert_close(once.logprobs, again.logprobs, rtol=1e-3, atol=1e-4)


def test_the_bench_measures_both_savings(tiny_model_folder: Path) -> None:
    config = lora.LoraConfig((40,), (2,), steps=1, repeats=1, model=str(tiny_model_folder))
    prefix, side = lora.bench(config)["rows"]
    assert prefix["context_tokens"] >= 40
    assert prefix["speedup_over_rows"] == pytest.approx(prefix["rows_s"] / prefix["once_s"])
    assert side["speedup"] == pytest.approx(side["alone_s"] / side["together_s"])
    assert side["documents"] == 2
