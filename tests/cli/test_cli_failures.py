"""What commands do when something is wrong: one line, an exit code, and nothing half done."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memkit import errors, registry
from memkit.errors import MemkitError, MissingExtraError
from memkit.memory import Memory
from memkit.testing import TINY_OPTIONS

pytestmark = pytest.mark.wheel

QUESTION = "Where does Mira live?"
OPTIONS = [word for key, value in TINY_OPTIONS.items() for word in ("--option", f"{key}={value}")]
LONG = " ".join(f"Person{i} lives in Town{i}." for i in range(300))  # more than the tiny model can compile
Cli = Callable[..., Any]  # returns a conftest.Done: code, out, err and json


def all_errors(kind: type[MemkitError] = MemkitError) -> list[type[MemkitError]]:
    return [kind, *(found for each in kind.__subclasses__() for found in all_errors(each))]


CODES = {
    errors.ConfigError: 2,
    errors.NotFoundError: 3,
    errors.ArtifactError: 4,
    errors.FingerprintError: 4,
    errors.VerificationError: 4,
    errors.BankError: 5,
    errors.BankReadOnlyError: 5,
    errors.BankFullError: 5,
    errors.BankBusyError: 5,
    errors.QuotaError: 5,
}


@pytest.mark.parametrize("kind", all_errors())
def test_every_error_is_one_line_and_a_code(
    kind: type[MemkitError], cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = kind("p", "pip install p") if issubclass(kind, MissingExtraError) else kind("it\nwent wrong")

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Memory, "ask", fail)
    done = cli("ask", QUESTION, "--json")
    assert done.code == next((CODES[base] for base in kind.__mro__ if base in CODES), 1)
    assert done.json["error"]["type"] == kind.__name__
    assert done.err == f"error: {done.json['error']['message']}\n"
    assert done.err.count("\n") == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b" \n\t", "empty"),
        (b"\x7fELF\x00\x01", "binary"),
        ("Mïra".encode("latin-1"), "iconv"),
        (None, "cannot read"),
    ],
)
def test_bad_documents(cli: Cli, tmp_path: Path, data: bytes | None, message: str) -> None:
    file = tmp_path / "bad"
    if data is not None:
        file.write_bytes(data)
    done = cli("remember", file, "--json")
    assert (done.code, done.json["error"]["type"]) == (1, "DocumentError")
    assert message in done.json["error"]["message"]
    assert cli("remember", tmp_path).code == 1  # a folder
    assert cli("list", "--json").json["memories"] == []


@pytest.mark.parametrize(
    "words",
    [
        ["--option", "nonsense=1"],
        ["--option", "no-equals-sign"],
        ["--ratio", "0.5"],
        ["--ratio", "nan"],
        ["--ratio", "x"],
        ["--option", "preset=magic"],
        ["--compiler", "magic"],
        ["--user", ""],
        ["--nonsense"],
    ],
)
def test_wrong_usage_remembers_nothing(cli: Cli, document: Path, words: list[str]) -> None:
    done = cli("remember", document, "--json", *words)
    assert done.code == 2
    assert set(done.json) == {"error"}
    assert cli("list", "--json").json["memories"] == []


def test_wrong_questions(cli: Cli) -> None:
    assert (
        cli("ask", "  ").code == cli("ask", "\udcff").code == cli("ask", "x", "--max-tokens", "0").code == 2
    )
    assert cli("ask", QUESTION * 200).code == 1
    assert cli().code == cli("nonsense").code == 2


def test_bank_that_cannot_be_used(cli: Cli, document: Path) -> None:
    for words in (("remember", document), ("ask", QUESTION), ("list",), ("verify", "--all")):
        done = cli(*words, "--home", document, "--json")  # a file is in the way
        assert (done.code, set(done.json)) == (5, {"error"})


def test_model_that_is_missing(cli: Cli, document: Path, tmp_path: Path) -> None:
    assert cli("ask", QUESTION, "--model", tmp_path / "absent.gguf").code == 1
    assert cli("remember", document, "--model", tmp_path / "absent.gguf").code == 0  # needs none


def test_document_too_long_to_compile_is_kept(cli: Cli) -> None:
    done = cli("remember", "-", "--wait", "--always", "--json", "--ratio", "1", stdin=LONG.encode())
    assert (done.code, done.json["error"]["type"]) == (1, "CompileError")
    (info,) = cli("list", "--json").json["memories"]
    assert (info["status"], bool(info["error"])) == ("failed", True)
    assert cli("ask", "Where does Person217 live?", "--json").json["route"] == "text"


def test_interrupted_recompilation_keeps_the_version(
    cli: Cli, compiled: str, document: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    next(home.rglob("*.mka")).write_bytes(b"damaged")
    monkeypatch.setattr(type(registry.compiler("lcc")), "compile", interrupt)
    done = cli("remember", document, "--wait", "--always", "--json")
    assert done.code == 130
    assert done.json["error"]["message"] == "interrupted: the memory keeps its version 1"
