"""Which compiler ``auto`` stands for, what waits for the night, and when training takes over."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from memkit import registry
from memkit.bank import MemoryInfo
from memkit.compiler_choice import Choice, choose, outdated
from memkit.config import Config
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import ConfigError
from memkit.memory import Memory
from memkit.models.loading import LoadedModel, load
from memkit.pipeline import admission, compile
from memkit.pipeline.admission import AdmissionConfig, Thresholds, judge
from memkit.pipeline.compile import attempt_id
from memkit.recompile.executors import InProcess
from memkit.recompile.plan import Plan, Scope, examine, plan
from memkit.recompile.run import recompile
from memkit.recompile.worker import open_memory
from memkit.testing import TEXT, TINY, build_tiny_compressor

FEW = AdmissionConfig(questions=4, pieces=1)
LONG = TEXT * 4  # worth compiling
NOW = Scope()


class Elsewhere:
    """An engine that is not the embedded one."""

    model = fingerprint = "elsewhere"
    attached = generate = stream = score = None

    def for_tenant(self, tenant: str) -> Elsewhere:
        return self


@pytest.fixture
def other(other_model_folder: Path) -> LoadedModel:
    """A model without a compressor."""
    return load(str(other_model_folder))


@pytest.fixture
def capped(other: LoadedModel) -> LoadedModel:
    """A model that cannot have compact memories."""
    other.model.config.attn_logit_softcapping = 50.0
    return other


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training takes a second."""
    made = registry.compiler

    def tiny_compiler(name: str, options: Mapping[str, Any] | None = None) -> Any:
        return made(name, options or TINY[name])

    monkeypatch.setattr(registry, "compiler", tiny_compiler)


@pytest.fixture
def memory(tmp_path: Path, other: LoadedModel) -> Iterator[Memory]:
    with Memory(tmp_path / "bank", engine=TransformersEngine(other), admission=FEW) as made:
        yield made


def asked(memory: Memory, info: MemoryInfo, times: int) -> None:
    memory.bank.count_asked(memory.owner, {info.id: times})


def due(made: Plan) -> list[tuple[str, str]]:
    return [(task.compiler, task.reason) for task in made.tasks]


# --- the choice ------------------------------------------------------------------------------
def test_a_compressor_comes_first(tiny: LoadedModel) -> None:
    assert choose("auto", tiny, True) == Choice("meanpool", "auto")
    assert choose("lora", tiny, True) == Choice("lora")


def test_else_compact_if_the_model_supports_it(other: LoadedModel) -> None:
    assert choose("auto", other, True) == Choice(
        "compact", "auto; meanpool: no compressor was trained for this model"
    )


def test_else_what_trains(capped: LoadedModel) -> None:
    choice = choose("auto", capped, True)
    assert choice.name == "lcc"
    assert "compact: LlamaForCausalLM caps its attention scores" in choice.reason


def test_nothing_that_the_engine_refuses(other_model_folder: Path, tmp_path: Path) -> None:
    other = load(str(other_model_folder), checkpoints=tmp_path)
    choice = choose("auto", other, False)
    assert choice.name == "lcc"
    assert "compact: only the embedded engine reads its artifacts" in choice.reason
    build_tiny_compressor(other, tmp_path, decoder="full")
    assert choose("auto", other, True).name == "meanpool"
    refused = choose("auto", other, False)
    assert refused.name == "lcc"
    assert "meanpool: only the embedded engine runs the compressor's own decoder" in refused.reason


def test_a_compressor_without_a_decoder_of_its_own_serves_every_engine(
    other_model_folder: Path, tmp_path: Path
) -> None:
    other = load(str(other_model_folder), checkpoints=tmp_path)
    build_tiny_compressor(other, tmp_path, decoder="frozen")
    assert choose("auto", other, False).name == "meanpool"


def test_auto_keeps_the_artifacts_that_work(other: LoadedModel) -> None:
    for name in ("compact", "lcc", "lora", "magic"):
        assert not outdated("auto", name, other, True)
    assert "no compressor" in outdated("auto", "meanpool", other, True)
    assert "only the embedded engine" in outdated("auto", "compact", other, False)
    assert outdated("lcc", "compact", other, True) == "compiled by compact"


class Reader:
    """A compiler of another package."""

    trains = False


class Trainer:
    """One that says nothing."""


