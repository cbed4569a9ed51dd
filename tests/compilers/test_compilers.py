"""The contract of `memkit.compilers.base.Compiler`, kept by every registered compiler."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch

from memkit import registry
from memkit.artifact.format import Artifact, Manifest, Provenance
from memkit.compilers.base import Compiled, Compiler, Progress, Step, configure, silent
from memkit.compilers.distillation import checkpoint
from memkit.compilers.lcc.compiler import encode
from memkit.document import Document
from memkit.engine.base import Request
from memkit.engine.transformers import kv_cache
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import ArtifactError, CompileError, ConfigError, FingerprintError
from memkit.memory import Memory
from memkit.models.loading import LoadedModel
from memkit.testing import TEXT, TINY

pytestmark = pytest.mark.wheel


@dataclass(frozen=True)
class HeadConfig:
    """Configuration of `Head`."""

    tokens: int = 8  # kept of the document

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise ValueError(f"tokens must be at least 1, got {self.tokens}")


class Head:
    """Somebody else's compiler: keeps the KV of a document's first tokens."""

    name = "head"
    version = "1"

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        self.config = configure(HeadConfig, {}, options)

    def compile(
        self,
        document: Document,
        base: LoadedModel,
        *,
        tenant: str,
        progress: Progress = silent,
        unfinished: Path | None = None,
    ) -> Compiled:
        started, header = time.perf_counter(), list(base.chat.header)
        kept = base.tokenizer.encode(document.text, add_special_tokens=False)[: self.config.tokens]
        if len(header) + len(kept) > base.window:
            raise CompileError(f"{self.config.tokens} tokens do not fit the model; ask for fewer")
        memory = kv_cache.prefill(base.model, [*header, *kept]).slice(len(header))
        progress(Step("read", 1, 1, 0.0, time.perf_counter() - started))
        manifest = Manifest(
            kind="kv",
            compiler=self.name,
            compiler_version=self.version,
            config={"tokens": self.config.tokens},
            seed=0,
            fingerprint=base.fingerprint,
            tokens=len(kept),
            tenant=tenant,
            sources=(Provenance(document.digest, 0, len(document.text)),),
            metrics={"context_tokens": len(kept)},
        )
        seconds = time.perf_counter() - started
        return Compiled(encode(manifest, memory), len(kept), seconds, 0.0, 1, ())


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> None:
    """`Head`, as if its package were installed."""
    point = EntryPoint("head", f"{__name__}:Head", registry.GROUP)
    monkeypatch.setattr(EntryPoint, "load", lambda self: Head if self == point else _load(self))
    monkeypatch.setattr(
        registry, "_installed", lambda group: {"head": point} if group == registry.GROUP else {}
    )


_load = EntryPoint.load
NAMES = [*registry.compilers(), "head"]
OPTIONS: dict[str, dict[str, Any]] = {**TINY, "head": {}}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("head")
def test_contract(name: str, tiny: LoadedModel) -> None:
    made = registry.compiler(name, OPTIONS[name])
    assert isinstance(made, Compiler)
    assert made.name == name
    before = {key: value.clone() for key, value in tiny.model.state_dict().items()}
    steps = list[Step]()
    document = Document(TEXT)
    compiled = made.compile(document, tiny, tenant="mira", progress=steps.append)
    artifact = Artifact.decode(compiled.data)
    manifest = artifact.manifest
    assert (manifest.compiler, manifest.compiler_version) == (made.name, made.version)
    assert (manifest.tenant, manifest.fingerprint) == ("mira", tiny.fingerprint)
    assert [source.document_digest for source in manifest.sources] == [document.digest]
    assert compiled.tokens == manifest.tokens < len(tiny.tokenizer.encode(TEXT))
    assert compiled.seconds > 0
    assert steps
    assert all(1 <= step.step <= step.steps for step in steps)
    after = tiny.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    again = registry.compiler(name, OPTIONS[name]).compile(document, tiny, tenant="mira")
    assert Artifact.decode(again.data).id == artifact.id
    other = made.compile(document, tiny, tenant="jalo")
    assert Artifact.decode(other.data).manifest.tenant == "jalo"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "head"])  # which tells nothing beforehand
@pytest.mark.parametrize("times", [1, 4])
def test_costs_are_told_beforehand(name: str, times: int, tiny: LoadedModel) -> None:
    made, text = registry.compiler(name, OPTIONS[name]), " ".join([TEXT] * times)
    compiled = made.compile(Document(text), tiny, tenant="mira")
    told = made.estimate(len(tiny.tokenizer.encode(text, add_special_tokens=False)), tiny)  # type: ignore[attr-defined] # optional
    assert compiled.flops / 3 < told.flops < compiled.flops * 3
    tensors = sum(spec.nbytes for spec in Artifact.decode(compiled.data).manifest.tensors)
    assert tensors / 1.5 < told.nbytes < tensors * 1.5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("head")
def test_options_are_checked_as_the_compiler_checks_them(name: str) -> None:
    for wrong in ({"nonsense": 1}, {"preset": "nonsense"}, {"seed": 1, "preset": []}):
        said = []
        for door in (registry.compiler, registry.check):
            with pytest.raises(ConfigError) as caught:
                door(name, wrong)
            said.append(str(caught.value))
        assert said[0] == said[1]
    registry.check(name, OPTIONS[name])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("head")
def test_unknown_options_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="nonsense"):
        registry.compiler(name, {"nonsense": 1})
    with pytest.raises(ConfigError, match="preset"):
        registry.compiler(name, {"preset": "nonsense"})


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("head")
def test_an_artifact_comes_again_from_the_settings_that_it_names(name: str, tiny: LoadedModel) -> None:
    first = registry.compiler(name, OPTIONS[name]).compile(Document(TEXT), tiny, tenant="mira")
    artifact = Artifact.decode(first.data)
    again = registry.compiler(name, artifact.manifest.config).compile(Document(TEXT), tiny, tenant="mira")
    assert again.data == first.data


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("head")
def test_an_interrupted_compilation_ends_in_the_same_bytes(
    name: str, tiny: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "SAVE_INTERVAL", 0.0)
    made, file = registry.compiler(name, OPTIONS[name]), tmp_path / "unfinished"
    whole = made.compile(Document(TEXT), tiny, tenant="mira").data

    def stop(step: Step) -> None:
        if step.step == step.steps:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made.compile(Document(TEXT), tiny, tenant="mira", progress=stop, unfinished=file)
    assert made.compile(Document(TEXT), tiny, tenant="mira", unfinished=file).data == whole


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.usefixtures("head")
def test_an_artifact_serves_its_own_model_undamaged_and_no_other(
    name: str, engine: TransformersEngine, other_model_folder: Path
) -> None:
    data = registry.compiler(name, OPTIONS[name]).compile(Document(TEXT), engine.base, tenant="mira").data
    artifact = Artifact.decode(data)
    handle = engine.attach(artifact)
    (completion,) = engine.generate([Request("Where does Mira live?", handle=handle, max_tokens=4)])
    assert completion.tokens <= 4
    engine.detach(handle)
    with pytest.raises(FingerprintError):
        TransformersEngine(str(other_model_folder)).attach(artifact)
    damaged = bytearray(data)
    damaged[-1] ^= 1  # the last tensor's last byte
    with pytest.raises(ArtifactError):
        Artifact.decode(damaged)


@pytest.mark.usefixtures("head")
def test_somebody_elses_compiler_serves_a_memory(engine: TransformersEngine, tmp_path: Path) -> None:
    with Memory(tmp_path, engine=engine, compiler="head", options={"tokens": 4}) as memory:
        info = memory.remember(TEXT, wait=True)
        assert (info.compiler, info.status) == ("head", "compiled")
        assert memory.ask("Where does Mira live?").route == "latent"
    with pytest.raises(ConfigError, match="at least 1"):
        Memory(tmp_path, compiler="head", options={"tokens": 0})
