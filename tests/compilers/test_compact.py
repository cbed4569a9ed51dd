"""The compact compiler: positions, forms and what it refuses."""

from __future__ import annotations

from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PhiConfig, PhiForCausalLM

from memkit.artifact.format import Artifact
from memkit.artifact.ragged import read_ragged
from memkit.compilers.base import Step
from memkit.compilers.compact.capped import capped, uniform_direction
from memkit.compilers.compact.compiler import Compact
from memkit.compilers.compact.config import CompactConfig, parse_options
from memkit.compilers.compact.layout import Layout, Size
from memkit.document import Document
from memkit.engine.base import Request
from memkit.engine.transformers import kv_cache
from memkit.engine.transformers.engine import TransformersEngine
from memkit.engine.transformers.ragged import RaggedKV, Rows
from memkit.errors import CompileError, ConfigError
from memkit.evals.records import generated
from memkit.models import rotary
from memkit.models.chat import text_ids
from memkit.models.loading import LoadedModel, load
from memkit.testing import TEXT, build_tiny_model, query_logits

LONG = TEXT * 3


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A tiny model with two KV heads."""
    return load(str(build_tiny_model(tmp_path_factory.mktemp("grouped"), kv_heads=2)))


def parse(options: dict[str, Any]) -> dict[str, Any]:
    return asdict(parse_options(options))


def compiled(base: LoadedModel, text: str = LONG, **options: object) -> Artifact:
    return Artifact.decode(Compact(options).compile(Document(text), base, tenant="mira").data)


# -- the memory ---------------------------------------------------------------------------------
def test_everything_kept_is_the_full_context(grouped: LoadedModel) -> None:
    engine = TransformersEngine(grouped)
    question = "Where does Mira live?"
    with engine.attached(compiled(grouped, ratio=1)) as handle:
        ours = engine.likelihood([Request(question, handle=handle)], ["Keldor"])
    assert ours == pytest.approx(engine.likelihood([Request(question, context=LONG)], ["Keldor"]), abs=1e-4)


def test_half_precision(tmp_path: Path) -> None:
    engine = TransformersEngine(load(str(build_tiny_model(tmp_path, kv_heads=2)), dtype="bfloat16"))
    question = "Where does Mira live?"
    artifact = compiled(engine.base, ratio=1)
    assert artifact.tensor("keys").dtype == torch.bfloat16
    with engine.attached(artifact) as handle:
        ours = engine.likelihood([Request(question, handle=handle)], ["Keldor"])
    assert ours == pytest.approx(engine.likelihood([Request(question, context=LONG)], ["Keldor"]), abs=0.05)
    assert compiled(engine.base, ratio=3).tensor("values").isfinite().all()


@pytest.mark.parametrize("ratio", [2, 4, 8])
def test_the_rows_are_as_many_as_the_ratio_allows(grouped: LoadedModel, ratio: float) -> None:
    artifact = compiled(grouped, ratio=ratio)
    tokens = len(text_ids(grouped.tokenizer, LONG))
    positions = -(-tokens // int(ratio))
    counts = [[len(keys) for keys, _, _ in layer] for layer in read_ragged(artifact)]
    assert artifact.manifest.tokens == positions
    assert sum(map(sum, counts)) == positions * 2 * 2  # layers, heads
    assert len({n for layer in counts for n in layer}) > 1  # heads differ
    stored = {spec.name: spec for spec in artifact.manifest.tensors}
    assert stored["keys"].nbytes == positions * 4 * 16 * 4  # rows, head_dim, float32: no padding


def test_more_rows_are_closer_to_the_full_context() -> None:
    engine = TransformersEngine("nano")
    (record,) = generated(1, seed=0)
    questions = [question.text for question in record.questions]
    answers = [question.answers[0] for question in record.questions]

    def likelihood(**memory: object) -> Tensor:
        requests = [Request(question, **memory) for question in questions]  # type: ignore[arg-type]
        return torch.tensor(engine.likelihood(requests, answers))

    full, gaps = likelihood(context=record.context), list[float]()
    for ratio in (4, 16, 40):
        with engine.attached(compiled(engine.base, record.context, ratio=ratio)) as handle:
            gaps.append(float((likelihood(handle=handle) - full).abs().mean()))
    none = float((likelihood() - full).abs().mean())
    assert gaps == sorted(gaps)
    assert gaps[0] < 0.02 * none


def test_questions_stand_right_behind_the_text(grouped: LoadedModel) -> None:
    """Moving the text and the question by the same distance changes only the distance of the header."""
    header = kv_cache.prefill(grouped.model, list(grouped.chat.header))
    full = kv_cache.prefill(grouped.model, text_ids(grouped.tokenizer, LONG), header)
    inv_freq, moved = rotary.inv_freq_of(grouped.model), 40
    text = full.slice(header.tokens)
    reader = replace(grouped, model=TransformersEngine(grouped)._prefixes.ragged_reader)
    nearer = RaggedKV(RaggedKV.of(text.shifted(-moved, inv_freq)).layers, text.tokens - moved).after(header)
    # The same by moving the header instead, and not the text.
    other = header.shifted(moved, inv_freq).join(text)
    assert torch.allclose(query_logits(reader, nearer), query_logits(grouped, other), atol=1e-3)
    assert not torch.allclose(query_logits(reader, nearer), query_logits(grouped, full), atol=1e-3)


def test_a_text_longer_than_the_window_is_compiled_in_segments(grouped: LoadedModel) -> None:
    steps = list[Step]()
    text = TEXT * 12
    made = Compact({"ratio": 4}).compile(Document(text), grouped, tenant="mira", progress=steps.append)
    artifact = Artifact.decode(made.data)
    tokens = len(text_ids(grouped.tokenizer, text))
    assert (
        artifact.manifest.metrics["segments"] == len(Layout.of(grouped, CompactConfig(), tokens).segments) > 1
    )
    assert made.tokens == -(-tokens // 4)
    assert [step.step for step in steps] == list(range(1, steps[-1].steps + 1))
    assert {step.phase for step in steps} == {"read", "repeat", "fit"}
    engine = TransformersEngine(grouped)
    with engine.attached(artifact) as handle:
        assert list(engine.generate([Request("Where does Mira live?", handle=handle, max_tokens=4)]))


def test_chunks_read_what_one_pass_reads(grouped: LoadedModel) -> None:
    whole, parts = (
        read_ragged(compiled(grouped, preset="selected", ratio=2, chunk=chunk, floor=1))
        for chunk in (2048, 25)
    )
    # The same keys are candidates; which are kept depends on how the repetition was asked for.
    assert [len(layer) for layer in whole] == [len(layer) for layer in parts]
    assert sum(len(k) for layer in whole for k, _, _ in layer) == sum(
        len(k) for layer in parts for k, _, _ in layer
    )


def test_the_same_document_gives_the_same_artifact(grouped: LoadedModel) -> None:
    assert compiled(grouped, queries=9).id == compiled(grouped, queries=9).id
    assert compiled(grouped, queries=9).id != compiled(grouped, queries=9, seed=1).id


@pytest.mark.parametrize("stored", ["bfloat16", "int8", "int4"])
def test_smaller_numbers(grouped: LoadedModel, stored: str) -> None:
    exact, smaller = compiled(grouped), compiled(grouped, stored=stored)
    assert smaller.nbytes < 0.7 * exact.nbytes
    limit = {"bfloat16": 0.01, "int8": 0.02, "int4": 0.25}[stored]
    for layers in zip(read_ragged(exact), read_ragged(smaller), strict=True):
        for (keys, values, bias), (k, v, b) in zip(*layers, strict=True):
            assert float((keys - k.float()).norm() / keys.norm()) < limit
            assert float((values - v.float()).norm() / values.norm()) < limit
            assert torch.equal(bias, b)


def test_a_layer_whose_values_write_much_does_not_take_the_budget() -> None:
    nano = load("nano")  # the values of its first layer are fifty times the embeddings
    (record,) = generated(1, seed=1)
    artifact = compiled(nano, record.context, ratio=8)
    rows = artifact.tensor("rows").sum(1)
    assert int(rows[0]) < int(rows.sum()) / 2
    engine = TransformersEngine(nano)
    questions = [question.text for question in record.questions]
    answers = [question.answers[0] for question in record.questions]
    full = engine.likelihood([Request(q, context=record.context) for q in questions], answers)
    with engine.attached(artifact) as handle:
        ours = engine.likelihood([Request(q, handle=handle) for q in questions], answers)
    assert sum(full) - sum(ours) < 0.1 * len(questions)


# -- the capped form ----------------------------------------------------------------------------
def test_filling_rows_change_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(16, generator=generator)
    # The direction's product with each of the queries is one.
    queries = torch.randn(200, 16, generator=generator)
    queries += (1 - queries @ direction)[:, None] * direction / direction.square().sum()
    rows = Rows(
        torch.randn(5, 16, generator=generator),
        torch.randn(5, 16, generator=generator),
        torch.randn(5, generator=generator),
    )
    keys, values = capped(rows, direction, 9)
    assert keys.shape == values.shape == (9, 16)
    wanted = (queries @ rows.keys.T + rows.bias).softmax(1) @ rows.values
    assert torch.allclose((queries @ keys.T).softmax(1) @ values, wanted, atol=1e-4)


def test_a_folded_bias_counts_like_a_bias() -> None:
    generator = torch.Generator().manual_seed(0)
    queries = 0.3 * torch.randn(200, 16, generator=generator) + 1.0
    bias = torch.tensor([1.0, -0.5, 0.0])
    rows = Rows(torch.randn(3, 16, generator=generator), torch.randn(3, 16, generator=generator), bias)
    keys, _ = capped(rows, uniform_direction(queries), 3)
    wanted = (queries @ rows.keys.T + bias).softmax(1)
    plain = (queries @ rows.keys.T).softmax(1)
    assert float(((queries @ keys.T).softmax(1) - wanted).abs().mean()) < 0.3 * float(
        (plain - wanted).abs().mean()
    )


def test_the_capped_form_is_a_plain_memory(grouped: LoadedModel) -> None:
    tokens = len(text_ids(grouped.tokenizer, LONG))
    artifact = compiled(grouped, preset="capped", ratio=4)
    assert artifact.manifest.kind == "kv"
    assert artifact.manifest.tokens == artifact.tensor("keys").shape[2] == 2 * -(-tokens // 4)
    header = len(grouped.chat.header)
    paged = compiled(grouped, preset="capped", ratio=4, multiple=16)
    assert (header + paged.manifest.tokens) % 16 == 0
    engine = TransformersEngine(grouped)
    question = "Where does Mira live?"
    with engine.attached(compiled(grouped, preset="capped", ratio=1)) as handle:  # nothing is left out
        ours = engine.likelihood([Request(question, handle=handle)], ["Keldor"])
    assert ours == pytest.approx(engine.likelihood([Request(question, context=LONG)], ["Keldor"]), abs=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        {"ratio": 4},
        {"ratio": 2},
        {"preset": "capped"},
        {"ratio": 4, "cap": 4, "form": "capped"},
        {"multiple": 64},
        {"ratio": 60, "questions": False},
    ],
    ids=str,
)
def test_what_is_compiled_leaves_room_for_a_question(grouped: LoadedModel, options: dict[str, Any]) -> None:
    config, most = CompactConfig(**parse(options)), 0
    header = len(grouped.chat.header)
    for tokens in range(64, 1500, 7):
        try:
            layout = Layout.of(grouped, config, tokens)
        except CompileError:
            continue
        most, before = tokens, header
        for number, cut in enumerate(layout.segments, start=1):
            n = cut.stop - cut.start
            assert before + n + min(n, layout.chunk) + len(grouped.chat.tail) + 128 <= grouped.window
            before += Size.of(config, n, before, number == len(layout.segments)).positions
        assert before + 128 + 64 <= grouped.window
        assert before % config.multiple == 0 or config.multiple == 1
    assert most > 200


def test_an_estimate_knows_the_form(grouped: LoadedModel) -> None:
    tokens = len(text_ids(grouped.tokenizer, LONG))
    for options in ({}, {"preset": "capped"}, {"multiple": 64}, {"stored": "int8"}, {"stored": "int4"}):
        made = Compact(options).compile(Document(LONG), grouped, tenant="mira")
        predicted = Compact(options).estimate(tokens, grouped)
        sizes = {spec.name: spec.nbytes for spec in Artifact.decode(made.data).manifest.tensors}
        sizes.pop("rows", None)
        assert sum(sizes.values()) == pytest.approx(predicted.nbytes, rel=0.01)
        assert made.flops == pytest.approx(predicted.flops, rel=0.35)


# -- refusals -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratio": 0.5}, "ratio"),
        ({"ratio": float("nan")}, "ratio"),
        ({"form": "dense"}, "form"),
        ({"form": "capped"}, "cap"),
        ({"cap": 0.5}, "cap"),
        ({"floor": 2}, "floor"),
        ({"ridge": 0}, "ridge"),
        ({"refine": -1}, "refine"),
        ({"refine": 2.5}, "refine"),
        ({"sharpen": 0}, "sharpen"),
        ({"stored": "int2"}, "stored"),
        ({"chunk": 0}, "chunk"),
        ({"chunk": 2**70}, "chunk"),
        ({"seed": "x"}, "seed"),
        ({"seed": 2**65}, "seed"),
        ({"cap": 1e308}, "cap"),
        ({"ratio": "nan"}, "ratio must be a number"),
        ({"multiple": 2.5}, "multiple"),
        ({"layers": 3}, "unknown option layers"),
        ({3: 3}, "unknown option 3"),
        ({"bias": "False"}, "bias must be true or false"),
        ({"questions": "never"}, "questions must be true or false"),
        ({"ratio": 10**5000}, "ratio must be less than"),
        ({"bias": False, "refine": 5}, "refine moves biases"),
        ({"preset": "selected", "refine": 5}, "refine moves biases"),
    ],
)
def test_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Compact(options)


def test_a_text_of_any_length_has_a_layout_or_none(grouped: LoadedModel) -> None:
    with pytest.raises(CompileError, match="too many"):
        Layout.of(grouped, parse_options({}), 10**9)
    with pytest.raises(CompileError, match="in multiples of 1,000,000 positions"):
        Layout.of(grouped, parse_options({"multiple": 10**6}), 136)
    wide = replace(grouped, window=32768)
    cuts = Layout.of(wide, parse_options({"ratio": 64}), 10**6).segments
    assert (cuts[0].start, cuts[-1].stop) == (0, 10**6)
    assert all(a.stop == b.start for a, b in pairwise(cuts))


def test_documents_that_cannot_be_compiled(grouped: LoadedModel) -> None:
    for text, options, message in (
        ("Mira", {"ratio": 64}, "lower ratio"),
        (TEXT * 60, {}, "too many"),
        (TEXT * 12, {"ratio": 1}, "too many"),
    ):
        with pytest.raises(CompileError, match=message):
            Compact(options).compile(Document(text), grouped, tenant="mira")


@pytest.mark.parametrize("text", ["a", "Mira", "no " * 120, "\n.\n", "🙂"])
def test_odd_documents(grouped: LoadedModel, text: str) -> None:
    tokens = len(text_ids(grouped.tokenizer, text))
    artifact = compiled(grouped, text, ratio=1 if tokens < 4 else 4)
    assert 1 <= artifact.manifest.tokens <= tokens
    assert all(
        bool(part.isfinite().all()) for layer in read_ragged(artifact) for head in layer for part in head
    )


def test_a_model_whose_attention_cannot_be_observed(tmp_path: Path) -> None:
    sliding = load(str(build_tiny_model(tmp_path)))
    sliding.model.config.sliding_window = 16
    with pytest.raises(CompileError, match="sliding"):
        Compact().compile(Document(LONG), sliding, tenant="mira")
    backendless = load(str(build_tiny_model(tmp_path)))
    backendless.model._supports_attention_backend = False
    with pytest.raises(CompileError, match="AttentionInterface"):
        Compact().compile(Document(LONG), backendless, tenant="mira")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "length"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4}}, "scaling"),
    ],
)
def test_positions_that_cannot_be_moved_are_refused(config: dict[str, Any], message: str) -> None:
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes, **config))
    with pytest.raises(ValueError, match=message):
        rotary.inv_freq_of(model)


def test_a_model_that_rotates_a_part_of_each_head_is_refused() -> None:
    partial = PhiForCausalLM(
        PhiConfig(
            vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2
        )
    )
    with pytest.raises(ValueError, match="part of each head"):
        rotary.inv_freq_of(partial)
