"""Interrupted compilations go on, and end as if nothing had happened."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from memkit.bank import Bank, MemoryInfo
from memkit.compilers.base import Step
from memkit.compilers.distillation import checkpoint
from memkit.compilers.distillation.checkpoint import Checkpoint
from memkit.compilers.lcc.compiler import LCC
from memkit.document import Document
from memkit.errors import NotFoundError
from memkit.memory import Memory
from memkit.models.loading import LoadedModel
from memkit.pipeline.admission import AdmissionConfig
from memkit.testing import TEXT, TINY_OPTIONS

OPTIONS = {**TINY_OPTIONS, "steps": 5, "kv_steps": 4, "self_study": 8, "accumulate": 2}


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SAVE_INTERVAL", 0.0)


class _Stop:
    """Interrupts at one step of one phase, and counts the optimizer steps that were seen."""

    def __init__(self, phase: str = "", step: int = 0) -> None:
        self.at, self.seen = (phase, step), list[tuple[str, int]]()

    def __call__(self, step: Step) -> None:
        if step.phase in ("questions", "answers"):
            return
        self.seen.append((step.phase, step.step))
        if (step.phase, step.step) == self.at:
            raise KeyboardInterrupt


def _compile(base: LoadedModel, progress: _Stop, unfinished: Path | None, **options: object) -> bytes:
    compiler = LCC({**OPTIONS, **options})
    return compiler.compile(
        Document(TEXT), base, tenant="mira", progress=progress, unfinished=unfinished
    ).data


@pytest.mark.parametrize(("phase", "step"), [("lora", 3), ("lora", 5), ("kv", 1), ("kv", 3)])
def test_a_resumed_compilation_gives_the_same_bytes(
    tiny: LoadedModel, tmp_path: Path, phase: str, step: int
) -> None:
    whole = _compile(tiny, _Stop(), None)
    file = tmp_path / "work" / "unfinished"
    with pytest.raises(KeyboardInterrupt):
        _compile(tiny, _Stop(phase, step), file)
    assert file.exists()
    rest = _Stop()
    assert _compile(tiny, rest, file) == whole
    assert 0 < len(rest.seen) < 9


def test_another_compilations_file_is_not_used(tiny: LoadedModel, tmp_path: Path) -> None:
    file = tmp_path / "unfinished"
    with pytest.raises(KeyboardInterrupt):
        _compile(tiny, _Stop("kv", 2), file)
    other = _Stop()
    assert _compile(tiny, other, file, seed=1) == _compile(tiny, _Stop(), None, seed=1)
    assert len(other.seen) == 9


@pytest.mark.parametrize("content", [b"", b"rubbish", b"PK\x03\x04 no archive"])
def test_a_damaged_file_costs_only_the_time(tiny: LoadedModel, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "unfinished"
    file.write_bytes(content)
    assert _compile(tiny, _Stop(), file) == _compile(tiny, _Stop(), None)


def test_nothing_but_tensors_is_loaded(tmp_path: Path) -> None:
    file, touched = tmp_path / "unfinished", tmp_path / "touched"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.touch, (touched,)

    torch.save({"key": "k", "format": checkpoint.FORMAT, "phases": {"lora": Trap()}}, file)
    assert Checkpoint(file, "k")._phases == {}
    assert not touched.exists()


def test_a_memory_goes_on_where_it_was_interrupted(tmp_path: Path, tiny_model_folder: Path) -> None:
    admission = AdmissionConfig(questions=2, answer_tokens=2)
    settings: dict[str, Any] = {"compiler": "lcc", "options": OPTIONS, "admission": admission}
    with Memory(tmp_path / "bank", str(tiny_model_folder), "mira", **settings) as memory:
        with pytest.raises(KeyboardInterrupt):
            memory.remember(TEXT, wait=True, progress=_Stop("kv", 2))
        (info,) = memory.list_memories()
        file = memory.bank.checkpoint_path("mira", info.id)
        assert file.exists()
        rest = _Stop()
        assert memory.remember(TEXT, wait=True, progress=rest).status == "compiled"
        assert len(rest.seen) < 9
        assert not file.exists()


def test_forgetting_removes_what_was_unfinished(tmp_path: Path, tiny_model_folder: Path) -> None:
    with Memory(tmp_path / "bank", str(tiny_model_folder), "mira", compiler="lcc", options=OPTIONS) as memory:
        with pytest.raises(KeyboardInterrupt):
            memory.remember(TEXT, wait=True, progress=_Stop("kv", 2))
        (info,) = memory.list_memories()
        file = memory.bank.checkpoint_path("mira", info.id)
        with pytest.raises(NotFoundError):
            memory.bank.checkpoint_path("jalo", info.id)
        memory.forget(info.id)
        assert not file.exists()


def test_repair_removes_unfinished_files_that_nobody_goes_on_with(
    tmp_path: Path, put: Callable[..., MemoryInfo]
) -> None:
    with Bank(tmp_path) as bank:
        recent, old = (bank.checkpoint_path("mira", put(bank, "mira", text).id) for text in ("one", "two"))
        stray = recent.with_name("of no memory")
        recent.parent.mkdir(parents=True)
        for file in (recent, old, stray):
            file.write_bytes(b"x")
        os.utime(old, (0, 0))
        bank.repair()
        assert [file.exists() for file in (recent, old, stray)] == [True, False, False]
