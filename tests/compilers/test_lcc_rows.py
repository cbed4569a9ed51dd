"""Memories that are trained from a compact start."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from memkit.artifact.format import Artifact
from memkit.artifact.ragged import read_ragged
from memkit.compilers.base import Step
from memkit.compilers.compact.compiler import Compact
from memkit.compilers.distillation.checkpoint import Checkpoint
from memkit.compilers.lcc.compiler import LCC
from memkit.compilers.lcc.rows import TrainedRows
from memkit.document import Document
from memkit.engine.base import Request
from memkit.engine.transformers.engine import TransformersEngine
from memkit.engine.transformers.ragged import RaggedKV, Rows
from memkit.errors import CompileError, ConfigError
from memkit.models.loading import LoadedModel
from memkit.testing import TEXT, TINY_OPTIONS

DENSE = {
    **TINY_OPTIONS,
    "steps": 0,
    "kv_steps": 40,
    "kv_lr": 2e-2,
    "kv_init": "compact",
    "form": "ragged",
    "self_study": 0,
    "phrases": 24,  # some of them held out
    "agnostic": 0,
    "ratio": 4,
}


def compiled(base: LoadedModel, **changed: object) -> Artifact:
    made = LCC({**DENSE, **changed}).compile(Document(TEXT), base, tenant="mira")
    return Artifact.decode(made.data)


def test_the_trained_tensors_are_those_of_the_memory() -> None:
    torch.manual_seed(0)
    layers = tuple(
        tuple(Rows(100 * torch.randn(n, 4), torch.randn(n, 4), torch.randn(n)) for n in counts)
        for counts in ((3, 1), (2, 0))
    )
    rows = TrainedRows(RaggedKV(layers, 3), biases=True)
    memory = rows.memory()
    assert memory.tokens == 3
    for layer, same in zip(layers, memory.layers, strict=True):
        for head, other in zip(layer, same, strict=True):
            for part in ("keys", "values", "bias"):
                torch.testing.assert_close(getattr(other, part), getattr(head, part))
    # A unit is a head's root mean square, so a step changes large and small numbers by the same share.
    sizes = [part.detach()[:3].square().mean().item() for part in rows.parameters[:2]]
    assert sizes == pytest.approx([1.0, 1.0], rel=1e-3)


def test_training_from_a_compact_memory_lowers_the_loss(tiny: LoadedModel) -> None:
    made = LCC(DENSE).compile(Document(TEXT), tiny, tenant="mira")
    losses = [value for phase, _, value in made.curve if phase == "train"]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    assert made.flops < LCC(DENSE).estimate(len(tiny.tokenizer.encode(TEXT)), tiny).flops * 2


@pytest.mark.parametrize("form", ["ragged", "capped"])
def test_both_forms_are_answered_from_and_equally_large(tiny: LoadedModel, form: str) -> None:
    artifact = compiled(tiny, form=form, kv_steps=2, cloze=9)
    tokens, metrics = artifact.manifest.tokens, cast(dict[str, Any], artifact.manifest.metrics)
    config = tiny.model.config
    heads = config.num_hidden_layers * config.num_key_value_heads
    assert artifact.manifest.kind == {"ragged": "ragged_kv", "capped": "kv"}[form]
    assert metrics["rows"] == tokens * heads
    assert metrics["held_out_kl"] <= metrics["start_kl"]
    assert 0.05 < metrics["coverage"] <= 1
    assert (metrics["longest_head"] == tokens) == (form == "capped")
    engine = TransformersEngine(tiny)
    (answer,) = engine.generate(
        [Request("Where does Mira live?", handle=engine.attach(artifact), max_tokens=4)]
    )
    assert answer.prompt_tokens > len(tiny.chat.header) + tokens


def test_training_that_makes_it_worse_leaves_the_compact_memory(tiny: LoadedModel) -> None:
    artifact = compiled(tiny, kv_lr=50.0, kv_steps=3)
    start = Compact({"ratio": DENSE["ratio"]}).compile(Document(TEXT), tiny, tenant="mira")
    pairs = zip(read_ragged(artifact), read_ragged(Artifact.decode(start.data)), strict=True)
    for layer, same in pairs:
        for head, other in zip(layer, same, strict=True):
            for mine, its in zip(head, other, strict=True):
                torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-5)


def test_an_interrupted_training_goes_on(
    tiny: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memkit.compilers.distillation.checkpoint.SAVE_INTERVAL", 0.0)

    def stop(step: Step) -> None:
        if step.phase == "train" and step.step == 25:
            raise KeyboardInterrupt

    file = tmp_path / "unfinished.pt"
    compiler, document = LCC(DENSE), Document(TEXT)
    with pytest.raises(KeyboardInterrupt):
        compiler.compile(document, tiny, tenant="mira", progress=stop, unfinished=file)
    seen = list[int]()
    resumed = compiler.compile(
        document,
        tiny,
        tenant="mira",
        progress=lambda step: seen.append(step.step) if step.phase == "train" else None,
        unfinished=file,
    )
    assert min(seen) > 20
    assert resumed.data == compiler.compile(document, tiny, tenant="mira").data


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kv_init": "attention"}, "kv_init=compact"),
        ({"steps": 3}, "set steps=0"),
        ({"form": "dense"}, "form must be one of"),
        ({"budget": 60, "kv_init": "buffer", "form": "capped"}, "needs a compact start"),
        ({"kinds": ["factual", "silly"]}, "kinds must be some of"),
        ({"kinds": []}, r"kinds must be some of .*, got \[\]"),
        ({"kv_lr": 0}, "kv_lr must be positive"),
        ({"least_gain": 1}, "least_gain must be less than 1"),
        ({"budget": float("inf")}, "budget a number of seconds"),
        ({"agnostic_batch": 0}, "agnostic_batch must be at least 1"),
        ({"kinds": "factual"}, "list of names"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LCC({**DENSE, **options})


def test_a_text_longer_than_the_window_stays_as_it_is(tiny: LoadedModel) -> None:
    with pytest.raises(CompileError, match="too many to compile"):
        LCC(DENSE).compile(Document(TEXT * 60), tiny, tenant="mira")


def test_a_budget_of_time_ends_the_training_with_a_measurement(tiny: LoadedModel) -> None:
    options = {**DENSE, "kv_steps": 100_000, "budget": 6.0, "patience": 10_000, "self_study": 32}
    made = LCC(options).compile(Document(TEXT), tiny, tenant="mira")
    assert 0 < made.steps < 100_000
    assert made.seconds < 60
    assert made.held_out[-1][1] == made.steps  # the last state was measured, too


def test_a_budget_without_time_for_a_step_is_refused(tiny: LoadedModel) -> None:
    with pytest.raises(CompileError, match="Give at least"):
        LCC({**DENSE, "budget": 1e-3}).compile(Document(TEXT), tiny, tenant="mira")


def test_training_stops_where_it_gains_too_little(tiny: LoadedModel) -> None:
    options = {**DENSE, "kv_steps": 60, "check_every": 2, "patience": 2, "least_gain": 0.9}
    assert LCC(options).compile(Document(TEXT), tiny, tenant="mira").steps <= 4


def test_the_study_set_of_an_interrupted_run_is_not_made_again(
    tiny: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(step: Step) -> None:
        if step.phase == "train":
            raise KeyboardInterrupt

    file = tmp_path / "unfinished.pt"
    with pytest.raises(KeyboardInterrupt):
        LCC(DENSE).compile(Document(TEXT), tiny, tenant="mira", progress=stop, unfinished=file)
    monkeypatch.setattr("memkit.compilers.lcc.study.study_set", None)
    LCC(DENSE).compile(Document(TEXT), tiny, tenant="mira", unfinished=file)


def test_a_text_too_short_for_its_questions_is_refused(tiny: LoadedModel) -> None:
    options = {**DENSE, "phrases": 0, "following": 8, "ratio": 1}
    with pytest.raises(CompileError, match="nothing to train on"):
        LCC(options).compile(Document("Mira lives in Porto."), tiny, tenant="mira")


def test_something_is_always_held_out(tiny: LoadedModel) -> None:
    made = LCC({**DENSE, "phrases": 0, "cloze": 9, "kv_steps": 2}).compile(
        Document(TEXT), tiny, tenant="mira"
    )
    assert made.held_out
    assert Artifact.decode(made.data).manifest.metrics["objective"] == "by rule"
    with pytest.raises(CompileError, match="left to measure"):
        LCC({**DENSE, "phrases": 0, "cloze": 1}).compile(Document(TEXT), tiny, tenant="mira")


def test_a_budget_holds_over_interruptions(
    tiny: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memkit.compilers.distillation.checkpoint.SAVE_INTERVAL", 0.0)
    options = {**DENSE, "kv_steps": 100_000, "budget": 6.0, "patience": 10_000}
    file, steps = tmp_path / "unfinished.pt", list[int]()

    def stop(step: Step) -> None:
        if step.phase == "train":
            steps.append(step.step)
            if time.perf_counter() - started > 4:
                raise KeyboardInterrupt

    started = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        LCC(options).compile(Document(TEXT), tiny, tenant="mira", progress=stop, unfinished=file)
    assert Checkpoint(file, "").seconds == 0  # another compilation's
    again = time.perf_counter()
    made = LCC(options).compile(Document(TEXT), tiny, tenant="mira", unfinished=file)
    assert time.perf_counter() - again < 4.5  # not all of the budget again
    assert made.steps >= steps[-1]
