"""The whole path: remember, ask by every route, forget; nothing lost on bad input."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from memkit.bank import MemoryInfo
from memkit.document import Document
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import (
    ArtifactError,
    CompileError,
    ConfigError,
    ContextTooLongError,
    DocumentError,
    NotFoundError,
)
from memkit.memory import Memory
from memkit.testing import TEXT, TINY_LCC


@pytest.fixture
def memory(tmp_path: Path, engine: TransformersEngine) -> Iterator[Memory]:
    with Memory(tmp_path / "bank", user="mira", engine=engine, **TINY_LCC) as made:
        yield made


def artifact_files(memory: Memory) -> list[Path]:
    return sorted(memory.bank.path.rglob("*.mka"))


def test_answerable_by_text_until_compiled_then_latent(memory: Memory) -> None:
    info = memory.remember(TEXT, compile=False)
    assert info.status == "text"
    before = memory.ask("Where does Mira live?")
    assert (before.route, before.trace.memory_id) == ("text", info.id)
    assert "not compiled" in before.trace.reason
    memory.compile(info.id)
    after = memory.ask("Where does Mira live?")
    assert after.route == "latent"
    assert after.trace.artifact_id == memory.get(info.id).artifact_id
    assert after.trace.prompt_tokens < before.trace.prompt_tokens


def test_wait_compiles_in_the_foreground(memory: Memory) -> None:
    assert memory.remember(TEXT, wait=True).status == "compiled"
    assert len(artifact_files(memory)) == 1


def test_background_compilation(memory: Memory) -> None:
    info = memory.remember(TEXT)
    memory.wait()
    assert memory.get(info.id).status == "compiled"


def test_remembering_twice_is_remembering_once(memory: Memory) -> None:
    first, second = memory.remember(TEXT, wait=True), memory.remember(TEXT, wait=True)
    assert first == second
    assert len(memory.list_memories()) == 1


def test_question_that_shares_nothing_takes_no_memory(memory: Memory) -> None:
    memory.remember(TEXT, wait=True)
    answer = memory.ask("What is the capital of France?")
    assert answer.route == "none"
    assert answer.trace.memory_id is None


def test_empty_bank_answers_without_memory(memory: Memory) -> None:
    assert memory.ask("Where does Mira live?").route == "none"


def test_the_right_memory_of_several_is_chosen(memory: Memory) -> None:
    names = ["Brokvel", "Tarmuz", "Wolgin"]
    ids = {n: memory.remember(f"{n} lives in {n}dorf. It was cold.", compile=False).id for n in names}
    for name in names:
        assert memory.ask(f"Where does {name} live?").trace.memory_id == ids[name]


def test_users_do_not_see_each_other(memory: Memory, engine: TransformersEngine) -> None:
    info = memory.remember(TEXT, wait=True)
    with Memory(memory.bank.path, user="jalo", engine=engine, **TINY_LCC) as other:
        assert other.list_memories() == []
        assert other.ask("Where does Mira live?").route == "none"
        with pytest.raises(NotFoundError):
            other.get(info.id)
        with pytest.raises(NotFoundError):
            other.forget(info.id)
    assert memory.ask("Where does Mira live?").route == "latent"


def test_forget_leaves_nothing(memory: Memory) -> None:
    info = memory.remember(TEXT, wait=True)
    memory.ask("Where does Mira live?")
    (receipt,) = memory.forget(info.id)
    assert receipt.artifacts_removed == 1
    assert memory.list_memories() == []
    assert artifact_files(memory) == []
    assert memory.ask("Where does Mira live?").route == "none"
    assert info.artifact_id not in memory.local._attached
    with pytest.raises(NotFoundError):
        memory.forget(info.id)


def test_artifact_of_another_model_falls_back_to_text(memory: Memory, other_model_folder: Path) -> None:
    info = memory.remember(TEXT, wait=True)
    with Memory(memory.bank.path, str(other_model_folder), "mira", **TINY_LCC) as other:
        answer = other.ask("Where does Mira live?")
        assert answer.route == "text"
        assert "compiled for base model" in answer.trace.reason
        with pytest.raises(ArtifactError):
            other.verify(info.id)


@pytest.mark.parametrize("damage", ["truncate", "flip", "vanish"])
def test_damaged_artifact_falls_back_to_text_and_verify_says_so(memory: Memory, damage: str) -> None:
    info = memory.remember(TEXT, wait=True)
    (file,) = artifact_files(memory)
    data = bytearray(file.read_bytes())
    file.unlink()
    if damage == "truncate":
        file.write_bytes(data[: len(data) // 2])
    elif damage == "flip":
        data[-20] ^= 4
        file.write_bytes(data)
    assert memory.ask("Where does Mira live?").route == "text"
    with pytest.raises(ArtifactError):
        memory.verify(info.id)


@pytest.mark.parametrize(
    "text",
    [
        "😀 Mira 🦊 lives in Keldor 🎉",
        "ميرا تسكن في كلدور.",
        "מירה גרה בקלדור. שלום",
        "Mira\r\nlives\tin Keldor",
        "x",
    ],
)
def test_unusual_text_works(memory: Memory, text: str) -> None:
    info = memory.remember(text, wait=True)
    assert memory.bank.source("mira", info.id).text == text
    assert memory.ask("Where does Mira live?").text is not None


@pytest.mark.parametrize("bad", ["", "  \n\t ", "a\x00b", "\x01\x02\x03\x04", "\ud800 lone"])
def test_impossible_documents_are_refused(memory: Memory, bad: str) -> None:
    memory.remember(TEXT, compile=False)
    with pytest.raises(DocumentError):
        memory.remember(bad)
    assert len(memory.list_memories()) == 1


def test_bytes_that_are_not_utf8_are_refused() -> None:
    with pytest.raises(DocumentError, match="iconv"):
        Document.from_bytes("Mïra".encode("latin-1"))
    with pytest.raises(DocumentError, match="binary"):
        Document.from_bytes(b"\x7fELF\x00\x00")
    assert Document.from_bytes(b"\xef\xbb\xbfMira").text == "Mira"


def test_ten_megabytes_get_one_clear_error(memory: Memory) -> None:
    with pytest.raises(ConfigError, match="split it"):
        memory.remember("Mira lives in Keldor. " * 500_000)
    assert memory.list_memories() == []


def test_document_longer_than_the_window_stays_on_text(memory: Memory) -> None:
    text = " ".join(f"Person{i} lives in Town{i}." for i in range(800))
    with pytest.raises(CompileError, match="too many"):
        memory.remember(text, wait=True)
    (info,) = memory.list_memories()
    assert (info.status, bool(info.error)) == ("failed", True)
    answer = memory.ask("Where does Person217 live?")
    assert answer.route == "text"
    source = memory.bank.source("mira", info.id).text
    assert any("Person217 lives in Town217" in source[s.start : s.end] for s in answer.trace.spans)


def test_question_longer_than_the_window(memory: Memory) -> None:
    with pytest.raises(ContextTooLongError):
        memory.ask("Where does Mira live? " * 200)
    with pytest.raises(ConfigError, match="empty"):
        memory.ask("   ")


def test_wrong_options_are_refused_at_construction(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ratio"):
        Memory(tmp_path, compiler="lcc", options={"ratio": 0})
    with pytest.raises(ConfigError, match="unknown compiler"):
        Memory(tmp_path, compiler="magic")


def test_interrupted_compilation_leaves_nothing(memory: Memory) -> None:
    info = memory.remember(TEXT, compile=False)

    def interrupt(step: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        memory.compile(info.id, progress=interrupt)
    assert memory.get(info.id).status == "text"
    assert artifact_files(memory) == []
    assert memory.ask("Where does Mira live?").route == "text"


def test_background_survives_failures(memory: Memory) -> None:
    long = memory.remember(" ".join(f"Person{i} lives in Town{i}." for i in range(800)))
    short = memory.remember(TEXT)
    memory.wait()
    status: dict[str, MemoryInfo] = {i.id: i for i in memory.list_memories()}
    assert status[long.id].status == "failed"
    assert status[short.id].status == "compiled"
