"""What the router finds, what it learns, and its calibrations."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from router_kit import (
    WHERE,
    Scripted,
    calibrated,
    remember,
)

from memkit.bank import Bank
from memkit.bank.vector_index import Chunk, TenantIndex
from memkit.document import Span
from memkit.errors import ConfigError
from memkit.router import calibrate, calibration
from memkit.router.classifier import Head
from memkit.router.embedders import LexicalEmbedder
from memkit.router.passages import merge_spans
from memkit.router.retrieval import retrieve


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[Bank]:
    with Bank(tmp_path / "bank") as made:
        yield made


@pytest.fixture
def engine() -> Scripted:
    return Scripted()


# --- search ------------------------------------------------------------------------------------
def test_a_long_memory_does_not_crowd_out_the_others(bank: Bank) -> None:
    remember(bank, " ".join(f"Mira lives in Town{i}, said {i} people here today." for i in range(400)), None)
    short = [remember(bank, f"Mira lives in {name}. It was cold.", None).id for name in ("Rome", "Oslo")]
    found = retrieve(bank, "mira", WHERE, LexicalEmbedder(), memories=3)
    assert len(found) == 3
    assert set(short) <= {c.memory.id for c in found}


def test_words_that_others_lack_decide(bank: Bank) -> None:
    names = [f"Name{i}" for i in range(12)]
    ids = [remember(bank, f"{n} has a favourite colour. {n} lives in a town.", None).id for n in names]
    for name, id in zip(names, ids, strict=True):
        assert (
            retrieve(bank, "mira", f"What is {name}'s favourite colour?", LexicalEmbedder())[0].memory.id
            == id
        )


def test_the_approximate_index_finds_the_same(bank: Bank) -> None:
    rng = np.random.default_rng(0)
    centres = np.repeat(rng.standard_normal((100, 32)), 4, axis=0)
    rows = (centres + 0.1 * rng.standard_normal((400, 32))).astype(np.float32)
    chunks = [Chunk(f"{i // 4:016x}", i % 4, i, i + 1) for i in range(400)]
    exact, inverted = TenantIndex(0, chunks, rows), TenantIndex(0, chunks, rows, exact_below=0)
    assert (exact.exact, inverted.exact) == (True, False)
    for i in range(0, 400, 40):
        query = rows[i : i + 1]
        assert inverted.best(query, 3)[0] == exact.best(query, 3)[0]
        assert inverted.within(query, chunks[i].memory_id, 9) == exact.within(query, chunks[i].memory_id, 9)
        assert len({hit.memory_id for hit in inverted.best(query, 5)}) == len(inverted.best(query, 5))
    assert inverted.nbytes > rows.nbytes


def test_spans_of_a_text_do_not_overlap() -> None:
    assert merge_spans([Span(5, 9), Span(0, 6), Span(20, 30)]) == (Span(0, 9), Span(20, 30))


# --- scorer and calibration --------------------------------------------------------------------
def test_a_scorer_learns_and_keeps_as_json() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((200, 3))
    labels = [bool(row[0] > 0.2) for row in rows]
    head = Head.fit(["a", "b", "c"], rows.tolist(), labels)
    right = [(head.probability(row) >= 0.5) == label for row, label in zip(rows, labels, strict=True)]
    assert np.mean(right) > 0.9
    again = Head.parse(json.loads(json.dumps(dataclasses.asdict(head))))
    assert again.probability(rows[0]) == head.probability(rows[0])
    with pytest.raises(ConfigError, match="calibrate again"):
        head.probability([1.0])
    assert Head.fit(["a"], [], []).probability([3.0]) == 0.5
    assert Head.fit(["a"], [[1.0], [2.0]], [True, True]).probability([9.0]) > 0.6
    for wrong in ({"scale": (0.0, 1, 1)}, {"bias": float("nan")}, {"mean": (0.0,)}):
        with pytest.raises(ConfigError):
            dataclasses.replace(head, **wrong)


def test_cuts_and_areas_by_hand() -> None:
    values, labels = [0.1, 0.2, 0.6, 0.7], [False, False, True, True]
    assert calibrate.best_threshold(values, labels, 9.0) == pytest.approx(0.4)
    assert calibrate.best_threshold([0.1, 0.5, 0.4, 0.9], [False, False, True, True], 9.0, kept=1.0) < 0.4
    assert calibrate.best_threshold(values, [True] * 4, 9.0) == 9.0
    assert calibrate.balanced_accuracy([True, False, False], [True, True, False]) == 0.75
    assert calibrate.auroc(values, labels) == 1.0
    assert calibrate.auroc([0.5, 0.5], [True, False]) == 0.5
    assert calibrate.auroc(values, [True] * 4) is None


def test_a_calibration_is_found_again_and_no_other(bank: Bank) -> None:
    made, folder = calibrated(), calibration.folder_of(bank.path)
    path = calibration.save(made, folder)
    assert calibration.find(bank.path, "f", "lcc", "lexical:2048") == made
    assert calibration.find(bank.path, "f", "lora", "lexical:2048") is None
    assert calibration.compilers(bank.path, "f", "lexical:2048") == ["lcc"]
    assert calibration.file_name("f", "../../x", "a/b").count("/") == 0
    plain: dict[str, Any] = json.loads(path.read_text())
    wrong: Any
    for wrong in (
        {**plain, "more": 1},
        {**plain, "format": 9},
        {**plain, "heads": {}},
        {**plain, "compiler": "x"},
        [],
    ):
        path.write_text(json.dumps(wrong))
        with pytest.raises(ConfigError, match="calibrat"):
            calibration.find(bank.path, "f", "lcc", "lexical:2048")
