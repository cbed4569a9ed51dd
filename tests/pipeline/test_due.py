"""When a memory's artifact is out of date: another compiler, other options, another model."""

from __future__ import annotations

from pathlib import Path

import pytest

from memkit import Memory
from memkit.engine.transformers.engine import TransformersEngine
from memkit.models.loading import LoadedModel
from memkit.pipeline.admission import AdmissionConfig
from memkit.pipeline.due import up_to_date, why_due
from memkit.testing import TEXT, TINY_OPTIONS

FEW = AdmissionConfig(questions=2, general=2, answer_tokens=2, pieces=1)


def opened(folder: Path, engine: TransformersEngine, compiler: str = "auto", **options: object) -> Memory:
    return Memory(folder, engine=engine, compiler=compiler, options=options, admission=FEW)


@pytest.fixture
def made(tmp_path: Path, other_model_folder: Path) -> tuple[Path, TransformersEngine, str]:
    """A bank with a memory that ``compact`` compiled at 4x, its engine and the memory's id."""
    engine = TransformersEngine(str(other_model_folder))
    with opened(tmp_path, engine, "compact", ratio=4) as memory:
        info = memory.remember(TEXT, wait=True, always=True)
    return tmp_path, engine, info.id


@pytest.mark.parametrize(
    ("compiler", "options", "reason"),
    [
        ("auto", {}, ""),
        ("compact", {}, ""),
        ("compact", {"ratio": 4.0}, ""),
        ("compact", {"questions": None, "refine": None}, ""),
        ("compact", {"refine": 20}, ""),  # as it chose itself
        ("compact", {"ratio": 2}, "compiled with ratio 4, not 2"),
        ("compact", {"stored": "int8"}, "compiled with stored model, not int8"),
        ("lcc", {}, "compiled by compact"),
    ],
)
def test_why_an_artifact_is_out_of_date(
    made: tuple[Path, TransformersEngine, str], compiler: str, options: dict[str, object], reason: str
) -> None:
    folder, engine, memory_id = made
    with opened(folder, engine, compiler, **options) as memory:
        info = memory.get(memory_id)
        assert why_due(memory.context, info) == reason
        assert up_to_date(memory.context, info) == (not reason)
        pinned = memory.bank.versions.pin(memory.owner, memory_id)
        assert why_due(memory.context, pinned) == ""
        assert up_to_date(memory.context, pinned)


@pytest.mark.parametrize(
    ("compiler", "options"),
    [
        ("compact", {"ratio": 2}),
        ("lcc", TINY_OPTIONS),
        ("lora", {"steps": 2, "self_study": 4}),
        ("meanpool", {"form": "kv"}),
    ],
)
def test_what_is_made_with_options_is_not_out_of_date(
    tmp_path: Path, tiny: LoadedModel, compiler: str, options: dict[str, object]
) -> None:
    with opened(tmp_path, TransformersEngine(tiny), compiler, **options) as memory:
        info = memory.remember(TEXT, wait=True, always=True)
        assert why_due(memory.context, info) == ""
        assert up_to_date(memory.context, info)


def test_remembering_with_other_options_compiles_again(made: tuple[Path, TransformersEngine, str]) -> None:
    folder, engine, _ = made
    with opened(folder, engine, "compact", ratio=2) as memory:
        again = memory.remember(TEXT, wait=True, always=True)
        assert again.version == 2
        assert memory.remember(TEXT, wait=True, always=True).version == 2
        memory.remember(TEXT, always=True)
        assert not memory.queue.list(memory.whose.group)  # nothing is left to do
