"""What people really give: messages, moments, numbers and texts of the wrong kind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import ConfigError, DocumentError, MemkitError
from memkit.memory import Memory
from memkit.text.messages import content_text, parse_history

WHERE = "Where does Mira live?"
TOKYO = timezone(timedelta(hours=9))
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory, engine: TransformersEngine) -> Iterator[Memory]:
    with Memory(tmp_path_factory.mktemp("asked") / "bank", user="mira", engine=engine) as made:
        made.remember("Mira lives in Lima.", compile=False)
        yield made


@pytest.fixture
def memory(tmp_path: Path, engine: TransformersEngine) -> Iterator[Memory]:
    with Memory(tmp_path / "bank", user="mira", engine=engine) as made:
        yield made


# --- history -----------------------------------------------------------------------------------
def test_a_history_is_pairs_or_messages() -> None:
    pairs = (("Who is Bo?", "A baker."), ("And Cy?", ""))
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Who is Bo?"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
        {"role": "tool", "content": "Bo: baker", "tool_call_id": "1"},
        {"role": "assistant", "content": "A baker."},
        {"role": "user", "content": [{"type": "text", "text": "And Cy?"}, IMAGE]},
    ]
    assert parse_history(pairs) == (pairs, "")
    assert parse_history(messages) == (pairs, "Be brief.")
    assert parse_history([]) == ((), "")


def test_both_forms_of_a_history_are_read_alike(asked: Memory) -> None:
    messages = [{"role": "user", "content": "Who is Bo?"}, {"role": "assistant", "content": "A baker."}]
    one = asked.ask(WHERE, history=[("Who is Bo?", "A baker.")], max_tokens=4)
    other = asked.ask(WHERE, history=messages, max_tokens=4)
    bare = asked.ask(WHERE, max_tokens=4)
    assert one.text == other.text
    assert one.trace.prompt_tokens == other.trace.prompt_tokens > bare.trace.prompt_tokens
    told = asked.ask(WHERE, history=[{"role": "system", "content": "Be brief."}, *messages], max_tokens=4)
    assert told.trace.prompt_tokens > other.trace.prompt_tokens


def test_content_is_text_or_parts() -> None:
    assert content_text("Hello.") == "Hello."
    assert content_text([{"type": "text", "text": "Hello."}, IMAGE, "There."]) == "Hello.\nThere."
    assert content_text([IMAGE]) == content_text(None) == ""
    assert content_text([{"type": "refusal", "refusal": "No."}]) == ""


def test_messages_of_parts_are_remembered_by_their_text(memory: Memory) -> None:
    said: list[dict[str, Any]] = [
        {"role": "user", "content": [{"type": "text", "text": "I live in Lima."}, IMAGE], "name": "mira"},
        {"role": "assistant", "content": None, "tool_calls": []},
    ]
    info = memory.remember(said, when="2026-05-02")
    assert memory.bank.source("mira", info.id).text == "2026-05-02 user: I live in Lima."


def test_roles_in_pairs_are_messages() -> None:
    said = [("user", "Who is Bo?"), ("assistant", "A baker.")]
    assert parse_history(said) == ((("Who is Bo?", "A baker."),), "")


# --- moments -----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("when", "line", "said"),
    [
        ("2026-05-02", "2026-05-02", datetime(2026, 5, 2, tzinfo=UTC)),
        ("2026-05-02 08:00", "2026-05-02", datetime(2026, 5, 2, 8, tzinfo=UTC)),
        ("2026-05-02T08:00:00.25Z", "2026-05-02", datetime(2026, 5, 2, 8, 0, 0, 250_000, UTC)),
        ("2026-05-02T08:00:00+09:00", "2026-05-02", datetime(2026, 5, 1, 23, tzinfo=UTC)),
        (date(2026, 5, 2), "2026-05-02", datetime(2026, 5, 2, tzinfo=UTC)),
        (datetime(2026, 5, 2, 8, tzinfo=TOKYO), "2026-05-02", datetime(2026, 5, 1, 23, tzinfo=UTC)),
        (datetime(2026, 5, 2, 8), "2026-05-02", datetime(2026, 5, 2, 8, tzinfo=UTC)),
        (datetime(2026, 5, 1, 20, tzinfo=timezone(-timedelta(hours=7))), "2026-05-01", None),
    ],
)
def test_the_speakers_own_day_counts(memory: Memory, when: Any, line: str, said: datetime | None) -> None:
    info = memory.remember("I moved to Osk.", memory="profile", when=when)
    (entry,) = memory.bank.logs.entries("mira", info.id)
    assert entry.line == f"{line} user: I moved to Osk."
    assert memory.bank.source("mira", info.id).text == entry.line
    assert said is None or entry.said == said
    same = [{"role": "user", "content": "I moved to Osk.", "when": when}]
    again = memory.remember(same, memory="other")
    assert memory.bank.source("mira", again.id).text == entry.line


@pytest.mark.parametrize("when", ["soon", "", "2026-13-01", "yesterday", 7, 1.5, object(), ["2026"]])
def test_what_is_no_moment(memory: Memory, when: Any) -> None:
    for how in ({"when": when}, {}):
        said: Any = "I moved." if how else [{"role": "user", "content": "I moved.", "when": when}]
        with pytest.raises(ConfigError, match="2026-05-02"):
            memory.remember(said, memory="profile", **how)
    assert memory.list_memories() == []


# --- wrong types -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": "8"}, "max_tokens"),
        ({"max_tokens": 2.5}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"seed": "one"}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"system": 7}, "system"),
        ({"system": "half \ud83d"}, "half a character"),
        ({"within": 7}, "within"),
        ({"history": "Who is Bo?"}, "history"),
        ({"history": {"role": "user", "content": "x"}}, "history"),
        ({"history": [("Who is Bo?",)]}, "turn"),
        ({"history": [("Who is Bo?", "A baker.", "x")]}, "turn"),
        ({"history": [("Who is Bo?", None)]}, "history"),
        ({"history": ["ab"]}, "turn"),
        ({"history": [{"role": "user"}]}, "message"),
        ({"history": [{"role": "wizard", "content": "x"}]}, "wizard"),
        ({"history": [{"role": "user", "content": 7}]}, "content"),
        ({"history": [{"role": "user", "content": "half \ud83d"}]}, "half a character"),
    ],
)
def test_what_cannot_be_asked_so(asked: Memory, how: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        asked.ask(WHERE, **how)
    with pytest.raises(ConfigError, match=message):
        list(asked.stream(WHERE, **how))


@pytest.mark.parametrize("question", ["", " \n", "\u200b", "half \ud83d", None, 7, b"Who?", ["Who?"]])
def test_what_is_no_question(asked: Memory, question: Any) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: asked.ask(question),
        lambda: asked.ask_many([question]),
        lambda: list(asked.stream(question)),
        lambda: asked.recall(question),
    ]
    for call in calls:
        with pytest.raises(ConfigError, match="question"):
            call()


@pytest.mark.parametrize("seed", [2**70, -1, 2**63, 0])
def test_any_whole_number_is_a_seed(asked: Memory, seed: int) -> None:
    one, two = (asked.ask(WHERE, seed=seed, temperature=1.0, max_tokens=4).text for _ in range(2))
    assert one == two


def test_what_a_memory_cannot_be_made_of(tmp_path: Path) -> None:
    wrong: list[dict[str, Any]] = [
        {"gate": "x"},
        {"user": ""},
        {"user": None},
        {"user": "half \ud83d"},
        {"compiler": "x"},
        {"options": {"steps": "many"}},
        {"options": {"nothing": 1}},
        {"embedder": "x"},
        {"embedder": 5},
        {"engine": "nano"},
        {"model": 1.5},
        {"options": "ratio=8"},
        {"compiler": ["lcc"]},
        {"keep": "3"},
        {"keep": 0},
        {"clock": "now"},
    ]
    for settings_ in wrong:
        with pytest.raises(MemkitError):
            Memory(tmp_path / "bank", **settings_)
    assert not (tmp_path / "bank").exists()


def test_odd_numbers_and_titles(asked: Memory) -> None:
    wrong: list[Any] = ["64", 0, -5, 1.5, None]
    for most in wrong:
        with pytest.raises(ConfigError, match="max_tokens"):
            asked.recall(WHERE, max_tokens=most)
    for title in (None, 7, b"title"):
        with pytest.raises(ConfigError, match="title"):
            asked.remember("Jalo lives in Rome.", title=title)  # type: ignore[arg-type] # what is tested
    with pytest.raises(ConfigError, match="path"):
        Memory(5)  # type: ignore[arg-type] # what is tested


@pytest.mark.parametrize("document", [None, 7, b"bytes", {"role": "user", "content": "x"}, ["text"], [7], []])
def test_what_cannot_be_remembered(memory: Memory, document: Any) -> None:
    with pytest.raises((ConfigError, DocumentError)):
        memory.remember(document)
    assert memory.list_memories() == []


junk = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(junk, junk)
def test_anything_is_taken_or_refused_in_words(asked: Memory, one: Any, other: Any) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: parse_history(one),
        lambda: parse_history([{"role": "user", "content": one}, {"role": one, "content": other}]),
        lambda: asked.search(one, other),
        lambda: asked.get(one),
        lambda: asked.forget(one),
    ]
    for call in calls:
        with suppress(MemkitError):  # and nothing else
            call()
    assert [info.characters for info in asked.list_memories()] == [19]
