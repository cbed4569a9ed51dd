"""`memkit chat`: what is stated is remembered, what is asked is answered, with a question mark or without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Cli = Callable[..., Any]


def told(cli: Cli) -> list[str]:
    """The entries that the chat has, as `/list` prints them, without their dates."""
    lines = cli("chat", stdin=b"/list\n").out.splitlines()
    return [line.partition(": ")[2] for line in lines]


@pytest.mark.parametrize(
    "question",
    [
        "where does Simsem live",
        "could you tell me where Simsem lives",
        "Where does Simsem live?",
    ],
)
def test_a_question_without_its_mark_is_answered(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, question: str
) -> None:
    monkeypatch.setenv("MEMKIT_MODEL", "nano")
    done = cli("chat", stdin=f"Simsem lives in Lasces\n{question}\n".encode())
    assert done.out.splitlines() == ["Lasces"]
    assert done.err.count("remembered") == 1
    assert told(cli) == ["Simsem lives in Lasces"]


def test_what_states_nothing_is_not_remembered(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMKIT_MODEL", "nano")
    done = cli("chat", stdin=b"Hello\nhi\nThank you\nyes\nno\nbye\nHi! I keep bees.\n")
    assert done.err.count("remembered") == 1
    assert told(cli) == ["I keep bees."]


@pytest.mark.parametrize("word", ["exit", "quit", "/exit", "Quit"])
def test_a_word_leaves(cli: Cli, word: str) -> None:
    assert "remembered" not in cli("chat", stdin=f"{word}\nI keep bees.\n".encode()).err


def test_a_statement_beside_a_question_is_remembered(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMKIT_MODEL", "nano")
    done = cli("chat", stdin="Rolan lives in Tarv. Where does Rolan live?\nهل تسكن هنا؟\n".encode())
    assert done.out.splitlines()[0] == "Tarv"
    assert done.err.count("remembered") == 1
    assert "\ntext: " in cli("chat", stdin=b"Tell me where Rolan lives.\n/why\n").out
    assert told(cli) == ["Rolan lives in Tarv."]
