"""The admission gate: self-tests, thresholds, refusal, verification and replay."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from memkit.artifact.format import Artifact
from memkit.compilers.base import Step
from memkit.compilers.lcc.compiler import LCC
from memkit.document import Document
from memkit.engine.base import Handle, Request
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import CompileError, ConfigError, VerificationError
from memkit.evals import calibrate_admission
from memkit.memory import Memory
from memkit.pipeline import admission
from memkit.pipeline.admission import (
    AdmissionConfig,
    SelfTest,
    SelfTestResult,
    Thresholds,
    judge,
    parse_thresholds,
)
from memkit.prompts import is_held_out
from memkit.testing import TEXT, TINY_LCC, TINY_OPTIONS

QUICK = AdmissionConfig(questions=6, answer_tokens=6)
MEASURED = SelfTestResult(10, 0.9, 2, 1.0, 0.1, 0.2, 0.01)
STRICT = Thresholds(1.0, -1e9, -1e9, "a test")  # nothing passes


@pytest.fixture
def memory(tmp_path: Path, tiny_model_folder: Path) -> Iterator[Memory]:
    with Memory(tmp_path / "bank", str(tiny_model_folder), "mira", **TINY_LCC, admission=QUICK) as made:
        yield made


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "thresholds", lambda fingerprint, compiler: STRICT)


class _Perfect:
    """An engine on which every artifact is the full context itself."""

    def __init__(self, engine: TransformersEngine, text: str) -> None:
        self._engine, self._text = engine, text

    def __getattr__(self, name: str) -> object:
        return getattr(self._engine, name)

    def _read(self, request: Request) -> Request:
        return replace(request, handle=None, context=self._text) if request.handle else request

    def generate(self, requests: list[Request]) -> object:
        return self._engine.generate([self._read(r) for r in requests])

    def likelihood(self, requests: list[Request], answers: list[str]) -> list[float]:
        return self._engine.likelihood([self._read(r) for r in requests], answers)


def test_a_memory_as_good_as_the_text_loses_nothing(engine: TransformersEngine) -> None:
    perfect = _Perfect(engine, TEXT)
    measured = SelfTest.of(perfect, Document(TEXT), QUICK).measure(Handle("x", 1))  # type: ignore[arg-type]
    assert measured.questions >= 1
    assert measured.fidelity == 1
    assert measured.answer_nats == pytest.approx(0, abs=1e-4)
    assert measured.reconstruction_nats == pytest.approx(0, abs=1e-4)


def test_a_memory_of_another_text_loses_much(engine: TransformersEngine) -> None:
    other = _Perfect(engine, "Nobody remembered the quiet lamp. " * 4)
    measured = SelfTest.of(engine, Document(TEXT), QUICK)
    measured._engine = other  # type: ignore[assignment]
    found = measured.measure(Handle("x", 1))
    assert found.answer_nats > 0.1
    assert found.fidelity < 1


def test_a_document_longer_than_the_window_is_tested_in_pieces(engine: TransformersEngine) -> None:
    long = Document(" ".join(f"Person{i} lives in Town{i}. {TEXT}" for i in range(60)))
    assert engine.count_tokens(long.text) > engine.window
    config = AdmissionConfig(questions=6, answer_tokens=4, pieces=3)
    test = SelfTest.of(engine, long, config)
    assert 1 <= len(test._about) <= 6
    assert len(test._repeated) == 1


def test_a_self_test_is_the_same_again(engine: TransformersEngine) -> None:
    made = LCC(TINY_OPTIONS).compile(Document(TEXT), engine.base, tenant="t")
    artifact = Artifact.decode(made.data)
    steps = list[Step]()
    verdicts = [judge(engine, Document(TEXT), artifact, QUICK, steps.append) for _ in range(2)]
    assert [(step.phase, step.step, step.steps) for step in steps] == [
        ("self-test", n, 4) for n in range(4)
    ] * 2
    assert verdicts[0] == verdicts[1]
    assert verdicts[0].thresholds is None
    assert verdicts[0].refusal == ""
    assert artifact.id not in engine._attached


def test_questions_of_the_held_out_kind_are_not_trained_on(engine: TransformersEngine) -> None:
    from memkit.compilers.distillation.flops import FlopMeter
    from memkit.compilers.distillation.teacher import Teacher
    from memkit.compilers.lcc.config import LCCConfig
    from memkit.compilers.lcc.study import distillation_loss
    from memkit.engine.transformers import kv_cache

    base = engine.base
    header = kv_cache.prefill(base.model, list(base.chat.header))
    teacher = Teacher(base, engine.encode(TEXT), header)
    loss = distillation_loss(LCCConfig(self_study=48, agnostic=0), teacher, FlopMeter(base.model))
    (study,) = (p for p in loss.parts if p.pairs[0][0].kind == "self_study")
    assert study.pairs
    assert not any(example.held_out for example, _ in study.pairs)
    assert all(example.held_out for example, _ in loss.held_out)
    kinds = {is_held_out(f"Where does {n} live?") for n in "abcdefghijklmnopqrstuvwxyz"}
    assert kinds == {True, False}
    assert is_held_out("Where  does Mira live?") == is_held_out("where does mira live?")


@pytest.mark.parametrize(
    ("measured", "reason"),
    [
        (MEASURED, ""),
        (replace(MEASURED, fidelity=0.4), "40%"),
        (replace(MEASURED, answer_nats=3.0), "3.00 nats"),
        (replace(MEASURED, drift_nats=float("nan")), "general answers"),
        (replace(MEASURED, questions=0, fidelity=0.0), ""),  # no question could be written: nats decide
    ],
)
def test_thresholds_refuse_what_is_below_them(measured: SelfTestResult, reason: str) -> None:
    refusal = Thresholds(0.5, 1.0, 0.1, "a test").refusal(measured)
    assert reason in refusal
    assert bool(reason) == bool(refusal)


@pytest.mark.parametrize("row", [[], {}, {"min_fidelity": 2}, {**vars(STRICT), "min_fidelity": 2}])
def test_malformed_thresholds(row: object) -> None:
    with pytest.raises(ConfigError):
        parse_thresholds(row)


def test_shipped_thresholds_are_sound() -> None:
    table = json.loads(Path(admission.__file__).with_name("thresholds.json").read_text())
    for rows in table.values():
        for row in rows.values():
            parse_thresholds(row)


def test_verification_is_in_the_artifact(memory: Memory) -> None:
    info = memory.remember(TEXT, wait=True)
    with memory.bank.artifact("mira", info.id) as artifact:
        assert artifact.manifest.verification["thresholds"] is None
        assert artifact.manifest.verification["questions"]
    found = memory.verify(info.id)
    assert (found.calibrated, found.reproduced, found.replayed) == (False, True, False)


def test_a_refused_artifact_is_not_published(memory: Memory, strict: None) -> None:
    with pytest.raises(VerificationError, match="not published"):
        memory.remember(TEXT, wait=True)
    (info,) = memory.list_memories()
    assert info.artifact_id is None
    assert "self-test" in str(info.error)
    answer = memory.ask("Where does Mira live?")
    assert answer.route == "text"
    assert "self-test" in answer.trace.reason


def test_a_refused_new_version_leaves_the_old_one(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    info = memory.remember(TEXT, wait=True)
    monkeypatch.setattr(admission, "thresholds", lambda fingerprint, compiler: STRICT)
    with pytest.raises(VerificationError):
        memory.compile(info.id)
    assert memory.get(info.id).artifact_id == info.artifact_id


def test_verify_applies_todays_thresholds(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    info = memory.remember(TEXT, wait=True)
    monkeypatch.setattr(admission, "thresholds", lambda fingerprint, compiler: STRICT)
    with pytest.raises(VerificationError):
        memory.verify(info.id)


def test_replay_gives_the_same_bytes(memory: Memory) -> None:
    info = memory.remember(TEXT, wait=True)
    assert memory.verify(info.id, replay=True).replayed


def test_replay_notices_another_artifact(memory: Memory) -> None:
    info = memory.remember(TEXT, wait=True)
    with memory.bank.artifact("mira", info.id) as artifact:
        tensors = {name: artifact.tensor(name).clone() for name in ("keys", "values")}
        tensors["keys"][0, 0, 0, 0] += 1
        axes = {spec.name: spec.axes for spec in artifact.manifest.tensors}
        forged = Artifact.encode(artifact.manifest, {n: (t, axes[n]) for n, t in tensors.items()})
    memory.bank.publish("mira", info.id, forged)
    assert memory.verify(info.id).artifact_id == Artifact.decode(forged).id
    with pytest.raises(VerificationError, match="other bytes"):
        memory.verify(info.id, replay=True)


def test_replay_of_another_compiler_version(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    info = memory.remember(TEXT, wait=True)
    monkeypatch.setattr(LCC, "version", "2")
    with pytest.raises(VerificationError, match="compile it again"):
        memory.verify(info.id, replay=True)


def test_cli_verify_and_replay(cli: Callable[..., object], compiled: str) -> None:
    done = cli("verify", compiled, "--replay", "--json")
    assert done.code == 0, done.err  # type: ignore[attr-defined]
    (row,) = done.json["results"]  # type: ignore[attr-defined]
    assert row["result"] == "ok"
    assert "to the byte" in row["detail"]


def test_cartridge_needs_no_lora_steps(engine: TransformersEngine) -> None:
    made = LCC({**TINY_OPTIONS, "preset": "cartridge", "kv_steps": 2, "steps": 0}).compile(
        Document(TEXT), engine.base, tenant="t"
    )
    assert {phase for phase, _, _ in made.curve} == {"kv"}
    with pytest.raises(ConfigError, match="nothing would be trained"):
        LCC({"steps": 0, "kv_steps": 0})


def _report(fidelities: list[tuple[float, float]]) -> dict[str, object]:
    records = [
        {"record": str(i), "retention": kept, "admission": replace(MEASURED, fidelity=fidelity).plain()}
        for i, (fidelity, kept) in enumerate(fidelities)
    ]
    return {"rows": [{"method": "lcc:pure", "ratio": 16, "records": records}], "fingerprint": "f"}


def test_calibration_separates_good_from_bad(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = [(0.8 + i / 100, 0.9) for i in range(12)], [(0.1 + i / 100, 0.2) for i in range(11)]
    file, out = tmp_path / "report.json", tmp_path / "thresholds.json"
    file.write_text(json.dumps(_report(good + bad)))
    calibrate_admission.main([str(file), "--out", str(out)])
    shown = json.loads(capsys.readouterr().out)
    assert (shown["good"], shown["bad"], shown["balanced_accuracy"]) == (12, 11, 1.0)
    assert (shown["good_refused"], shown["bad_admitted"]) == (0, 0)
    assert shown["auc"]["fidelity"] == 1.0
    limits = parse_thresholds(json.loads(out.read_text())["f"]["lcc"])
    assert 0.2 < limits.min_fidelity < 0.8
    with pytest.raises(ConfigError, match="at least ten"):
        calibrate_admission.calibrate(list(calibrate_admission.trials([_report(good)], "lcc", 0.5)), 0.5)


def test_compile_errors_are_not_verification_errors(memory: Memory) -> None:
    with pytest.raises(CompileError):
        memory.remember(TEXT * 200, wait=True)
