"""A text is forgotten, and asked about afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from memkit.admission import AdmissionConfig
from memkit.bank import Said
from memkit.document import Span
from memkit.engine.transformers import TransformersEngine
from memkit.errors import ConfigError, NotFoundError
from memkit.forgetting import forget_and_check
from memkit.memory import Memory
from memkit.testing import TEXT, TINY_OPTIONS

SECRET = "The password of the safe is Krumbeltorn."


@pytest.fixture
def memory(tmp_path: Path, engine: TransformersEngine) -> Iterator[Memory]:
    few = AdmissionConfig(questions=4, pieces=1)
    with Memory(tmp_path / "bank", user="mira", engine=engine, options=TINY_OPTIONS, admission=few) as made:
        yield made


def anywhere(folder: Path, text: str) -> list[Path]:
    """Files below a folder that hold a text."""
    return [p for p in folder.rglob("*") if p.is_file() and text.encode() in p.read_bytes()]


@pytest.fixture
def told(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What questions were made about; a tiny model writes none of use, so that some are given here."""
    about = list[str]()

    def pairs(memory: Memory, text: str, count: int) -> list[tuple[str, str]]:
        about.append(text)
        return [("What is the password?", "Krumbeltorn"), ("Who left?", "Jalo")] if text else []

    monkeypatch.setattr("memkit.forgetting._told", pairs)
    return about


def test_a_text_of_a_document_is_asked_about(memory: Memory, told: list[str], tmp_path: Path) -> None:
    info = memory.remember(f"{TEXT} {SECRET} Jalo left.", title="on Krumbeltorn", compile=False)
    done = forget_and_check(memory, info.id, matching="Krumbeltorn")
    assert told == [f"{SECRET} "]  # the sentence that it stood in, and no other
    assert [(check.question, check.answered) for check in done.checks] == [("What is the password?", False)]
    (receipt,) = done.receipts
    assert memory.show(str(receipt.left)).title == "on"
    assert anywhere(tmp_path, "Krumbeltorn") == []


def test_a_text_of_a_title_asks_nothing(memory: Memory, told: list[str]) -> None:
    info = memory.remember(TEXT, title="on Krumbeltorn", compile=False)
    assert forget_and_check(memory, info.id, matching="Krumbeltorn").checks == ()
    assert told == [""]


@pytest.mark.parametrize(
    ("said", "key"),
    [(Said(SECRET), None), (Said("Jalo left.", "Krumbeltorn"), None), (Said("Jalo left."), "Krumbeltorn 1")],
)
def test_entries_that_go_are_asked_about(
    memory: Memory, told: list[str], said: Said, key: str | None
) -> None:
    memory.remember([Said("Mira lives in Lima.")], memory="profile")
    info = memory.remember([said], memory="profile", key=key)
    done = forget_and_check(memory, info.id, matching="Krumbeltorn")
    assert [line.partition(" ")[2].rstrip() for line in told] == [f"{said.speaker}: {said.text}"]
    assert [check.question for check in done.checks] == ["What is the password?", "Who left?"]
    assert [entry.text for entry in memory.bank.logs.entries("mira", info.id)] == ["Mira lives in Lima."]


def test_what_goes_altogether_is_asked_about_whole(memory: Memory, told: list[str]) -> None:
    info = memory.remember([Said("Mira lives in Lima.")], memory="on Krumbeltorn")
    done = forget_and_check(memory, info.id, matching="Krumbeltorn")
    assert (done.receipts[0].left, len(done.checks)) == (None, 2)
    assert "Mira lives in Lima." in told[0]


def test_a_text_to_check_is_of_one_memory(memory: Memory) -> None:
    info = memory.remember(TEXT, compile=False)
    with pytest.raises(ConfigError, match="name its id"):
        forget_and_check(memory, matching="Mira")
    with pytest.raises(ConfigError, match="no spans"):
        forget_and_check(memory, info.id, [Span(0, 4)], matching="Mira")
    with pytest.raises(NotFoundError, match="does not hold"):
        forget_and_check(memory, info.id, matching="Krumbeltorn")
    assert memory.bank.source("mira", info.id).text == TEXT
