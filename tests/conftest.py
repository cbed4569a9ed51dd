"""Fixtures: tiny models built from a configuration, no network."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from memkit.artifact.format import Artifact, Manifest
from memkit.bank import Bank, MemoryInfo
from memkit.cli import main
from memkit.document import Document, Span
from memkit.engine.sglang.plugin.server_args import ServerFlags
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import ConfigError
from memkit.models.loading import LoadedModel, load
from memkit.testing import TEXT, TINY_OPTIONS, build_tiny_compressor, build_tiny_model

if TYPE_CHECKING:
    from sglang_kit import Served


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache that all tests share, and nobody else, also for models that are loaded once for all tests."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MEMKIT_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("tiny"), seed=0)


@pytest.fixture(scope="session")
def other_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same architecture and tokenizer with other weights."""
    return build_tiny_model(tmp_path_factory.mktemp("other"), seed=1)


@pytest.fixture(scope="session")
def checkpoint_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(autouse=True)
def checkpoints(checkpoint_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store of compressors that all tests share, and nobody else."""
    monkeypatch.setenv("MEMKIT_CHECKPOINTS", str(checkpoint_store))


@pytest.fixture(scope="session")
def tiny(tiny_model_folder: Path, checkpoint_store: Path) -> LoadedModel:
    """The tiny model, for which there is a compressor."""
    base = load(str(tiny_model_folder))
    build_tiny_compressor(base, checkpoint_store)
    return base


@pytest.fixture(scope="session")
def environment() -> None:
    """An environment with SGLang, or the test is skipped."""
    from memkit.bench import sglang_process

    try:
        sglang_process.environment()
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def sglang(
    tiny: LoadedModel, environment: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    """The tiny model on one real SGLang server, which all tests share."""
    from sglang_kit import serving

    folder, flags = tmp_path_factory.mktemp("sglang"), ServerFlags(lora_rank=8, loaded=4, batched=2)
    # The likeliest tokens are all of them: entropies are exact.
    with serving(folder, tiny, flags, top=len(tiny.tokenizer)) as served:
        yield served


@pytest.fixture(scope="session")
def engine(tiny: LoadedModel) -> TransformersEngine:
    return TransformersEngine(tiny)


@dataclass(frozen=True)
class Done:
    """What a command line left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def _put(bank: Bank, tenant: str, text: str, index: int = 0) -> MemoryInfo:
    vector = np.eye(8, dtype=np.float32)[index % 8]
    return bank.remember(tenant, Document(text, "a title"), [Span(0, len(text))], vector[None])


def _text_artifact(tenant: str, n: int = 0) -> bytes:
    return Artifact.encode(Manifest("text", "none", "1", {"n": n}, 0, "f", 0, tenant, ()), {})


@pytest.fixture
def put() -> Callable[..., MemoryInfo]:
    """Remembers a text under one chunk, ``put(bank, tenant, text, index)``: no embedder is needed."""
    return _put


@pytest.fixture
def text_artifact() -> Callable[..., bytes]:
    """Bytes of a small artifact, ``text_artifact(tenant, n)``: another one for every ``n``."""
    return _text_artifact


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "bank"


@pytest.fixture
def cli(
    home: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Done]:
    """Runs a command line with a bank of its own and the tiny model; nobody sits at its terminal.

    The compiler is lcc, whose options are `TINY_OPTIONS`, unless a test names another.
    """
    monkeypatch.setenv("MEMKIT_HOME", str(home))
    monkeypatch.setenv("MEMKIT_MODEL", str(tiny_model_folder))
    monkeypatch.setenv("MEMKIT_COMPILER", "lcc")
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home.parent / "settings"))

    def run(*words: object, stdin: bytes = b"") -> Done:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = main([str(word) for word in words])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return Done(code, captured.out, captured.err)

    return run


@pytest.fixture
def document(tmp_path: Path) -> Path:
    file = tmp_path / "people.txt"
    file.write_text(TEXT)
    return file


@pytest.fixture
def compiled(cli: Callable[..., Done], document: Path) -> str:
    """The id of a compiled memory."""
    options = [word for key, value in TINY_OPTIONS.items() for word in ("--option", f"{key}={value}")]
    return str(cli("remember", document, "--wait", "--always", "--json", *options).json["memory"]["id"])
