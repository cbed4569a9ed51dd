"""The compressor's curriculum: settings, stages, resumption, rewards, reinforcement learning, commands."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from memkit.compilers.meanpool import checkpoint, curriculum, train
from memkit.compilers.meanpool.config import RLConfig, stage_config
from memkit.compilers.meanpool.curriculum import Plan
from memkit.compilers.meanpool.datasets import open_source
from memkit.compilers.meanpool.distributed import ProcessGroup
from memkit.compilers.meanpool.evaluate import quotes
from memkit.compilers.meanpool.rewards import F1, JudgeReward, contains, exact, extracted, reward_function
from memkit.compilers.meanpool.rl import Rollouts
from memkit.compilers.meanpool.training import cosine
from memkit.engine.transformers import decoder_checkpoint
from memkit.errors import ConfigError, MemkitError
from memkit.evals import meanpool_study
from memkit.judge import Judge, JudgeConfig
from memkit.models.loading import LoadedModel
from memkit.testing import TEXT

FEW: dict[str, Any] = {"batch": 2, "sequence": 64, "held_out": 2, "evaluate_every": 2, "full_lr": 1e-3}


# --- settings ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("stage", "options"),
    [
        ("cpt1", {"nonsense": 1}),
        ("cpt1", {"batch": 0}),
        ("cpt1", {"mixture": {"poetry": 1.0}}),
        ("cpt1", {"mixture": {}}),
        ("cpt2", {"bridges": (4, 0)}),
        ("sft", {"optimizer": "sgd"}),
        ("sft", {"full_lr": 0.0, "lora_lr": 0.0}),
        ("rl", {"kl": 0.1}),
        ("rl", {"rollouts": 1, "reward": "exact"}),
        ("rl", {"reward": "judge"}),
        ("rl", {"mini_batch": 999, "reward": "exact"}),
        ("rl", {"overlong_buffer": 999, "reward": "exact"}),
    ],
)
def test_wrong_settings_are_refused(stage: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        stage_config(stage, "paper", options)


def test_tables_9_and_10() -> None:
    cpt1, cpt2, sft = (asdict(stage_config(s, "paper")) for s in ("cpt1", "cpt2", "sft"))
    table = {
        "full_lr": (5e-5, 5e-5, 2e-5),
        "projection_lr": (3e-4, 2e-4, 0.0),
        "batch": (256, 128, 64),
        "warmup_ratio": (0.04, 0.03, 0.03),
        "min_lr_ratio": (0.1, 0.02, 0.1),
        "sequence": (2048, 2048, 4096),
        "lora_lr": (1e-4, 1e-4, 1e-4),
        "lora_decay": (0.0, 0.0, 0.0),
        "full_decay": (0.1, 0.1, 0.1),
        "max_grad_norm": (1.0, 1.0, 1.0),
        "precision": ("bf16", "bf16", "bf16"),
        "samples": (220_000, 400_000, 144_000),
        "standard_share": (0.3, 0.4, 0.0),
    }
    assert {name: (cpt1[name], cpt2[name], sft[name]) for name in table} == table
    rl = asdict(stage_config("rl", "paper", {"reward": "exact"}))
    expected = {
        "lr": 1e-6,
        "warmup_steps": 10,
        "batch": 128,
        "mini_batch": 64,
        "clip_low": 0.2,
        "clip_high": 0.28,
        "kl": 0.0,
        "entropy": 0.0,
        "dynamic_sampling_after": 25,
        "overlong_buffer": 100,
        "overlong_factor": 0.5,
        "rollouts": 16,
        "temperature": 1.0,
        "max_prompt": 1024,
        "max_response": 600,
        "prompts": 60_000,
    }
    assert {name: rl[name] for name in expected} == expected


def test_cosine() -> None:
    found = [cosine(step, 110, 10, 0.1) for step in (0, 4, 9, 10, 60, 110)]
    assert found == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.55, 0.1])


# --- stages -----------------------------------------------------------------------------------
def plan(stage: Any, store: Path, **options: Any) -> Plan:
    shape = {"full_every": 2, "rank": 2} if stage == "cpt1" else {}
    common: dict[str, Any] = {**FEW, "samples": 8, "facts": (1, 2), "format": "chat"}
    if stage == "rl":
        common = {
            "prompts": 8,
            "batch": 4,
            "mini_batch": 2,
            "rollouts": 3,
            "reward": "contains",
            "max_response": 4,
        }
        common |= {"overlong_buffer": 2, "sequence": 64, "facts": (1, 2), "held_out": 1, "questions": 2}
        common |= {"max_prompt": 256, "lr": 1e-3, "evaluate_every": 2}
    return Plan(stage, ("generated",), "paper", 16, {**common, **options}, shape, out=store, evaluated=1)


@pytest.fixture(scope="module")
def trained_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.mark.slow
def test_the_curriculum_from_end_to_end(tiny: LoadedModel, trained_store: Path) -> None:
    steps = list[str]()
    for stage in ("cpt1", "cpt2", "sft", "rl"):
        before = {name: t.clone() for name, t in tiny.model.state_dict().items()}
        few = {"prompts": 4} if stage == "rl" else {"samples": 4}
        made = curriculum.run(plan(stage, trained_store, **few), tiny, lambda step: steps.append(step.phase))
        assert made.checkpoint.about["stage"] == stage
        assert all(torch.equal(before[n], t) for n, t in tiny.model.state_dict().items())
        evaluation = made.entry["evaluation"]
        assert evaluation["effective_ratio"] == pytest.approx(16 / 3, abs=1e-3)
        assert 0 <= evaluation["reconstruction"]["rouge1"] <= 1
        assert evaluation["qa"]["n"] > 0
    assert set(steps) == {"cpt1", "cpt2", "sft", "rl"}
    history = made.checkpoint.about["history"]
    assert [entry["stage"] for entry in history] == ["cpt1", "cpt2", "sft", "rl"]
    sft = next(c for c in decoder_checkpoint.checkpoints(trained_store) if c.about["stage"] == "sft")
    after, earlier = made.checkpoint.tensors(), sft.tensors()
    for name in earlier:  # only the decoder learned in rl
        assert torch.equal(after[name], earlier[name]), name
    assert any(name.startswith("decoder.") for name in after)


def test_sft_leaves_the_projection_alone(tiny: LoadedModel, tmp_path: Path) -> None:
    for stage in ("cpt1", "cpt2"):
        curriculum.run(plan(stage, tmp_path, samples=2), tiny)
    compressor, _ = curriculum.begin(plan("sft", tmp_path), tiny)
    before = compressor.head.projection.weight.clone()
    moved = {name: p.clone() for name, p in compressor.encoder.full.items()}
    where = tmp_path / "sft"
    started = curriculum._run(plan("sft", tmp_path), compressor, where, lambda step: None, ProcessGroup())
    started.step()
    assert torch.equal(before, compressor.head.projection.weight)
    assert any(not torch.equal(moved[name], p) for name, p in compressor.encoder.full.items())


@pytest.mark.parametrize("stage", ["cpt1", "rl"])
def test_an_interrupted_stage_ends_in_the_same_weights(
    stage: str, tiny: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curriculum, "evaluate", lambda plan, compressor: {})

    def store(name: str) -> Path:
        if stage == "rl":
            compressor, _ = curriculum.begin(plan("cpt1", tmp_path), tiny)
            checkpoint.save(compressor, tmp_path / name / "sft", "sft", "tiny", [])
        return tmp_path / name

    options: dict[str, Any] = {"precision": "fp32"}
    whole = curriculum.run(plan(stage, store("whole"), **options), tiny).checkpoint

    def stop(step: Any) -> None:
        if step.step == 1:
            raise KeyboardInterrupt

    parts = store("parts")
    with pytest.raises(KeyboardInterrupt):
        curriculum.run(plan(stage, parts, **options), tiny, stop)
    done = list[int]()
    again = curriculum.run(
        plan(stage, parts, **options), tiny, lambda step: done.append(step.step)
    ).checkpoint
    assert done[0] == 2
    assert again.about["sha256"] == whole.about["sha256"]


def test_a_run_of_other_settings_is_not_gone_on_with(
    tiny: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curriculum, "evaluate", lambda plan, compressor: {})
    curriculum.run(plan("cpt1", tmp_path, samples=2), tiny)
    with pytest.raises(ConfigError, match="other settings"):
        curriculum.run(plan("cpt1", tmp_path, samples=4), tiny)
    (state,) = tmp_path.glob(f"*/{'state.pt'}")
    state.write_bytes(b"nonsense")
    with pytest.raises(ConfigError, match="cannot read"):
        curriculum.run(plan("cpt1", tmp_path, samples=2), tiny)


def test_a_stage_needs_the_one_before_it(tiny: LoadedModel, tmp_path: Path) -> None:
    for stage, before in (("cpt2", "cpt1"), ("sft", "cpt2"), ("rl", "sft")):
        with pytest.raises(ConfigError, match=f"--stage {before} first"):
            curriculum.run(plan(stage, tmp_path), tiny)
    with pytest.raises(ConfigError, match="first stage"):
        Plan("sft", ("generated",), model_options={"pooling": "attention"})


class Scripted(train.Run):
    """Measures what it is told, and marks its weights with the number of the step."""

    measured: list[float]

    def step(self) -> dict[str, tuple[float, float]]:
        self._mark(self.state.step)
        return {}

    def measure(self) -> tuple[float, dict[str, float]]:
        return self.measured.pop(0), {}

    def report(self) -> None:
        pass

    @torch.no_grad()
    def _mark(self, number: int) -> None:
        self.compressor.head.projection.weight.fill_(float(number))


@pytest.mark.parametrize(
    ("first", "measured", "ended"),
    [
        (False, [3.0, 1.0, 2.0, 2.0, 0.5], (4, 2, 1.0)),
        (True, [0.5, 3.0, 1.0], (2, 0, 0.5)),  # nothing is better than what it began with
        (True, [3.0, 1.0, 2.0, 2.0], (3, 1, 1.0)),
    ],
)
def test_training_stops_early_and_keeps_the_best(
    tiny: LoadedModel, tmp_path: Path, first: bool, measured: list[float], ended: tuple[int, int, float]
) -> None:
    config = stage_config("cpt1", "paper", {"evaluate_every": 1, "patience": 2, "batch": 1, "samples": 99})
    compressor, _ = curriculum.begin(plan("cpt1", tmp_path), tiny)
    before = float(compressor.head.projection.weight.detach().mean())
    scripted = Scripted(compressor, [], config, tmp_path / "run", "scripted")
    scripted.from_the_start, scripted.measured = first, measured
    state = scripted.run()
    assert (state.step, state.best_step, state.best) == ended
    kept = float(compressor.head.projection.weight.detach().mean())
    assert kept == (state.best_step - 1 if state.best_step else before)


# --- rewards ----------------------------------------------------------------------------------
def test_rule_rewards() -> None:
    assert exact("", "q", ["Keldor"], "keldor.") == 1.0
    assert exact("", "q", ["Keldor"], "in Keldor") == 0.0
    assert contains("", "q", ["Keldor"], "She lives in Keldor now") == 1.0
    assert F1(0.5)("", "q", ["old Keldor"], "Keldor") == 1.0
    assert F1(0.9)("", "q", ["old Keldor"], "Keldor") == 0.0
    assert extracted(r"So \boxed{a} and \boxed{Keldor}.") == "Keldor"
    assert exact("", "q", ["Keldor"], r"From the text: \boxed{Keldor}") == 1.0
    config = stage_config("rl", "paper", {"reward": "judge", "judge": "http://localhost:1/v1,grader"})
    assert isinstance(config, RLConfig)
    made = reward_function(config)
    assert isinstance(made, JudgeReward)
    assert made.judge.config.model == "grader"


class FlakyJudge(Judge):
    """Fails or talks nonsense as often as it is told."""

    def __init__(self, replies: list[str]) -> None:
        super().__init__(JudgeConfig("http://localhost:1/v1", "grader"))
        self.replies = replies

    def _complete(self, prompt: str) -> str:
        reply = self.replies.pop(0)
        if reply == "timeout":
            raise MemkitError("the judge cannot be asked: timed out")
        return reply


def test_a_judge_that_fails_is_asked_again_then_skipped_with_a_count() -> None:
    reward = JudgeReward(FlakyJudge(["timeout", "nonsense", "Score: 5"]), retries=2)
    assert reward("c", "q", ["a"], "a") == 1.0
    assert reward.failures == 0
    reward = JudgeReward(FlakyJudge(["timeout", "nonsense", "timeout", "Score: 1"]), retries=2)
    assert reward("c", "q", ["a"], "a") is None
    assert (reward.failures, "timed out" in reward.last_error) == (1, True)
    assert reward("c", "q", ["a"], "b") == 0.0


def test_rollouts_that_were_not_judged_teach_nothing(tiny: LoadedModel, tmp_path: Path) -> None:
    compressor, _ = curriculum.begin(plan("cpt1", tmp_path), tiny)
    compressor.separate_decoder(0)
    config = stage_config("rl", "paper", dict(plan("rl", tmp_path).options))
    assert isinstance(config, RLConfig)
    draw = open_source(["generated"], "train", 0, (1, 2))
    rollouts = Rollouts(compressor, config, draw, lambda *given: None)
    groups = rollouts.groups(rollouts.prompts(random.Random(0), 2, 1.0), 0)
    assert [len(g.answers) for g in groups] == [3, 3]
    assert not any(bool(g.valid.any()) or g.informative for g in groups)


def test_expansion_is_a_quotation_beyond_the_answer() -> None:
    source = "Mira was born in Keldor and she lives in Tovin with her dog."
    assert quotes("It says: Mira was born in Keldor, so Keldor.", source, ["Keldor"]) == 1.0
    assert quotes("Keldor", source, ["Keldor"]) == 0.0
    gold = "born in Keldor and she"
    assert quotes(gold, source, [gold]) == 0.0


# --- commands ---------------------------------------------------------------------------------
def test_the_command_trains_and_draws(cli: Callable[..., Any], tmp_path: Path) -> None:
    options = {**FEW, "samples": 2, "facts": [1, 1], "format": "chat", "full_every": 2, "rank": 2}
    words = [w for key, value in options.items() for w in ("--option", f"{key}={json.dumps(value)}")]
    common = ("train-compressor", "--data", "generated", "--out", tmp_path, "--texts", "1")
    done = cli(*common, "--stage", "cpt1", "--plot", tmp_path / "a.svg", "--json", *words)
    assert done.code == 0, done.err
    assert done.json["evaluation"]["nominal_ratio"] == 16.0
    assert (tmp_path / "a.svg").read_text().startswith("<?xml")
    again = cli(*common, "--stage", "sft")
    assert again.code == 2
    assert "--stage cpt2 first" in again.err
    assert cli(*common, "--stage", "cpt3").code == 2


def test_the_study_has_its_rows(cli: Callable[..., Any], tiny: LoadedModel, tmp_path: Path) -> None:
    records = tmp_path / "r.jsonl"
    asked = [{"q": "Where does Mira live?", "answers": ["Keldor"]}]
    records.write_text(json.dumps({"context": TEXT, "questions": asked}))
    done = cli("eval", records, "--study", "meanpool", "--json", tmp_path / "s.json")
    assert done.code == 0, done.err
    rows = {row["row"]: row for row in json.loads((tmp_path / "s.json").read_text())["rows"]}
    assert 0 <= rows["cpt"]["rouge1"] <= 1
    assert "retention" in rows["sft"]
    assert {"nominal_ratio", "effective_ratio", "checkpoint"} <= set(rows["sft"])


def test_lengths_and_the_grid_of_needles(tiny: LoadedModel) -> None:
    compressor, _ = curriculum.begin(plan("cpt1", Path("unused")), tiny)
    lengths = meanpool_study.by_length(compressor, (2, 6), 2, 0)
    assert [(row["facts"], row["n"]) for row in lengths] == [(2, 4), (6, 12)]
    assert lengths[0]["tokens"] < lengths[1]["tokens"]
    assert all(0 <= row[name] <= 1 for row in lengths for name in ("contains", "full", "none"))
    grid = meanpool_study.needles(compressor, (30, 60), (0.0, 1.0), 1, 0)
    assert [(row["length"], row["depth"]) for row in grid] == [(30, 0.0), (30, 1.0), (60, 0.0), (60, 1.0)]
    assert all(0 <= row["right"] <= 1 and row["n"] == 1 for row in grid)
    table = {"model": "tiny", "ratio": 16.0, "source": "s", "seed": 0, "machine": "m", "date": "d"}
    table |= {"rows": [{"row": "rl", "retention": 0.5}], "needles": grid}
    assert "<td>0.500</td>" in meanpool_study.needle_page(table)
    assert meanpool_study.needle_page(table).count("<svg") == 1
    assert meanpool_study.needle_page(table | {"lengths": lengths}).count("<svg") == 2
