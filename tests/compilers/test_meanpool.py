"""The mean-pool compressor: chunks, pooling, reading, checkpoints and artifacts."""

from __future__ import annotations

import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import peft
import pytest
import torch

from memkit import registry
from memkit.artifact.format import Artifact
from memkit.compilers.meanpool import checkpoint
from memkit.compilers.meanpool.batches import Branch, Chunks, Sample, collate, padded
from memkit.compilers.meanpool.config import compressor_config, stage_config
from memkit.compilers.meanpool.model import Compressor, CompressorConfig
from memkit.compilers.meanpool.training import micro_batches
from memkit.document import Document
from memkit.engine.base import Request
from memkit.engine.transformers import decoder_checkpoint
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import ArtifactError, CompileError, ConfigError, EngineError, FingerprintError
from memkit.models.loading import LoadedModel, load
from memkit.testing import TEXT, build_tiny_compressor

LORA = {"decoder": "lora", "full_every": 0, "embeddings": False}


def compressor(base: LoadedModel, **options: Any) -> Compressor:
    """With random changes to its weights, so that they matter."""
    made = Compressor(base, compressor_config("paper", {"full_every": 2, "rank": 2, **options}))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in made.trained:
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return made


def ids_of(base: LoadedModel, text: str = TEXT) -> list[int]:
    return list(base.tokenizer.encode(text, add_special_tokens=False))


# --- batches ------------------------------------------------------------------------------------
def test_a_long_branch_does_not_pad_the_short_ones(tiny: LoadedModel) -> None:
    made = compressor(tiny)
    short = [Sample((), tuple(range(8)), tuple(Branch("qa", (1, 2), (3,)) for _ in range(10)))] * 4
    samples = [*short, Sample((), tuple(range(8)), (Branch("reconstruction", (1,), tuple(range(90))),))]
    samples += [Sample((), (), (Branch("standard", (), (1, 2, 3)),))]
    for most in (1, 60, 100, 10_000):
        batches = micro_batches(samples, most, made)
        assert sum(len(batch.target) for batch in batches) == 4 * 10 + 90 + 2
        assert {batch.ids.shape[1] for batch in batches} == {3, 91}
        tokens = [
            batch.ids.numel() + (0 if batch.chunks is None else int(batch.chunks.mask.sum()))
            for batch in batches
        ]
        alone = padded(samples[4:5])
        assert max(tokens) <= max(most, alone)
    assert len(micro_batches(samples, 10_000, made)) == 3


# --- the model --------------------------------------------------------------------------------
def test_a_memory_embedding_is_the_projected_mean_of_its_chunks_own_tokens(tiny: LoadedModel) -> None:
    made, ids = compressor(tiny), ids_of(tiny)[:21]
    found = made.embed(ids)
    assert found.shape == (2, 32)
    for row, chunk in enumerate((ids[:16], ids[16:])):  # the last one has five tokens
        hidden = made.encoder.student.base_model(input_ids=torch.tensor([chunk])).last_hidden_state
        expected = made.head.projection(hidden.mean(1))
        assert torch.allclose(found[row], expected[0], atol=1e-5)


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_chunks_are_read_alone_whatever_stands_beside_them(tiny: LoadedModel, pooling: str) -> None:
    made, ids = compressor(tiny, pooling=pooling), ids_of(tiny)[:40]
    whole = made.embed(ids)
    assert torch.allclose(whole[:1], made.embed(ids[:16]), atol=1e-5)
    assert torch.allclose(whole[2:], made.embed(ids[32:]), atol=1e-5)
    assert torch.allclose(whole, made.embed(ids, batch=1), atol=1e-5)


def test_the_base_model_never_changes(tiny: LoadedModel) -> None:
    before = {name: t.clone() for name, t in tiny.model.state_dict().items()}
    made = compressor(tiny)
    loss = -made(collate([sample_of(tiny)], 16, 3)).sum()
    loss.backward()
    assert all(p.grad is not None for p in made.trained if p.requires_grad)
    assert all(torch.equal(before[name], t) for name, t in tiny.model.state_dict().items())
    assert all(p.grad is None for p in tiny.model.parameters())


def sample_of(base: LoadedModel, text: str = TEXT, *answers: str) -> Sample:
    query = tuple(base.chat.query(base.tokenizer, "Where does Mira live?", True))
    given = answers or ("Keldor", "the lamp was old")
    branches = [Branch("qa", query, (*ids_of(base, answer), base.chat.end)) for answer in given]
    return Sample(tuple(base.chat.header), tuple(ids_of(base, text)), tuple(branches))


