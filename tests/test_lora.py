"""The LoRA compiler, its artifacts, and the engine with an adapter attached."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor

from memkit import registry
from memkit.admission import AdmissionConfig
from memkit.artifact import Artifact, Manifest
from memkit.compilers.lcc import LCC
from memkit.compilers.lora import PRESETS, LoRA, LoRAConfig, export_peft
from memkit.compilers.objective import discrepancies
from memkit.compilers.teacher import Teacher, targets
from memkit.document import Document
from memkit.engine import kv
from memkit.engine.base import Handle, Request
from memkit.engine.lora import Adapters, targeted
from memkit.engine.transformers import TransformersEngine
from memkit.errors import ArtifactError, CompileError, ConfigError, EngineError
from memkit.evals import lora_bench
from memkit.evals.run import EvalConfig, evaluate
from memkit.memory import Memory
from memkit.models.loading import LoadedModel, load
from memkit.prompts import REPEAT, is_held_out, question_requests
from memkit.testing import TEXT, TINY

QUESTION = "Where does Mira live?"
QUESTIONS = [QUESTION, "What is the name of Mira's dog?", "Who works at Brimtek?"]
OPTIONS = {**TINY["lora"], "lr": 0.05}
OTHER = "Jalo has a boat. The boat is called Simsem, and it is green."


def compiled(base: LoadedModel, text: str = TEXT, **changes: Any) -> Artifact:
    return Artifact.decode(LoRA({**OPTIONS, **changes}).compile(Document(text), base, tenant="mira").data)


@pytest.fixture(scope="module")
def artifact(tiny: LoadedModel) -> Artifact:
    return compiled(tiny)


@pytest.fixture
def handle(engine: TransformersEngine, artifact: Artifact) -> Iterator[Handle]:
    handle = engine.attach(artifact)
    yield handle
    engine.detach(handle)


@torch.no_grad()
def logits(base: LoadedModel, model: Any, question: str = QUESTION) -> Tensor:
    """``[tokens, vocabulary]`` of the whole prompt without a context."""
    prompt = [*base.chat.header, *base.chat.query(base.tokenizer, question, False)]
    out: Tensor = model(torch.tensor([prompt])).logits[0]
    return out


# --- the artifact ----------------------------------------------------------------------------
def test_artifact_holds_pefts_tensors_and_no_token(tiny: LoadedModel, artifact: Artifact) -> None:
    assert (artifact.manifest.kind, artifact.manifest.tokens) == ("lora", 0)
    layers = targeted(tiny.model, LoRAConfig().targets)
    assert len(artifact.manifest.tensors) == 2 * len(layers) == 2 * 7 * 2
    for name, layer in layers.items():
        a = artifact.tensor(f"base_model.model.{name}.lora_A.weight")
        b = artifact.tensor(f"base_model.model.{name}.lora_B.weight")
        assert (a.shape, b.shape) == ((2, layer.in_features), (layer.out_features, 2))
        assert b.abs().sum() > 0  # it was trained


def test_peft_gives_the_engines_logits(
    engine: TransformersEngine, artifact: Artifact, tiny_model_folder: Path, tmp_path: Path
) -> None:
    base = load(str(tiny_model_folder))  # PEFT changes the model that it is given
    bare = logits(base, base.model)
    theirs = peft.PeftModel.from_pretrained(base.model, str(export_peft(artifact, tmp_path / "adapter")))
    handle = engine.attach(artifact)
    reader = engine.reader(Request(QUESTION, handle=handle))
    ours, expected = logits(base, reader.model), logits(base, theirs)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(ours, bare, atol=1e-3)
    (score,) = engine.score([Request(QUESTION, handle=handle)])
    assert score.top_logprob == pytest.approx(float(expected[-1].log_softmax(-1).max()), abs=1e-4)
    prompt = [*base.chat.header, *base.chat.query(base.tokenizer, QUESTION, False)]
    out = theirs.generate(
        input_ids=torch.tensor([prompt]),
        max_new_tokens=8,
        do_sample=False,
        eos_token_id=base.chat.end,
        pad_token_id=0,
    )
    (answer,) = engine.generate([Request(QUESTION, handle=handle, max_tokens=8)])
    assert answer.text == engine.decode(out[0, len(prompt) :].tolist())
    engine.detach(handle)


def test_export_takes_adapters_only(tiny: LoadedModel, tmp_path: Path) -> None:
    other = Artifact.decode(LCC(TINY["lcc"]).compile(Document(TEXT), tiny, tenant="mira").data)
    with pytest.raises(ArtifactError, match="no adapter configuration"):
        export_peft(other, tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def changed(artifact: Artifact, manifest: Manifest, **tensors: Tensor | None) -> Artifact:
    """A sound file of other content; a tensor of None is left out."""
    kept = {s.name: (artifact.tensor(s.name), s.axes) for s in artifact.manifest.tensors}
    for name, tensor in tensors.items():
        if tensor is None:
            del kept[name]
        else:
            kept[name] = (tensor, tuple("abcd"[: tensor.dim()]))
    return Artifact.decode(Artifact.encode(manifest, kept))


LAYER = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("config", "tensors", "message"),
    [
        ({"r": 0}, {}, "rank is 0"),
        ({"r": "2"}, {}, "rank is '2'"),
        ({"r": True}, {}, "rank is True"),
        ({"r": 3}, {}, "shape"),
        ({"lora_alpha": -1.0}, {}, "alpha is -1.0"),
        ({"target_modules": "q_proj"}, {}, "targets"),
        ({"target_modules": []}, {}, "targets"),
        ({"target_modules": ["q_proj", "nonsense"]}, {}, "nonsense"),
        ({"target_modules": ["q_proj"]}, {}, "unknown tensor"),
        ({"use_dora": True}, {}, "use_dora"),
        ({"rank_pattern": {"q_proj": 1}}, {}, "rank_pattern"),
        ({}, {LAYER: None}, "lacks"),
        ({}, {"base_model.model.lm_head.lora_A.weight": torch.zeros(2, 32)}, "unknown tensor"),
        ({}, {LAYER: torch.zeros(2, 31)}, "shape"),
        ({}, {LAYER: torch.zeros(2, 32, dtype=torch.int64)}, "finite"),
        ({}, {LAYER: torch.full((2, 32), math.nan)}, "finite"),
    ],
)
def test_unsound_adapters_are_refused(
    engine: TransformersEngine,
    artifact: Artifact,
    config: dict[str, Any],
    tensors: dict[str, Tensor | None],
    message: str,
) -> None:
    adapter = {**artifact.manifest.metrics["adapter"], **config}  # type: ignore[dict-item] # a mapping
    manifest = replace(artifact.manifest, metrics={**artifact.manifest.metrics, "adapter": adapter})
    with pytest.raises(ArtifactError, match=message):
        engine.attach(changed(artifact, manifest, **tensors))


def test_adapters_that_claim_tokens_or_lack_a_config_are_refused(
    engine: TransformersEngine, artifact: Artifact
) -> None:
    for manifest in (replace(artifact.manifest, tokens=3), replace(artifact.manifest, metrics={})):
        with pytest.raises(ArtifactError, match="not a sound adapter"):
            engine.attach(changed(artifact, manifest))
    with pytest.raises(EngineError, match="'text'"):
        engine.attach(changed(artifact, replace(artifact.manifest, kind="text")))


# --- the engine ------------------------------------------------------------------------------
def test_the_frozen_model_never_changes(engine: TransformersEngine, artifact: Artifact) -> None:
    base = engine.base
    before, names = logits(base, base.model), set(base.model.state_dict())
    handle = engine.attach(artifact)
    list(engine.generate([Request(QUESTION, handle=handle, max_tokens=4)]))
    during = logits(base, base.model)
    engine.detach(handle)
    assert torch.equal(before, during)
    assert torch.equal(before, logits(base, base.model))
    assert set(base.model.state_dict()) == names


def test_attached_weights_are_shared_with_the_frozen_model(
    engine: TransformersEngine, handle: Handle
) -> None:
    model = engine.reader(Request(QUESTION, handle=handle)).model
    mine = {p.data_ptr() for p in engine.base.model.parameters()}
    own = [p for p in model.parameters() if p.data_ptr() not in mine]
    assert len(own) == 2 * 7 * 2  # the adapter's
    assert not any(p.requires_grad for p in model.parameters())


def test_mixed_requests_equal_single_ones(
    engine: TransformersEngine, handle: Handle, tiny: LoadedModel
) -> None:
    second = engine.attach(compiled(tiny, OTHER))
    memory = engine.attach(Artifact.decode(LCC(TINY["lcc"]).compile(Document(TEXT), tiny, tenant="m").data))
    requests = [
        Request(question, handle=which, max_tokens=6)
        for question in QUESTIONS
        for which in (None, handle, memory, second)
    ]
    requests.append(Request(QUESTION, context=TEXT, max_tokens=6))
    together = [completion.text for completion in engine.generate(requests)]
    assert together == [next(iter(engine.generate([request]))).text for request in requests]
    likely = engine.likelihood(requests, ["Keldor"] * len(requests))
    for request, value in zip(requests, likely, strict=True):
        assert engine.likelihood([request], ["Keldor"])[0] == pytest.approx(value, abs=1e-4)
    assert len({round(value, 3) for value in likely[:4]}) == 4  # each memory has its own say
    for used in (second, memory):
        engine.detach(used)


def test_threads_do_not_meet(engine: TransformersEngine, handle: Handle) -> None:
    requests = [Request(QUESTION, handle=which, max_tokens=6) for which in (None, handle)] * 6

    def answer(request: Request) -> str:
        return next(iter(engine.generate([request]))).text

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(answer, requests)) == [answer(request) for request in requests]


def test_a_question_is_phrased_and_counted_as_without_a_memory(
    engine: TransformersEngine, handle: Handle
) -> None:
    assert handle.tokens == 0
    with_adapter, bare = engine.generate([Request(QUESTION, handle=handle), Request(QUESTION)])
    assert with_adapter.prompt_tokens == bare.prompt_tokens


def test_a_detached_adapter_is_refused(engine: TransformersEngine, artifact: Artifact) -> None:
    handle = engine.attach(artifact)
    engine.detach(handle)
    with pytest.raises(EngineError, match="not attached"):
        engine.score([Request(QUESTION, handle=handle)])


def test_scores_hold_the_state_that_the_first_token_comes_from(
    engine: TransformersEngine, handle: Handle, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = engine.base
    requests = [Request(q, handle=which) for which in (None, handle) for q in QUESTIONS]
    alone = [engine.score([request])[0] for request in requests]
    passes = list[int]()
    decode = kv.decode
    monkeypatch.setattr(kv, "decode", lambda *a, **k: passes.append(len(a[2])) or decode(*a, **k))
    scores = engine.score(requests)
    assert passes == [3, 3]  # requests of one memory are read at once
    for score, single, request in zip(scores, alone, requests, strict=True):
        assert score.hidden == pytest.approx(single.hidden, abs=1e-4)
        assert score.entropy == pytest.approx(single.entropy, abs=1e-4)
        model = engine.reader(request).model
        last = logits(base, model, request.question)[-1]
        again = model.get_output_embeddings()(torch.tensor(score.hidden))
        torch.testing.assert_close(again, last, rtol=1e-4, atol=1e-4)
        assert len(score.hidden) == base.model.config.hidden_size
    assert scores[0].hidden != pytest.approx(scores[3].hidden, abs=1e-3)


# --- the compiler ----------------------------------------------------------------------------
def test_what_is_trained_is_the_prompt_that_the_engine_sends(tiny: LoadedModel) -> None:
    context = tiny.tokenizer.encode(TEXT, add_special_tokens=False)
    teacher = Teacher(tiny, context, kv.prefill(tiny.model, tiny.chat.header))
    examples = [*teacher.study([QUESTION], 4), *teacher.agnostic([QUESTION], 4)]
    sent = [*tiny.chat.header, *tiny.chat.query(tiny.tokenizer, QUESTION, False)]
    assert [list(example.without_context.query) for example in examples] == [sent, sent]
    assert [list(example.query) for example in examples] == [
        tiny.chat.query(tiny.tokenizer, QUESTION, True)
    ] * 2
    first, second = teacher.reconstruction(0, 16), teacher.reconstruction(16, 16)
    repeat = [*tiny.chat.header, *tiny.chat.query(tiny.tokenizer, REPEAT, False)]
    assert [list(e.without_context.query) for e in (first, second)] == [repeat, [*repeat, *context[:16]]]
    for part in LoRA(OPTIONS)._lesson(Document(TEXT), tiny).objective.parts:
        assert all(example.query == example.closed != () for example, _ in part.pairs)


def test_an_untrained_adapter_is_the_frozen_model(tiny: LoadedModel) -> None:
    lesson = LoRA(OPTIONS)._lesson(Document(TEXT), tiny)
    fresh = Adapters.fresh(tiny.model, 1, 2, 4.0, ["q_proj"], 0)
    losses = {
        part.pairs[0][0].kind: float(
            discrepancies(fresh.student, None, [part.pairs], "kl", [lesson.meter]).detach()
        )
        for part in lesson.objective.parts
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
    from memkit.compilers import lora

    rephrased = list[str]()
    request = lora.paraphrase_requests
    monkeypatch.setattr(
        lora, "paraphrase_requests", lambda m, questions: rephrased.extend(questions) or request(m, questions)
    )
    lesson = LoRA({**OPTIONS, "self_study": 48})._lesson(Document(TEXT), tiny)
    assert rephrased
    assert not any(is_held_out(question) for question in rephrased)
    assert lesson.objective.held_out
    assert all(example.held_out for example, _ in lesson.objective.held_out)
    assert not any(example.held_out for part in lesson.objective.parts for example, _ in part.pairs)


def test_kinds_of_questions() -> None:
    kinds = ("factual", "listing", "two_hop", "unanswered")
    for model, missing in (("nano", 1), ("other", 0)):
        requests = question_requests(model, TEXT, 20, kinds)
        assert len(requests) == 20
        special = {
            r for r in requests if "answer is a list" in r or "links two" in r or "does not answer" in r
        }
        assert len(special) == 3 - missing
    assert question_requests("other", TEXT, 4, ("unanswered",)) == [requests[-1]] * 4


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
        memory.forget()
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
    header = kv.prefill(tiny.model, tiny.chat.header)
    context = tiny.tokenizer.encode(TEXT, add_special_tokens=False)
    teacher = Teacher(tiny, context, header)
    examples = teacher.study(QUESTIONS, 6)
    whole = [replace(e, query=(*tiny.chat.header, *context, *e.query)) for e in examples]
    for once, again in zip(teacher.targets(examples, 64), targets(tiny, None, whole, 64), strict=True):
        torch.testing.assert_close(once.logprobs, again.logprobs, rtol=1e-3, atol=1e-4)


def test_the_bench_measures_both_savings(tmp_path: Path, tiny_model_folder: Path) -> None:
    file = tmp_path / "bench.json"
    words = f"--model {tiny_model_folder} --tokens 40 --documents 2 --steps 1 --repeats 1 --json {file}"
    lora_bench.main(words.split())
    prefix, side = json.loads(file.read_text())["rows"]
    assert prefix["context_tokens"] >= 40
    assert prefix["speedup_over_rows"] == pytest.approx(prefix["rows_s"] / prefix["once_s"])
    assert side["speedup"] == pytest.approx(side["alone_s"] / side["together_s"])
    assert side["documents"] == 2