def test_a_compiler_of_another_package_trains_unless_it_says_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    points = {name: EntryPoint(name, f"{__name__}:{name}", registry.GROUP) for name in ("Reader", "Trainer")}
    monkeypatch.setattr(registry, "_installed", lambda group: points if group == registry.GROUP else {})
    trains = {name: registry.trains(name) for name in registry.compilers()}
    assert trains == {
        "Reader": False,
        "Trainer": True,
        "compact": False,
        "lcc": True,
        "lora": True,
        "meanpool": False,
    }
    with pytest.raises(ConfigError, match="unknown compiler"):
        registry.trains("nonsense")


# --- settings --------------------------------------------------------------------------------
def test_it_is_the_default_and_takes_no_options(tmp_path: Path) -> None:
    assert Config(tmp_path).compiler == "auto"
    with pytest.raises(ConfigError, match=r"ratio belongs to one compiler: name it with --compiler"):
        Memory(tmp_path, options={"ratio": 8})
    with Memory(tmp_path, compiler="lcc", options={"ratio": 8}):
        pass


def test_on_the_command_line_too(cli: Callable[..., Any]) -> None:
    failed = cli("remember", "-", "--title", "t", "--compiler", "auto", "--ratio", "8", stdin=b"x")
    assert failed.code == 2
    assert "name it with --compiler" in failed.err


# --- at once ---------------------------------------------------------------------------------
def test_what_only_reads_compiles_in_the_background(memory: Memory) -> None:
    info = memory.remember(LONG)
    memory.wait()
    found = memory.get(info.id)
    assert (found.status, found.compiler) == ("compiled", "compact")
    assert memory.ask("Where does Mira live?", gate="rule").route == "latent"


def test_what_trains_waits_for_the_night_or_for_wait(
    tmp_path: Path, capped: LoadedModel, quick: None
) -> None:
    with Memory(tmp_path / "bank", engine=TransformersEngine(capped), admission=FEW) as memory:
        info = memory.remember(LONG)
        memory.wait()
        assert memory.get(info.id).status == "text"
        (job,) = memory.queue.list(memory.whose.group)
        (outcome,) = job.outcomes
        assert outcome.status == "left"
        assert "waits for the nightly run, as lcc trains" in outcome.reason
        assert due(plan(memory, NOW)) == [("lcc", "not compiled yet")]
        assert memory.remember(LONG, wait=True).compiler == "lcc"
        assert not plan(memory, NOW).tasks


def test_a_named_compiler_that_trains_compiles_in_the_background(
    tmp_path: Path, other: LoadedModel, quick: None
) -> None:
    engine = TransformersEngine(other)
    with Memory(tmp_path / "bank", engine=engine, compiler="lcc", admission=FEW) as memory:
        info = memory.remember(LONG)
        memory.wait()
        assert memory.get(info.id).compiler == "lcc"


# --- at night --------------------------------------------------------------------------------
def test_training_takes_over_once_it_pays(memory: Memory, other: LoadedModel, quick: None) -> None:
    info = memory.remember(LONG, wait=True)
    advice, _ = examine(memory, info, LONG, NOW.advisor, memory.context.clock(), "lcc")
    assert advice.break_even is not None
    enough = math.ceil(advice.break_even)
    assert due(plan(memory, NOW)) == []
    asked(memory, info, enough - 1)
    assert due(plan(memory, NOW)) == []
    asked(memory, info, 1)
    made = plan(memory, NOW)
    assert due(made) == [("lcc", f"asked {enough:,} times: training pays off from {enough:,} on")]
    memory.bank.versions.pin(memory.owner, info.id)
    assert due(plan(memory, NOW)) == []
    memory.bank.versions.pin(memory.owner, info.id, False)
    report = recompile(made, NOW, InProcess(memory))
    assert [outcome.status for outcome in report.outcomes] == ["compiled"]
    assert (memory.get(info.id).compiler, memory.get(info.id).version) == ("lcc", 2)
    with memory.bank.artifact(memory.owner, info.id) as artifact:  # what was compact is its start
        assert (artifact.manifest.kind, artifact.manifest.config["kv_init"]) == ("ragged_kv", "compact")
        assert artifact.manifest.config["ratio"] == 4.0
    assert due(plan(memory, NOW)) == []
    with Memory(memory.bank, model=other, engine=Elsewhere()) as served:  # type: ignore[arg-type]
        (task,) = plan(served, NOW).tasks
    assert (task.compiler, task.reason) == (
        "lcc",
        "only the embedded engine reads heads of different lengths",
    )
    memory.bank.versions.rollback(memory.owner, info.id, 1)
    assert due(plan(memory, NOW)) == []  # the user's choice