@pytest.mark.parametrize("options", [{}, {"wrappers": False}, {"decoder": "frozen"}, LORA])
def test_batches_give_what_each_answer_gives_alone(tiny: LoadedModel, options: dict[str, Any]) -> None:
    made = compressor(tiny, **options)
    long, short = sample_of(tiny), sample_of(tiny, "Her dog is called Tovin.", "Tovin")
    positions = made.config.positions
    with torch.no_grad():
        together = made(collate([long, short], 16, positions))
        alone = [
            made(collate([replace(s, branches=(branch,))], 16, positions))
            for s in (long, short)
            for branch in s.branches
        ]
    assert torch.allclose(together, torch.cat(alone), atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"wrappers": False}, {"decoder": "frozen"}, LORA])
@pytest.mark.parametrize("form", ["kv", "embeds"])
def test_the_engine_answers_as_the_trained_compressor_does(
    tiny: LoadedModel, checkpoint_store: Path, form: str, options: dict[str, Any]
) -> None:
    made = compressor(tiny, chunk=8, **options)
    found = checkpoint.save(made, checkpoint_store / f"e-{form}-{sorted(options.items())}", "sft", "test", [])
    config = {"ratio": 8, "form": form, "checkpoint": found.id}
    artifact = Artifact.decode(
        registry.compiler("meanpool", config).compile(Document(TEXT), tiny, tenant="m").data
    )
    assert artifact.manifest.kind == form
    assert artifact.manifest.tokens == -(-len(ids_of(tiny)) // 8) * made.config.positions
    assert (artifact.manifest.metrics["decoder"] is None) == (
        form == "kv" and made.config.decoder == "frozen"
    )
    engine = TransformersEngine(tiny)
    handle = engine.attach(artifact)
    (given,) = engine.likelihood([Request("Where does Mira live?", handle=handle)], ["Keldor"])
    again = checkpoint.load(found, tiny)  # stored in bfloat16
    sample = sample_of(tiny, TEXT, "Keldor")
    with torch.no_grad():
        expected = again(collate([sample], 8, made.config.positions))
    assert given == pytest.approx(float(expected.mean()), abs=1e-3)


def test_artifacts_of_a_checkpoint_share_its_decoder(
    tiny: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_tiny_compressor(tiny, tmp_path)
    monkeypatch.setenv("MEMKIT_CHECKPOINTS", str(tmp_path))
    engine, requests, decoders = TransformersEngine(tiny), list[Request](), set[int]()
    for number in range(3):
        document = Document(f"{TEXT} Number {number}.")
        made = registry.compiler("meanpool").compile(document, tiny, tenant="mira")
        requests.append(Request("Where does Mira live?", handle=engine.attach(Artifact.decode(made.data))))
        decoders.add(id(engine.reader(requests[-1]).model))
    assert len(decoders) == 1
    assert id(tiny.model) not in decoders
    together = [each.text for each in engine.generate(requests)]
    assert together == [each.text for request in requests for each in engine.generate([request])]
    decoder = weakref.ref(engine.reader(requests[0]).model)
    for request in requests:
        assert request.handle is not None
        engine.detach(request.handle)
    gc.collect()
    assert decoder() is None  # nobody reads with it any more


def test_nominal_and_effective_ratio(tiny: LoadedModel) -> None:
    assert (CompressorConfig().nominal_ratio, round(CompressorConfig().effective_ratio, 1)) == (16.0, 5.3)
    assert CompressorConfig(wrappers=False).effective_ratio == 16.0
    made = registry.compiler("meanpool", {"ratio": 16}).compile(Document(TEXT), tiny, tenant="mira")
    metrics = Artifact.decode(made.data).manifest.metrics
    tokens = len(ids_of(tiny))
    assert metrics["nominal_ratio"] == 16.0
    assert metrics["effective_ratio"] == pytest.approx(tokens / made.tokens, abs=1e-3)


def test_embeds_are_smaller_than_kv(tiny: LoadedModel) -> None:
    kinds = [registry.compiler("meanpool", {"form": f}) for f in ("kv", "embeds")]
    stored, embedded = (len(c.compile(Document(TEXT * 20), tiny, tenant="m").data) for c in kinds)
    assert embedded < stored


@pytest.mark.parametrize(
    "options", [{"chunk": 0}, {"pooling": "max"}, {"decoder": "thawed"}, {"decoder": "lora"}, {"rank": -1}]
)
def test_a_wrong_shape_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        compressor_config("paper", options)


def test_the_paper_trains_every_third_layer_wholly(tiny: LoadedModel) -> None:
    adapted = compressor_config("paper").adapted
    assert adapted.whole(28) == [0, 3, 6, 9, 12, 15, 18, 21, 24, 27]
    assert (adapted.rank, adapted.alpha, adapted.dropout, adapted.embeddings) == (64, 16.0, 0.05, True)
    made = Compressor(tiny, compressor_config("paper", {"full_every": 2, "rank": 2}))
    assert {name.split(".")[2] for name in made.encoder.full if "layers" in name} == {"0"}
    assert {name.split(".")[2] for name in made.encoder.lora} == {"1"}
    assert "model.embed_tokens.weight" in made.encoder.full


# --- checkpoints ------------------------------------------------------------------------------
def test_a_checkpoint_gives_the_same_compressor_back(tiny: LoadedModel, tmp_path: Path) -> None:
    made = compressor(tiny)
    made.separate_decoder(2) if not made.encoder.lora else made.separate_decoder(0)
    found = checkpoint.save(made, tmp_path / "c", "rl", "test", [{"stage": "rl"}])
    again = checkpoint.load(found, tiny)
    for name, tensor in made.tensors().items():
        assert torch.equal(tensor.bfloat16().float(), again.tensors()[name]), name
    assert again.config == made.config


@pytest.mark.parametrize("apart", [False, True])
def test_a_decoder_in_pure_lora_goes_to_peft(
    tiny: LoadedModel, tiny_model_folder: Path, tmp_path: Path, apart: bool
) -> None:
    made = compressor(tiny, **LORA)
    if apart:  # as after reinforcement learning
        made.separate_decoder(0)
        with torch.no_grad():
            for parameter in made.decoder.parameters:
                parameter.mul_(1.5)
    found = checkpoint.save(made, tmp_path / "c", "rl", "test", [])
    folder = decoder_checkpoint.export_decoder(found, tmp_path / "adapter")
    theirs = peft.PeftModel.from_pretrained(load(str(tiny_model_folder)).model, str(folder))
    again = checkpoint.load(found, tiny).frozen()
    with torch.no_grad():
        memory = again.wrapped(again.embed(ids_of(tiny)))[None]
        ours, expected, bare = (
            model(inputs_embeds=memory).logits for model in (again.decoder.student, theirs, tiny.model)
        )
    assert torch.allclose(ours, expected, atol=1e-5)
    assert not torch.allclose(ours, bare, atol=1e-3)
    other = checkpoint.save(compressor(tiny), tmp_path / "d", "sft", "test", [])
    with pytest.raises(ConfigError, match="decoder=lora"):
        decoder_checkpoint.export_decoder(other, tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot write"):
        decoder_checkpoint.export_decoder(found, tmp_path / "file")


def test_a_checkpoint_for_another_model_is_refused(
    tiny: LoadedModel, other_model_folder: Path, checkpoint_store: Path
) -> None:
    other = load(str(other_model_folder))
    (mine,) = [c for c in checkpoint.candidates(tiny, 16) if c.about["stage"] == "sft"][:1]
    with pytest.raises(FingerprintError, match="train-compressor"):
        checkpoint.load(mine, other)
    with pytest.raises(CompileError, match="train-compressor"):
        registry.compiler("meanpool").compile(Document(TEXT), other, tenant="mira")


def test_the_newest_checkpoint_that_can_answer_is_taken(tiny: LoadedModel, checkpoint_store: Path) -> None:
    for stage, created in (("sft", "2001"), ("cpt1", "2003"), ("sft", "2002")):
        found = build_tiny_compressor(tiny, checkpoint_store / created, stage, chunk=4)
        folder = checkpoint_store / f"{stage}-{created}"
        about = {**found.about, "created": created}
        decoder_checkpoint.write(folder, about, found.tensors(), torch.bfloat16)
    chosen = checkpoint.newest(tiny, 4)
    assert (chosen.about["stage"], chosen.about["created"]) == ("sft", "2002")
    assert checkpoint.newest(tiny, None).about["config"]["chunk"] == registry.own_ratio(
        "meanpool", lambda: tiny
    )
    assert registry.own_ratio("lcc", lambda: pytest.fail("no model is needed")) is None
    assert checkpoint.newest(tiny, 4, "cpt1").about["stage"] == "cpt1"
    made = registry.compiler("meanpool", {"ratio": 4}).compile(Document(TEXT), tiny, tenant="mira")
    assert chosen.label in str(Artifact.decode(made.data).manifest.metrics["checkpoint"])
    with pytest.raises(CompileError, match="at 5x"):
        registry.compiler("meanpool", {"ratio": 5}).compile(Document(TEXT), tiny, tenant="mira")


def test_altered_checkpoints_are_refused(tiny: LoadedModel, tmp_path: Path) -> None:
    found = build_tiny_compressor(tiny, tmp_path)
    weights = found.folder / decoder_checkpoint.WEIGHTS
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    with pytest.raises(ArtifactError, match="altered"):
        checkpoint.load(found, tiny)
    weights.unlink()
    with pytest.raises(ArtifactError, match="cannot read"):
        checkpoint.load(found, tiny)
    about = found.folder / decoder_checkpoint.ABOUT
    for text in ("", "[]", "{", json.dumps({**found.about, "format": 99}), json.dumps({"format": 1})):
        about.write_text(text)
        with pytest.raises(ArtifactError):
            decoder_checkpoint.DecoderCheckpoint.open(found.folder)


def test_weights_that_are_not_this_models_are_refused(tiny: LoadedModel) -> None:
    made = compressor(tiny)
    tensors = made.tensors()
    name = next(n for n in tensors if n.startswith("encoder.full"))
    for wrong in ({name: torch.zeros(1)}, {name: torch.full_like(tensors[name], torch.nan)}):
        with pytest.raises(ArtifactError):
            made.load({**tensors, **wrong}, {})
    with pytest.raises(ArtifactError, match="unknown tensor"):
        made.load({**tensors, "encoder.extra": torch.zeros(1)}, {})
    with pytest.raises(ArtifactError):
        made.load({n: t for n, t in tensors.items() if n != "head.projection.weight"}, {})


def test_an_artifact_whose_decoder_is_not_here_says_so(
    tiny: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = registry.compiler("meanpool", {"ratio": 16}).compile(Document(TEXT), tiny, tenant="mira")
    monkeypatch.setenv("MEMKIT_CHECKPOINTS", str(tmp_path))
    with pytest.raises(EngineError, match="MEMKIT_CHECKPOINTS"):
        TransformersEngine(tiny).attach(Artifact.decode(made.data))


def test_memories_that_are_not_sound_are_refused(tiny: LoadedModel) -> None:
    made = registry.compiler("meanpool", {"form": "embeds"}).compile(Document(TEXT), tiny, tenant="mira")
    artifact, engine = Artifact.decode(made.data), TransformersEngine(tiny)
    good = {name: artifact.tensor(name) for name in ("embeddings", "wrappers")}
    axes = {"embeddings": ("chunk", "hidden"), "wrappers": ("side", "hidden")}
    wrong: list[dict[str, torch.Tensor]] = [
        {"embeddings": good["embeddings"][:, :8].contiguous()},
        {"embeddings": torch.full_like(good["embeddings"], torch.inf)},
        {"wrappers": good["wrappers"][:1]},
        {"embeddings": good["embeddings"][:1]},
    ]
    for change in wrong:
        tensors = {name: (t, axes[name]) for name, t in {**good, **change}.items()}
        with pytest.raises(ArtifactError, match="not a sound memory"):
            engine.attach(Artifact.decode(Artifact.encode(artifact.manifest, tensors)))


def test_a_document_too_long_for_the_window_says_what_to_do(tiny: LoadedModel) -> None:
    with pytest.raises(CompileError, match="higher ratio"):
        registry.compiler("meanpool").compile(Document(TEXT * 200), tiny, tenant="mira")


def test_chunks_pad_at_their_end() -> None:
    chunks = Chunks.of([[5, 6, 7], [8]], "cpu")
    assert chunks.ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert chunks.mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_the_shipped_stage_configs_are_the_papers() -> None:
    cpt1, cpt2, sft = (stage_config(stage, "paper") for stage in ("cpt1", "cpt2", "sft"))
    rl = stage_config("rl", "paper", {"judge": "http://localhost:1/v1,m"})
    assert (cpt1.batch, cpt1.sequence, cpt1.min_lr_ratio) == (256, 2048, 0.1)  # type: ignore[union-attr]
    assert cpt2.mixture == {"continuation": 0.4, "qa": 0.275, "summarization": 0.175, "reconstruction": 0.15}  # type: ignore[union-attr]
    assert (sft.projection_lr, sft.full_lr, sft.format) == (0.0, 2e-5, "chat")  # type: ignore[union-attr]
    assert (rl.clip_low, rl.clip_high, rl.rollouts) == (0.2, 0.28, 16)  # type: ignore[union-attr]
