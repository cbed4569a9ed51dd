"""LCC's structure: the bottleneck, gradient isolation, positions and portability."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from memkit.artifact.format import Artifact
from memkit.compilers.distillation.flops import FlopMeter
from memkit.compilers.distillation.teacher import Example, Target, Teacher, kl
from memkit.compilers.distillation.training import Run
from memkit.compilers.lcc.buffer_encoder import lora_copy
from memkit.compilers.lcc.compiler import LCC, _Segment, buffer_tokens, segments
from memkit.compilers.lcc.config import PRESETS, LCCConfig
from memkit.document import Document
from memkit.engine.base import Request
from memkit.engine.transformers import kv_cache
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import CompileError, ConfigError, ModelError
from memkit.models import rotary
from memkit.models.loading import LoadedModel, load
from memkit.testing import TEXT, TINY_OPTIONS, query_logits


def options(**changes: object) -> dict[str, object]:
    return {**TINY_OPTIONS, "ratio": 4, **changes}


@pytest.fixture(scope="module")
def compiled(tiny: LoadedModel) -> Artifact:
    return Artifact.decode(LCC(options()).compile(Document(TEXT), tiny, tenant="mira").data)


def task_of(tiny: LoadedModel, text: str = TEXT, **changes: object) -> _Segment:
    ids = tiny.tokenizer.encode(text, add_special_tokens=False)
    config = LCCConfig(**options(**changes))  # type: ignore[arg-type]
    teacher = Teacher(tiny, ids, kv_cache.prefill(tiny.model, tiny.chat.header))
    return _Segment(config, teacher, buffer_tokens(len(ids), config.ratio), FlopMeter(tiny.model))


def in_front(task: _Segment, memory: kv_cache.KVCache) -> kv_cache.KVCache:
    """What stands in front of a question: the header, then the memory."""
    assert task.encoder.before is not None
    return task.encoder.before.join(memory)


def test_buffer_has_one_token_per_ratio(tiny: LoadedModel, compiled: Artifact) -> None:
    n = len(tiny.tokenizer.encode(TEXT, add_special_tokens=False))
    assert compiled.manifest.tokens == -(-n // 4)
    assert compiled.tensor("keys").shape == (2, 1, compiled.manifest.tokens, 16)


def test_bottleneck_changing_the_context_under_a_fixed_buffer_changes_no_logit(tiny: LoadedModel) -> None:
    task = task_of(tiny)
    with torch.no_grad():
        memory = task.read()
        before = query_logits(tiny, in_front(task, memory))
        task.encoder.embedded = torch.randn_like(task.encoder.embedded)  # another context altogether
        other = task.read()
        after = query_logits(tiny, in_front(task, memory))
        moved = query_logits(tiny, in_front(task, other))
    assert torch.equal(before, after)
    assert not torch.allclose(before, moved)  # the context does reach the logits, by the buffer alone


def test_frozen_model_is_untouched_and_gets_no_gradient(tiny: LoadedModel) -> None:
    before = {k: v.clone() for k, v in tiny.model.state_dict().items()}
    LCC(options()).compile(Document(TEXT), tiny, tenant="mira")
    after = tiny.model.state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert set(before) == set(after)  # no LoRA left behind
    assert all(p.grad is None for p in tiny.model.parameters())


def test_lora_changes_reading_but_never_queries(tiny: LoadedModel) -> None:
    task = task_of(tiny)
    with torch.no_grad():
        prefix = in_front(task, task.read())
        queried = query_logits(tiny, prefix)
        plain = task.read()
        for name, parameter in task.encoder.student.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
        written = task.read()
        again = query_logits(tiny, prefix)
    assert torch.equal(queried, again)  # queries run without the LoRA
    assert not torch.allclose(plain.values[1], written.values[1])  # the buffer is written with it


def test_gradient_reaches_lora_and_buffer_only(tiny: LoadedModel) -> None:
    task = task_of(tiny)
    task.loss.step(task.read()).backward()
    assert task.encoder.buffer.grad is not None
    assert task.encoder.buffer.grad.abs().sum() > 0
    trained = {n for n, p in task.encoder.student.named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in n for n in trained)


def test_lora_copy_shares_every_weight(tiny: LoadedModel) -> None:
    copied = lora_copy(tiny.model, 4, 8.0, ["q_proj"])
    mine = {p.data_ptr() for p in tiny.model.parameters()}
    theirs = {p.data_ptr() for n, p in copied.named_parameters() if "lora_" not in n}
    assert theirs == mine


def test_shifted_keys_are_the_keys_of_the_shifted_positions(tiny: LoadedModel) -> None:
    ids = tiny.tokenizer.encode("Jalo works at Brimtek.", add_special_tokens=False)
    tokens = torch.tensor([ids])
    caches = []
    for start in (0, 37):
        cache = kv_cache.KVCache((), ()).cache()
        positions = torch.arange(start, start + len(ids))[None]
        with torch.no_grad():
            tiny.model.base_model(
                input_ids=tokens, position_ids=positions, past_key_values=cache, use_cache=True
            )
        caches.append(kv_cache.KVCache.of(cache))
    moved = caches[1].shifted(-37, rotary.inv_freq_of(tiny.model))
    for a, b in zip(caches[0].keys, moved.keys, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_query_positions_follow_header_and_buffer_whatever_the_context_length(tiny: LoadedModel) -> None:
    task = task_of(tiny)
    with torch.no_grad():
        memory = task.read()
    prefix = in_front(task, memory)
    assert prefix.tokens == len(tiny.chat.header) + task.encoder.count


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_presets_are_valid(preset: str) -> None:
    assert LCC({"preset": preset}).config.ratio == 16.0


def test_paper_preset_has_the_papers_values() -> None:
    config = LCC({"preset": "paper"}).config
    assert (config.rank, config.alpha, config.lr, config.steps) == (8, 16.0, 2e-5, 22_500)
    assert (config.init, config.self_study, config.kv_steps) == ("vocabulary_mean", 0, 0)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"ratio": 0.5}, "ratio"),
        ({"ratio": float("nan")}, "ratio"),
        ({"rank": 0}, "rank"),
        ({"speed": 1}, "unknown option speed"),
        ({"preset": "magic"}, "unknown preset"),
        ({"init": "zero"}, "init"),
        ({"kv_init": "magic"}, "kv_init must be"),
        ({"kv_init": "attention", "steps": 5}, "set steps=0"),
        ({"wording": "Tell me."}, "wording must contain"),
        ({"phrases": -1}, "phrases"),
    ],
)
def test_bad_options_are_config_errors(bad: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LCC(bad)


def test_context_longer_than_the_window_is_a_compile_error(tiny: LoadedModel) -> None:
    with pytest.raises(CompileError, match="too many to compile"):
        LCC(options(ratio=1)).compile(Document(TEXT * 40), tiny, tenant="mira")


@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 100, 101, 200])
def test_segments_cover_the_document_evenly(tiny: LoadedModel, tokens: int) -> None:
    config = LCCConfig(**options(segment_tokens=64, reconstruction_window=16))  # type: ignore[arg-type]
    pieces = segments(tiny, config, tokens)
    assert [i for piece in pieces for i in range(tokens)[piece]] == list(range(tokens))
    sizes = [piece.stop - piece.start for piece in pieces]
    assert max(sizes) <= 64
    assert max(sizes) - min(sizes) <= 1


def test_a_document_in_segments_becomes_one_memory(tiny: LoadedModel) -> None:
    phases = dict[str, None]()
    n = len(tiny.tokenizer.encode(TEXT, add_special_tokens=False))
    made = LCC(options(segment_tokens=-(-n // 2), agnostic=0)).compile(
        Document(TEXT), tiny, tenant="mira", progress=lambda step: phases.setdefault(step.phase)
    )
    artifact = Artifact.decode(made.data)
    assert list(phases)[:3] == ["questions", "answers", "lora 1/2"]
    trained = [phase for phase in phases if phase not in ("questions", "answers")]
    assert trained == ["lora 1/2", "kv 1/2", "lora 2/2", "kv 2/2", "kv together"]
    assert artifact.manifest.metrics["segments"] == 2
    assert artifact.manifest.tokens == sum(buffer_tokens(m, 4) for m in (n // 2, n - n // 2))


def test_a_later_segment_is_read_behind_the_earlier_memories(tiny: LoadedModel) -> None:
    ids = tiny.tokenizer.encode(TEXT, add_special_tokens=False)
    first = task_of(tiny)
    with torch.no_grad():
        before = in_front(first, first.read())
        teacher = Teacher(tiny, ids, before, ids)
        config = LCCConfig(**options())  # type: ignore[arg-type]
        second = _Segment(config, teacher, 5, FlopMeter(tiny.model))
        memory = second.read()
        inputs = torch.cat((second.encoder.embedded, second.encoder.buffer), 1)
        cache = before.cache()
        tiny.model.base_model(inputs_embeds=inputs, past_key_values=cache, use_cache=True)
        kept = kv_cache.KVCache.of(cache).slice(before.tokens + len(ids))
    expected = kept.shifted(-len(ids), rotary.inv_freq_of(tiny.model))  # a fresh LoRA changes nothing
    for got, want in zip((*memory.keys, *memory.values), (*expected.keys, *expected.values), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_a_model_that_does_not_fit_is_a_compile_error(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CompileError, match="choose other targets"):
        LCC(options(targets=("absent_proj",))).compile(Document(TEXT), tiny, tenant="mira")
    monkeypatch.setattr(tiny.model.base_model.rotary_emb, "attention_scaling", 1.5)
    with pytest.raises(CompileError, match="attention scaling"):
        LCC(options()).compile(Document(TEXT), replace(tiny), tenant="mira")


def test_same_seed_gives_the_same_artifact(tiny: LoadedModel, compiled: Artifact) -> None:
    again = Artifact.decode(LCC(options()).compile(Document(TEXT), tiny, tenant="mira").data)
    assert again.id == compiled.id


def test_pure_objective_asks_no_questions(tiny: LoadedModel) -> None:
    task = task_of(tiny, self_study=0, reconstruction_window=64)
    assert [part.pairs[0][0].kind for part in task.loss.parts] == ["agnostic", "reconstruction"]


def test_sentences_that_no_question_covers_are_asked_about_again(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "Himcon stays in room 6159. Groham keeps a horse. Firon was born on 3 May."
    teacher = Teacher(tiny, tiny.tokenizer.encode(text, add_special_tokens=False), None)
    encode = tiny.tokenizer.encode
    asked = ["Which room is it that Himcon stays in?", "Who keeps a horse?", "When was Firon born on?"]
    answers = ["6159", "Groham", "3 May"]
    examples = [
        Example("self_study", (1,), tuple(encode(answer, add_special_tokens=False)), held_out)
        for answer, held_out in zip(answers, (False, False, True), strict=True)
    ]
    requested = list[str]()

    def write(requests: list[str], seed: int, temperature: float, until: float) -> list[str]:
        requested.extend(requests)
        return ["Who keeps a horse?", "When is Firon's birthday?"]

    monkeypatch.setattr(teacher, "write", write)
    assert teacher.follow_up(asked, examples, 2, 9, 0) == ["When is Firon's birthday?"]
    assert requested == ["Write a question about this: Firon was born on 3 May."] * 2  # the other is held out
    assert teacher.follow_up([], [], 2, 9, 0) == []
    requested.clear()
    teacher.follow_up(["?"], examples[:1], 2, 4, 0)  # three sentences are left out, for four requests
    assert len(requested) == 4


def test_training_lowers_the_loss(tiny: LoadedModel) -> None:
    run = Run()
    task = task_of(tiny, steps=40, lr=2e-2, kv_steps=0, self_study=8, agnostic=0, reconstruction_window=0)
    task.train(run)
    losses = [value for _, _, value in run.history.curve]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_nan_loss_is_a_compile_error(tiny: LoadedModel) -> None:
    with pytest.raises(CompileError, match="lower lr"):
        LCC(options(lr=1e30, steps=5)).compile(Document(TEXT), tiny, tenant="mira")


def test_topk_kl_bounds_the_full_kl_from_below() -> None:
    torch.manual_seed(0)
    teacher, logits = torch.randn(6, 50).log_softmax(-1), torch.randn(6, 50)
    full = (teacher.exp() * (teacher - logits.log_softmax(-1))).sum(-1)
    for k in (1, 5, 49, 50):
        best = teacher.topk(k)
        rest = torch.log1p(-best.values.exp().sum(-1).clamp(max=1 - 1e-6))
        part = kl(Target(best.indices, best.values, rest), logits)
        assert (part <= full + 1e-4).all()
        assert (part >= -1e-5).all()
    torch.testing.assert_close(part, full)


def test_artifact_alone_gives_the_same_logits_in_a_new_process(
    tiny_model_folder: Path, engine: TransformersEngine, compiled: Artifact, tmp_path: Path
) -> None:
    made = LCC(options()).compile(Document(TEXT), engine.base, tenant="mira")
    file = tmp_path / "memory.mka"
    file.write_bytes(made.data)
    handle = engine.attach(compiled)
    here = query_logits(engine.base, engine.prefix(Request("?", handle=handle)))  # type: ignore[arg-type]
    script = (
        "import torch\n"
        "from memkit.testing import query_logits\n"
        "from memkit.artifact.format import Artifact\n"
        "from memkit.engine.base import Request\n"
        "from memkit.engine.transformers.engine import TransformersEngine\n"
        f"engine = TransformersEngine({str(tiny_model_folder)!r})\n"
        f"handle = engine.attach(Artifact.open({str(file)!r}))\n"
        "logits = query_logits(engine.base, engine.prefix(Request('?', handle=handle)))\n"
        f"torch.save(logits, {str(tmp_path / 'logits.pt')!r})\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)
    there = torch.load(tmp_path / "logits.pt", weights_only=True)
    assert torch.equal(here, there)


def test_a_bfloat16_model_is_compiled_for_with_float32_parameters(
    tiny: LoadedModel, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = load(str(tiny_model_folder), dtype="bfloat16")
    assert half.fingerprint != tiny.fingerprint
    assert {p.dtype for p in task_of(half).encoder.parameters} == {torch.float32}
    artifact = Artifact.decode(LCC(options()).compile(Document(TEXT), half, tenant="mira").data)
    assert artifact.tensor("keys").dtype == torch.bfloat16
    engine = TransformersEngine(half)
    (said,) = engine.generate([Request("Who?", handle=engine.attach(artifact), max_tokens=4)])
    assert said.prompt_tokens > artifact.manifest.tokens
    monkeypatch.setenv("MEMKIT_DTYPE", "bfloat16")
    assert load(str(tiny_model_folder)).fingerprint == half.fingerprint
    with pytest.raises(ModelError, match="float32, bfloat16"):
        load(str(tiny_model_folder), dtype="float16")


def test_reconstruction_windows_cover_the_context_and_add_random_ones(tiny: LoadedModel) -> None:
    context = tiny.tokenizer.encode(TEXT * 3, add_special_tokens=False)
    teacher = Teacher(tiny, context, kv_cache.prefill(tiny.model, list(tiny.chat.header)))
    few, many = (teacher.reconstructions(16, count, seed=3) for count in (1, 30))
    assert [token for e in few for token in e.answer] == [*context, tiny.chat.end]
    assert many[: len(few)] == few
    assert len(few) < len(many) <= 30
    assert many == teacher.reconstructions(16, 30, seed=3) != teacher.reconstructions(16, 30, seed=4)
    whole = teacher.reconstructions(len(context), 30, seed=3)
    assert len(whole) == 1  # all would be equal
