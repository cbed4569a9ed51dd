"""Forgetting a text wherever a memory holds it, and all that a user has; asking afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from memkit.bank import Bank, Message, Policy
from memkit.bank.owners import Owner
from memkit.document import Document, Span
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import ConfigError, NotFoundError
from memkit.memory import Memory
from memkit.pipeline.admission import AdmissionConfig
from memkit.router.indexing import index
from memkit.testing import TEXT, TINY_LCC

SECRET = "The password of the safe is Krumbeltorn."
NOW = datetime.now(UTC)
Cli = Callable[..., Any]


@pytest.fixture
def memory(tmp_path: Path, engine: TransformersEngine) -> Iterator[Memory]:
    few = AdmissionConfig(questions=4, pieces=1)
    with Memory(tmp_path / "bank", user="mira", engine=engine, **TINY_LCC, admission=few) as made:
        yield made


def anywhere(folder: Path, text: str) -> list[Path]:
    """Files below a folder that hold a text."""
    return [p for p in folder.rglob("*") if p.is_file() and text.encode() in p.read_bytes()]


def span_of(text: str, part: str) -> Span:
    start = text.index(part)
    return Span(start, start + len(part))


# --- a text, wherever it stands ----------------------------------------------------------------
def test_a_text_is_forgotten_in_titles_too(memory: Memory, tmp_path: Path) -> None:
    text = f"{TEXT} {SECRET}"
    info = memory.remember(text, title="About Krumbeltorn and Mira", wait=True)
    (receipt,) = memory.forget_matching(info.id, "Krumbeltorn", compile=False)
    assert receipt.left is not None
    assert receipt.artifacts_removed == 1
    left = memory.get(receipt.left)
    assert left.title == "About  and Mira"
    assert "Krumbeltorn" not in memory.bank.source("mira", left.id).text
    assert anywhere(tmp_path, "Krumbeltorn") == []


def test_a_text_in_the_title_alone(memory: Memory, tmp_path: Path) -> None:
    info = memory.remember(TEXT, title="notes on Krumbeltorn", wait=True)
    (receipt,) = memory.forget_matching(info.id, "Krumbeltorn", compile=False)
    assert (receipt.left, receipt.artifacts_removed) == (info.id, 1)  # the artifact named it, too
    assert (memory.get(info.id).title, memory.get(info.id).version) == ("notes on", 0)
    assert anywhere(tmp_path, "Krumbeltorn") == []


@pytest.mark.parametrize(
    "said",
    [
        Message("The password is Krumbeltorn."),
        Message("I am here.", "Krumbeltorn"),
        Message("The password is Kru\u00admbeltorn."),
        Message("The password is Ｋrumbeltorn."),
    ],
)
def test_a_text_is_forgotten_in_entries_speakers_and_keys(memory: Memory, said: Message) -> None:
    memory.remember([Message("Mira lives in Lima.")], memory="profile")
    memory.remember([Message("Jalo left.")], memory="profile", key="krumbel Krumbeltorn 1")
    info = memory.remember([said], memory="profile")
    (receipt,) = memory.forget_matching(info.id, "Krumbeltorn", compile=False)
    assert receipt.left == info.id
    assert [entry.text for entry in memory.bank.logs.entries("mira", info.id)] == ["Mira lives in Lima."]


def test_lines_of_one_entry_are_forgotten(memory: Memory) -> None:
    memory.remember([Message("Mira lives in Lima.")], memory="profile")
    info = memory.remember("My notes:\nSimsem lives in Lasces.\nShe has a horse.", memory="profile")
    memory.forget_matching(info.id, "Simsem lives in Lasces.\nShe has a horse.", compile=False)
    assert [entry.text for entry in memory.bank.logs.entries("mira", info.id)] == ["Mira lives in Lima."]


def test_a_part_of_an_item_is_all_of_it(memory: Memory) -> None:
    document = Document("Simsem lives in Lasces. Rolan keeps bees.")
    embedder, items = memory.router.embedder, memory.bank.items
    items.put("mira", "k", "{}", document, lambda d: index(d, embedder), embedder=embedder.name)
    (info,) = memory.list_memories()
    (receipt,) = memory.forget(info.id, spans=[Span(0, 7)])
    assert (receipt.left, memory.list_memories(), memory.bank.items.all("mira")) == (None, [], [])


def test_what_is_named_so_goes_altogether(memory: Memory) -> None:
    info = memory.remember([Message("Mira lives in Lima.")], memory="on Krumbeltorn")
    (receipt,) = memory.forget_matching(info.id, "Krumbeltorn")
    assert receipt.left is None
    assert memory.list_memories() == []


def test_a_text_that_is_nowhere(memory: Memory) -> None:
    info = memory.remember(TEXT, title="notes", compile=False)
    with pytest.raises(NotFoundError, match="does not hold"):
        memory.forget_matching(info.id, "Krumbeltorn")
    with pytest.raises(ConfigError, match="empty"):
        memory.forget_matching(info.id, " ")
    with pytest.raises(NotFoundError):
        memory.for_user("jalo").forget_matching(info.id, "Mira")
    assert memory.bank.source("mira", info.id).text == TEXT


def test_nobody_waits_while_texts_are_embedded(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    info = memory.remember(f"{TEXT} {SECRET}", compile=False)
    embedder, others = memory.router.embedder, list[str]()
    passages = embedder.passages

    def slowly(texts: Any) -> Any:
        with Bank(memory.bank.path, timeout=0.2) as other:  # it would find the catalog locked
            other.policies.set("jalo", Policy(max_memories=5))
            others.append("wrote")
        return passages(texts)

    monkeypatch.setattr(embedder, "passages", slowly)
    memory.forget(info.id, spans=[span_of(f"{TEXT} {SECRET}", SECRET)], compile=False)
    assert others == ["wrote"]


def test_all_of_a_user_is_also_what_stores_keep(memory: Memory) -> None:
    spaces = [Owner("mira", namespace=labels) for labels in (("n",), ("n", "m"), ("#/%",))]
    for owner in (*spaces, Owner("mira2", namespace=("n",)), Owner("n", "mira"), Owner("Mira")):
        memory.for_user(owner).remember("Simsem lives in Lasces.", compile=False)
    mine = memory.remember(TEXT, compile=False)
    receipts = memory.forget_all()
    assert len(receipts) == 4
    assert mine.id in {receipt.memory_id for receipt in receipts}
    assert memory.bank.tenants() == ["Mira", "mira/n", "mira2#n"]


# --- a text, and asking afterwards -------------------------------------------------------------
@pytest.fixture
def told(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What questions were made about; a tiny model writes none of use, so that some are given here."""
    about = list[str]()

    def pairs(memory: Memory, text: str, count: int) -> list[tuple[str, str]]:
        about.append(text)
        return [("What is the password?", "Krumbeltorn"), ("Who left?", "Jalo")] if text else []

    monkeypatch.setattr("memkit.pipeline.forget_check._questions_about", pairs)
    return about