def test_training_that_failed_is_not_repeated(memory: Memory) -> None:
    info = memory.remember(LONG, wait=True)
    asked(memory, info, 10**9)
    source = memory.bank.source(memory.owner, info.id)
    attempt = attempt_id(memory.context.compiled_by("lcc"), source)
    memory.bank.fail(memory.owner, info.id, "refused", attempt)
    assert due(plan(memory, NOW)) == []
    assert [task.compiler for task in plan(memory, Scope(retry=True)).tasks] == ["lcc"]


def test_new_entries_are_read_at_night(memory: Memory) -> None:
    info = memory.remember([{"role": "user", "content": LONG}])
    assert due(plan(memory, NOW)) == [("compact", "not compiled yet")]
    asked(memory, info, 10**9)
    assert due(plan(memory, NOW)) == [("lcc", "not compiled yet")]


def test_another_engine_makes_compact_artifacts_due(memory: Memory, other: LoadedModel) -> None:
    memory.remember(LONG, wait=True)
    with Memory(memory.bank, model=other, engine=Elsewhere()) as served:  # type: ignore[arg-type]
        (task,) = plan(served, NOW).tasks
    assert task.compiler == "lcc"
    assert task.reason == "compiled by compact: only the embedded engine reads its artifacts"


def test_the_nightly_run_knows_what_answers_by_day(tmp_path: Path, other_model_folder: Path) -> None:
    urls = {"engine": "sglang", "sglang_urls": ("http://127.0.0.1:1",)}
    for settings, name in (({}, "compact"), (urls, "lcc")):
        config = Config(tmp_path / "bank", str(other_model_folder), **settings)  # type: ignore[arg-type]
        with open_memory(config) as memory:
            assert memory.chosen_compiler.name == name


# --- where one looks -------------------------------------------------------------------------
def test_the_command_says_which_and_why(
    cli: Callable[..., Any], document: Path, other_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMKIT_MODEL", str(other_model_folder))
    monkeypatch.delenv("MEMKIT_COMPILER")
    why = "auto; meanpool: no compressor was trained for this model"
    made = cli("remember", document, "--wait", "--always", "--json")
    assert made.json["memory"]["compiler"] == "compact"
    memory_id = made.json["memory"]["id"]
    told = cli("explain", memory_id, "--json").json
    assert (told["compiler"], told["due"]) == ({"name": "compact", "reason": why}, "")
    assert f"compact ({why})" in cli("explain", memory_id).out
    checks = {check["name"]: check["detail"] for check in cli("doctor", "--json").json["checks"]}
    assert checks["compiler in use"] == f"compact ({why})"


# --- the self-test ---------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("compiler", "calibrated", "most"), [("compact", False, 4), ("compact", True, 12), ("lcc", False, 12)]
)
def test_a_self_test_that_decides_nothing_is_short_unless_the_compiler_trains(
    memory: Memory, monkeypatch: pytest.MonkeyPatch, quick: None, compiler: str, calibrated: bool, most: int
) -> None:
    seen = list[AdmissionConfig]()
    lenient = Thresholds(0.0, 1e6, 1e6, "a test")

    def judged(engine: Any, document: Any, artifact: Any, config: AdmissionConfig, progress: Any) -> Any:
        seen.append(config)
        return judge(engine, document, artifact, FEW)

    monkeypatch.setattr(compile, "judge", judged)
    monkeypatch.setattr(admission, "thresholds", lambda fingerprint, name: lenient if calibrated else None)
    asking = AdmissionConfig(questions=12)
    settings = replace(memory.context.compiling, compiler=compiler, admission=asking)
    memory.context = replace(memory.context, compiling=settings)
    memory.remember(LONG, wait=True)
    assert [config.questions for config in seen] == [most]


def test_verifying_repeats_the_same_self_test(memory: Memory) -> None:
    memory.context = replace(
        memory.context, compiling=replace(memory.context.compiling, admission=AdmissionConfig(questions=8))
    )
    report = memory.verify(memory.remember(LONG, wait=True).id)
    assert report.measured.questions <= 4
    assert report.reproduced
