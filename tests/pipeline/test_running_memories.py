"""Running memories from end to end: at once by text, by artifact for what was compiled, newest first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memkit.bank import Message
from memkit.document import Span
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import ConfigError, DocumentError
from memkit.memory import Memory
from memkit.pipeline.admission import AdmissionConfig
from memkit.testing import TINY_LCC, TINY_OPTIONS

WHERE = "Where does Mira live?"
START = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> datetime:
        self.now += timedelta(days=1)
        return self.now


@pytest.fixture
def memory(tmp_path: Path, engine: TransformersEngine) -> Iterator[Memory]:
    few = AdmissionConfig(questions=4, pieces=1)
    with Memory(
        tmp_path / "bank", user="mira", engine=engine, **TINY_LCC, admission=few, clock=Clock()
    ) as made:
        yield made


def test_newer_entries_are_read_as_text(memory: Memory) -> None:
    info = memory.remember("Mira lives in Lima.", memory="profile", wait=True, always=True)
    assert (info.running, info.version, info.behind) == (True, 1, 0)
    answer = memory.ask(WHERE)
    (part,) = answer.trace.parts
    assert (answer.route, part.form, part.span) == ("latent", "artifact", Span(0, info.characters))

    info = memory.remember("The weather is nice.", memory="profile")
    assert info.behind == 1
    assert memory.ask(WHERE).route == "latent"  # what is new is about something else

    memory.remember("Mira lives in Oslo now.", memory="profile")
    answer = memory.ask(WHERE)
    assert (answer.route, answer.trace.version) == ("text", None)
    assert "1 entry about this came after it was compiled" in answer.trace.reason
    lima, *_, oslo = answer.trace.parts
    assert (lima.form, lima.said, lima.speaker, lima.compiled) == (
        "text",
        START + timedelta(days=1),
        "user",
        True,
    )
    assert (oslo.said, oslo.compiled) == (START + timedelta(days=3), False)

    info = memory.compile(info.id)
    assert (info.version, info.behind) == (2, 0)
    answer = memory.ask(WHERE)
    assert (answer.route, answer.trace.parts[0].span.end) == ("latent", info.characters)


def test_the_newest_of_many_lines_is_read_and_comes_last(memory: Memory) -> None:
    for n in range(60):
        info = memory.remember(f"Mira lives in Town{n}.", memory="profile")
    parts = memory.ask(WHERE).trace.parts
    assert len(parts) < 60
    assert (parts[-1].said, parts[-1].span.end) == (START + timedelta(days=60), info.characters)
    assert [part.said for part in parts] == sorted(part.said for part in parts if part.said)


def test_a_log_that_is_longer_than_the_model_reads(memory: Memory) -> None:
    memory.remember("Jalo works at Brimtek.", memory="profile")
    for n in range(30):
        info = memory.remember(f"Mira walked to Town{n}.", memory="profile")
    info = memory.compile(info.id)
    seen = [entry.compiled for entry in memory.bank.logs.entries("mira", info.id)]
    assert (seen[0], seen[-1], info.behind) == (False, True, 0)
    answer = memory.ask("Where does Jalo work?")
    assert (answer.route, "older than what was compiled" in answer.trace.reason) == ("text", True)
    assert memory.ask("Who walked to Town29?").route == "latent"


def test_messages(memory: Memory) -> None:
    said: list[dict[str, Any]] = [
        {"role": "user", "content": "I live in Keldor.", "when": START},
        {"role": "assistant", "content": "A quiet town."},
    ]
    info = memory.remember(said, key="turn 1")
    assert (info.name, info.entries) == ("profile", 2)
    assert memory.remember(said, key="turn 1").entries == 2
    source = memory.bank.source("mira", info.id).text
    assert source == "2026-03-01 user: I live in Keldor.\n2026-03-02 assistant: A quiet town."
    bad: list[Any] = ["text", {"role": "user"}, {**said[0], "mood": "x"}, {"role": "user", "content": []}, 7]
    for message in bad:
        with pytest.raises(ConfigError, match="message"):
            memory.remember([message])
    with pytest.raises(ConfigError, match="speaker"):
        memory.remember([{"role": 7, "content": "x"}])


def test_what_does_not_go_together(memory: Memory) -> None:
    wrong: list[dict[str, Any]] = [{"when": START}, {"key": "one"}]
    for more in wrong:
        with pytest.raises(ConfigError, match="running memory"):
            memory.remember("Mira lives in Lima.", **more)
    with pytest.raises(ConfigError, match="not a title"):
        memory.remember("Mira lives in Lima.", memory="profile", title="notes")
    with pytest.raises(DocumentError):
        memory.remember(" ", memory="profile")
    assert memory.list_memories() == []


def test_users_share_a_bank_and_nothing_else(memory: Memory) -> None:
    memory.remember("Mira lives in Lima.", memory="profile")
    jalo = memory.for_user("jalo")
    assert jalo.list_memories() == []
    assert jalo.ask(WHERE).route == "none"
    jalo.remember([Message("Jalo lives in Rome.")], memory="profile", wait=True, always=True)
    assert [len(each.list_memories()) for each in (memory, jalo)] == [1, 1]
    assert jalo.engine is memory.engine
    jalo.close()
    assert memory.ask(WHERE).trace.parts[0].form == "text"  # the bank is still open
    memory.forget_all()
    assert len(jalo.list_memories()) == 1


def test_commands(cli: Callable[..., Any]) -> None:
    options = [word for key, value in TINY_OPTIONS.items() for word in ("--option", f"{key}={value}")]
    words = ("remember", "-", "--memory", "profile")
    first = cli(*words, "--when", "2026-03-01", "--key", "a", "--json", stdin=b"Mira lives in Lima.")
    assert (first.code, first.json["memory"]["behind"]) == (0, 1)
    assert cli(*words, "--when", "2026-03-01", "--key", "a", stdin=b"Mira lives in Lima.").code == 0
    compiled = cli(
        *words, "--wait", "--always", "--speaker", "nurse", *options, stdin=b"Jalo works at Brimtek."
    )
    assert ": compiled by lcc, version 1: " in compiled.out
    shown = cli(*words, stdin=b"Mira lives in Oslo.")
    assert "3 entries, 1 of them newer than its artifact" in shown.out
    asked = cli("ask", WHERE, "--trace")
    assert "user, 2026-03-01 00:00" in asked.err
    assert "also compiled" in asked.err
    assert "not compiled" in asked.err
    assert cli("remember", "-", "--key", "a", stdin=b"Mira.").code == 2
    assert cli(*words, "--when", "yesterday", stdin=b"Mira.").code == 2


def test_what_was_asked_stands_in_front_of_no_answer(memory: Memory) -> None:
    source = memory.remember("Mira lives in Lima.", compile=False)
    said = [{"role": "user", "content": WHERE}, {"role": "assistant", "content": "Do you mean Mira?"}]
    log = memory.remember(said, memory="session")
    for _ in range(2):
        found = memory.search(WHERE)
        assert [each.memory.id for each in found] == [source.id, log.id]
        assert memory.recall(WHERE).memory_id == source.id
        memory.bank.reembed("mira", "another", lambda document: ([Span(0, 1)], np.ones((1, 4))))
    memory.forget(source.id)
    assert memory.recall(WHERE).memory_id is None  # a question tells nothing
    memory.remember([{"role": "user", "content": "Mira lives in Lima. Right?"}], memory="session")
    assert memory.recall(WHERE).memory_id == log.id


@pytest.mark.parametrize(
    "text", [WHERE, "I do not know where Mira lives.", "Where is Mira? Where does she live?"]
)
def test_a_document_that_only_asks_answers_nothing(memory: Memory, text: str) -> None:
    source = memory.remember("Mira lives in Lima.", compile=False)
    asked = memory.remember(text, compile=False)
    said = memory.remember([{"role": "assistant", "content": text}], memory="session")
    assert memory.search(WHERE)[0].memory.id == source.id
    assert memory.recall(WHERE).memory_id == source.id
    memory.forget(source.id)
    assert memory.recall(WHERE).memory_id is None
    assert {info.id for info in memory.list_memories()} == {asked.id, said.id}