def test_a_text_of_a_document_is_asked_about(memory: Memory, told: list[str], tmp_path: Path) -> None:
    info = memory.remember(f"{TEXT} {SECRET} Jalo left.", title="on Krumbeltorn", compile=False)
    done = memory.forget_and_check(info.id, matching="Krumbeltorn")
    assert told == [f"{SECRET} "]  # the sentence that it stood in, and no other
    assert [(check.question, check.answered) for check in done.checks] == [("What is the password?", False)]
    (receipt,) = done.receipts
    assert memory.get(str(receipt.left)).title == "on"
    assert anywhere(tmp_path, "Krumbeltorn") == []


def test_a_text_of_a_title_asks_nothing(memory: Memory, told: list[str]) -> None:
    info = memory.remember(TEXT, title="on Krumbeltorn", compile=False)
    assert memory.forget_and_check(info.id, matching="Krumbeltorn").checks == ()
    assert told == [""]


@pytest.mark.parametrize(
    ("said", "key"),
    [
        (Message(SECRET), None),
        (Message("Jalo left.", "Krumbeltorn"), None),
        (Message("Jalo left."), "Krumbeltorn 1"),
    ],
)
def test_entries_that_go_are_asked_about(
    memory: Memory, told: list[str], said: Message, key: str | None
) -> None:
    memory.remember([Message("Mira lives in Lima.")], memory="profile")
    info = memory.remember([said], memory="profile", key=key)
    done = memory.forget_and_check(info.id, matching="Krumbeltorn")
    assert [line.partition(" ")[2].rstrip() for line in told] == [f"{said.speaker}: {said.text}"]
    assert [check.question for check in done.checks] == ["What is the password?", "Who left?"]
    assert [entry.text for entry in memory.bank.logs.entries("mira", info.id)] == ["Mira lives in Lima."]


def test_what_goes_altogether_is_asked_about_whole(memory: Memory, told: list[str]) -> None:
    info = memory.remember([Message("Mira lives in Lima.")], memory="on Krumbeltorn")
    done = memory.forget_and_check(info.id, matching="Krumbeltorn")
    assert (done.receipts[0].left, len(done.checks)) == (None, 2)
    assert "Mira lives in Lima." in told[0]


def test_a_text_to_check_is_of_one_memory(memory: Memory) -> None:
    info = memory.remember(TEXT, compile=False)
    with pytest.raises(ConfigError, match="give the memory's id"):
        memory.forget_and_check(matching="Mira")
    with pytest.raises(ConfigError, match="no spans"):
        memory.forget_and_check(info.id, spans=[Span(0, 4)], matching="Mira")
    with pytest.raises(NotFoundError, match="does not hold"):
        memory.forget_and_check(info.id, matching="Krumbeltorn")
    assert memory.bank.source("mira", info.id).text == TEXT
