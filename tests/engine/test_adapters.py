"""Artifacts of kind lora: PEFT's files, refusals, and the engine with an adapter attached."""

from __future__ import annotations

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

from memkit.artifact.format import Artifact, Manifest
from memkit.compilers.lcc.compiler import LCC
from memkit.compilers.lora.compiler import LoRA, LoRAConfig, export_peft
from memkit.document import Document
from memkit.engine.base import Handle, Request
from memkit.engine.transformers import probe
from memkit.engine.transformers.engine import TransformersEngine
from memkit.engine.transformers.lora import targeted
from memkit.errors import ArtifactError, EngineError
from memkit.models.loading import LoadedModel, load
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
    out = theirs.generate(  # type: ignore[no-untyped-call] # PEFT's
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
    whole = probe.prefill_side_by_side

    def counted(model: Any, prefixes: Any, queries: Any) -> list[probe.Prefilled]:
        passes.append(len(queries))
        return whole(model, prefixes, queries)

    monkeypatch.setattr("memkit.engine.transformers.engine.prefill_side_by_side", counted)
    scores = engine.score(requests)
    assert passes == [3, 3]  # an adapter is a model of its own; what one model reads, it reads at once
    for score, single, request in zip(scores, alone, requests, strict=True):
        assert score.hidden == pytest.approx(single.hidden, abs=1e-4)
        assert score.entropy == pytest.approx(single.entropy, abs=1e-4)
        model = engine.reader(request).model
        last = logits(base, model, request.question)[-1]
        again = model.get_output_embeddings()(torch.tensor(score.hidden))
        torch.testing.assert_close(again, last, rtol=1e-4, atol=1e-4)
        assert len(score.hidden) == base.model.config.hidden_size
    assert scores[0].hidden != pytest.approx(scores[3].hidden, abs=1e-3)
