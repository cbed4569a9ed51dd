"""Context-agnostic queries from files, and the frozen model's answers to them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from memkit.compilers.distillation import teacher_cache as module
from memkit.compilers.distillation.agnostic_queries import MAX_QUERY, QUERIES, queries_for, read_queries
from memkit.compilers.distillation.teacher_cache import teacher_responses
from memkit.compilers.lcc.compiler import LCC
from memkit.document import Document
from memkit.errors import ConfigError
from memkit.models.loading import LoadedModel
from memkit.testing import TEXT, TINY_OPTIONS

ASKED = ("What is up?", "Name a fruit.", "What is up?")


def lines(tmp_path: Path, *rows: str) -> Path:
    file = tmp_path / "queries.jsonl"
    file.write_text("\n".join(rows))
    return file


def test_the_shipped_queries_are_distinct() -> None:
    assert len(set(QUERIES)) == len(QUERIES) >= 48


def test_every_shape_of_a_query_file(tmp_path: Path) -> None:
    rows = [
        {"q": "one"},
        {"query": "two"},
        {"question": " three "},
        {"instruction": "Sort.", "input": "b a"},
        {"instruction": "four", "input": "", "output": "x"},
    ]
    file = lines(tmp_path, *(json.dumps(row) for row in rows), "")
    assert read_queries(file) == ["one", "two", "three", "Sort.\n\nb a", "four"]


@pytest.mark.parametrize(
    "bad",
    [
        "{",
        "3",
        "[]",
        '{"q": 3}',
        '{"q": "  "}',
        '{"instruction": "x", "input": 3}',
        json.dumps({"q": "x" * (MAX_QUERY + 1)}),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_kept(
    tmp_path: Path, tiny: LoadedModel, cache: Path, bad: str
) -> None:
    file = lines(tmp_path, '{"q": "never asked before"}', bad)
    files = sorted(cache.rglob("*.json"))
    contents = [path.read_bytes() for path in files]
    with pytest.raises(ConfigError, match="line 2"):
        LCC({**TINY_OPTIONS, "queries": str(file)}).compile(Document(TEXT), tiny, tenant="mira")
    assert sorted(cache.rglob("*.json")) == files
    assert [path.read_bytes() for path in files] == contents


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe"])
def test_a_file_without_queries_is_refused(tmp_path: Path, tiny: LoadedModel, content: bytes | None) -> None:
    file = tmp_path / "queries.jsonl"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"queries\.jsonl"):
        queries_for(tiny, str(file))


def test_answers_are_written_once_per_model(
    tmp_path: Path, tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = teacher_responses(tiny, ASKED, 4, tmp_path)
    assert len(first) == 3
    assert first[0] == first[2]
    monkeypatch.setattr(module, "_answer", lambda *_: pytest.fail("asked again"))
    assert teacher_responses(tiny, ASKED, 4, tmp_path) == first


@pytest.mark.parametrize("damage", [b"", b"[]", b'{"x": 3}', b'{"x": []}', b'{"x": [99999999]}', b"\xff"])
def test_a_damaged_cache_only_costs_time(tmp_path: Path, tiny: LoadedModel, damage: bytes) -> None:
    first = teacher_responses(tiny, ASKED, 4, tmp_path)
    (file,) = tmp_path.rglob("*.json")
    file.write_bytes(damage)
    assert teacher_responses(tiny, ASKED, 4, tmp_path) == first


def test_a_cache_that_cannot_be_written_only_costs_time(tmp_path: Path, tiny: LoadedModel) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    assert teacher_responses(tiny, ASKED, 4, blocked) == teacher_responses(tiny, ASKED, 4, tmp_path / "other")


def test_mean_squared_error_trains_too(tiny: LoadedModel) -> None:
    made = LCC({**TINY_OPTIONS, "loss": "mse"}).compile(Document(TEXT), tiny, tenant="mira")
    assert made.steps == 4
