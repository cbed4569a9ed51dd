"""Every command, in this process: what it prints, its JSON and its exit code."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memkit._version import __version__
from memkit.testing import TEXT, TINY_OPTIONS

pytestmark = pytest.mark.wheel

QUESTION = "Where does Mira live?"
OPTIONS = [word for key, value in TINY_OPTIONS.items() for word in ("--option", f"{key}={value}")]
Cli = Callable[..., Any]  # returns a conftest.Done: code, out, err and json


def artifact_file(home: Path) -> Path:
    (file,) = home.rglob("*.mka")
    return file


def memories(cli: Cli, *words: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = cli("list", "--json", *words).json["memories"]
    return found


# --- remember and ask ------------------------------------------------------------------------
def test_remember_ask_compile_ask_forget(cli: Cli, document: Path, home: Path) -> None:
    done = cli("remember", document)
    assert (done.code, "answerable from its text now" in done.out) == (0, True)
    (info,) = memories(cli)
    assert (info["title"], info["status"], info["version"]) == ("people.txt", "text", 0)
    assert cli("ask", QUESTION, "--json").json["route"] == "text"
    done = cli("remember", document, "--wait", "--always", *OPTIONS)
    assert done.code == 0
    assert f"{info['id']} 'people.txt': compiled by lcc, version 1: 33 tokens in 3, " in done.out
    assert "lora" in done.err  # progress, away from the result
    assert cli("ask", QUESTION, "--json").json["route"] == "latent"
    assert "already compiled" in cli("remember", document, "--wait", "--always", *OPTIONS).out
    assert cli("forget", info["id"], "--yes").code == 0
    assert cli("ask", QUESTION, "--json").json["route"] == "none"
    assert "note: no memory was used (the bank holds no memory)" in cli("ask", QUESTION).err
    assert memories(cli) == []
    assert list(home.rglob("*.mka")) == []


def test_remember_from_standard_input(cli: Cli) -> None:
    done = cli("remember", "-", "--title", "notes", "--json", stdin="Zoë lives in Ölbek.".encode())
    assert done.code == 0
    assert (done.json["memory"]["title"], done.json["artifact"]) == ("notes", None)
    assert cli("remember", "-", stdin=b"").code == 1


def test_remember_says_what_the_artifact_cost(cli: Cli, document: Path) -> None:
    done = cli("remember", document, "--wait", "--always", "--json", "--ratio", "4", *OPTIONS)
    artifact = done.json["artifact"]
    assert done.code == 0
    assert artifact["tokens"] == -(-artifact["context_tokens"] // 4)
    assert artifact["steps"] == TINY_OPTIONS["steps"] + TINY_OPTIONS["kv_steps"]


def test_answer_is_all_that_standard_output_holds(cli: Cli, compiled: str) -> None:
    done = cli("ask", QUESTION, "--max-tokens", "3", "--trace")
    plain = cli("ask", QUESTION, "--max-tokens", "3")
    assert done.out == plain.out
    assert plain.err == ""
    for word in ("latent", "uncalibrated", compiled, "version 1", "prompt tokens", "similarity"):
        assert word in done.err


def test_an_artifact_of_another_model_is_told(cli: Cli, compiled: str, other_model_folder: Path) -> None:
    asked = cli("ask", QUESTION, "--model", other_model_folder)
    assert "note: answered from the memory's text, as its artifact cannot be used" in asked.err
    assert "toy" not in asked.err


def test_the_default_model_is_told_to_be_a_toy(cli: Cli) -> None:
    assert "note: nano is a toy model" in cli("ask", QUESTION, "--model", "nano").err


def test_answer_as_json(cli: Cli, compiled: str) -> None:
    answer = cli("ask", QUESTION, "--json").json
    trace = answer["trace"]
    assert (trace["memory_id"], trace["version"], trace["calibrated"]) == (compiled, 1, False)
    assert [trace["candidates"][0][name] for name in ("memory_id", "title")] == [compiled, "people.txt"]
    assert (trace["gate"], trace["candidates"][0]["obstacle"]) == ("rule", "")
    assert {"similarity", "overlap", "strength", "margin"} <= set(trace["candidates"][0]["features"])
    assert trace["spans"] == [{"start": 0, "end": len(TEXT)}]
    assert trace["prompt_tokens"] > 0


def test_users_are_apart(cli: Cli, compiled: str) -> None:
    assert memories(cli, "--user", "nobody") == []
    assert "has no memories" in cli("list", "-u", "nobody").err
    assert cli("ask", QUESTION, "-u", "nobody", "--json").json["route"] == "none"
    for words in (
        ("show", compiled),
        ("verify", compiled),
        ("verify", "--all"),
        ("forget", compiled, "--yes"),
        ("forget", "--yes"),
    ):
        assert cli(*words, "--user", "nobody").code == 3
    assert len(memories(cli)) == 1


# --- manage ----------------------------------------------------------------------------------
def test_list_and_show(cli: Cli, compiled: str) -> None:
    assert re.search(rf"{compiled}\s+compiled\s+1\s+lcc\s+{len(TEXT)}", cli("list").out)
    shown = cli("show", compiled[:4])
    assert shown.code == 0
    assert "self-study" in shown.out
    about = cli("show", compiled, "--json").json
    assert about["memory"]["id"] == compiled
    assert about["artifact"]["compiler"] == "lcc"
    assert [tensor["name"] for tensor in about["artifact"]["tensors"]] == ["keys", "values"]
    assert cli("show", "feed").code == 3


def test_titles_cannot_drive_the_terminal(cli: Cli, document: Path) -> None:
    assert cli("remember", document, "--title", "\x1b[31m[red]x[/red]").code == 0
    listed = cli("list").out
    assert "\x1b" not in listed
    assert "[red]x[/red]" in listed


def test_forget_asks_first(cli: Cli, compiled: str) -> None:
    nobody = cli("forget", compiled)
    assert nobody.code == 2
    assert "add --yes" in nobody.err
    assert cli("forget", compiled, stdin=b"n\n").code == 1
    assert len(memories(cli)) == 1
    assert cli("forget", compiled, stdin=b"y\n").code == 0
    assert memories(cli) == []
    assert cli("forget", compiled, "--yes").code == 3


def test_forget_all_of_a_user(cli: Cli, document: Path) -> None:
    cli("remember", document, "--user", "mira")
    cli("remember", "-", "--user", "mira", stdin=b"Another text.")
    cli("remember", document, "--user", "jalo")
    assert cli("forget").code == 2  # neither an id nor a user
    assert cli("forget", "--user", "mira").code == 2  # and nobody to confirm
    done = cli("forget", "--user", "mira", "--yes", "--json")
    assert (done.code, len(done.json["forgotten"])) == (0, 2)
    assert len(memories(cli, "--user", "jalo")) == 1


def test_verify(cli: Cli, compiled: str) -> None:
    cli("remember", "-", stdin=b"Only as text.")
    assert cli("verify", compiled).code == 0
    everything = cli("verify", "--all", "--json")
    assert (everything.code, everything.json["ok"]) == (0, True)
    assert [row["result"] for row in everything.json["results"]] == ["ok", "none"]
    assert cli("verify").code == cli("verify", compiled, "--all").code == 2


def test_damaged_artifact(cli: Cli, compiled: str, home: Path, document: Path) -> None:
    file = artifact_file(home)
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(data)
    done = cli("verify", compiled, "--json")
    assert (done.code, done.json["ok"]) == (4, False)
    assert cli("verify", "--all").code == 4
    doctor = cli("doctor", "--json")
    assert (doctor.code, doctor.json["ok"]) == (1, False)
    assert any(compiled in check["detail"] for check in doctor.json["checks"] if check["status"] == "fail")
    assert "damaged" in cli("show", compiled, "--json").json["artifact"]["error"]
    assert cli("ask", QUESTION, "--json").json["route"] == "text"
    assert cli("remember", document, "--wait", "--always", *OPTIONS).code == 0  # compiles it again
    assert cli("verify", compiled).code == 0


def test_artifact_of_another_model(cli: Cli, compiled: str, other_model_folder: Path) -> None:
    other = ("--model", str(other_model_folder))
    assert cli("verify", compiled, *other).code == 4
    assert cli("ask", QUESTION, "--json", *other).json["route"] == "text"
    done = cli("doctor", "--json", *other)
    assert done.code == 0
    assert any(check["status"] == "warn" for check in done.json["checks"])


def test_doctor(cli: Cli, home: Path, compiled: str, tmp_path: Path) -> None:
    healthy = cli("doctor", "--json")
    assert (healthy.code, healthy.json["repaired"]) == (0, [])
    names = {check["name"] for check in healthy.json["checks"]}
    assert {"python", "torch", "compiler lcc", "bank", "disk"} <= names
    stray = artifact_file(home).with_name("0" * 64 + ".mka")
    stray.write_bytes(b"left by a crash")
    os.utime(stray, (0, 0))
    repaired = cli("doctor", "--repair", "--json")
    assert repaired.code == 0
    assert stray.name in repaired.json["repaired"][0]
    assert not stray.exists()
    assert cli("ask", QUESTION, "--json").json["route"] == "latent"
    assert "there is none" in cli("doctor", "--home", tmp_path / "absent").out
    missing = cli("doctor", "--model", tmp_path / "absent.gguf")
    assert (missing.code, "no GGUF file" in missing.out) == (1, True)


# --- eval and demo ---------------------------------------------------------------------------
@pytest.fixture
def records(tmp_path: Path) -> Path:
    file = tmp_path / "records.jsonl"
    asked = [{"q": QUESTION, "answers": ["Keldor"]}, {"q": "Who works at Brimtek?", "answers": ["Jalo"]}]
    rows = [{"id": "a", "context": TEXT, "questions": asked}] * 2
    file.write_text("\n".join(json.dumps(row) for row in rows))
    return file


def test_eval(cli: Cli, records: Path, tmp_path: Path) -> None:
    words = ("eval", records, "--baselines", "full,none", "--ratio", "4,8", "--limit", "1", *OPTIONS)
    out = tmp_path / "table.json"
    shown = cli(*words, "--json", out)
    assert shown.code == 0
    assert "retention" in shown.out
    table = json.loads(out.read_text())
    assert [(r["method"], r["ratio"], r["n"]) for r in table["rows"]] == [
        ("full", None, 2),
        ("none", None, 2),
        ("lcc", 4.0, 2),
        ("lcc", 8.0, 2),
    ]
    assert sorted(path.name for path in tmp_path.iterdir() if "table" in path.name) == ["table.json"]
    assert len(shown.err.splitlines()) < 24  # progress by phase, not by step
    printed = cli(*words, "--questions", "1", "--compilers", "lcc:pure", "--json", "-")
    assert [(r["method"], r["n"]) for r in printed.json["rows"]][2:] == [("lcc:pure", 1)] * 2


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["absent.jsonl"], 2),
        (["generated:x"], 2),
        (["generated:1", "--baselines", "best"], 2),
        (["generated:1", "--compilers", "magic"], 2),
        (["generated:1", "--ratio", "0.5"], 2),
        (["generated:1", "--ratio", "x"], 2),
        (["generated:1", "--preset", "magic"], 2),
        (["generated:1", "--json", "no/such/folder/out.json"], 2),
    ],
)
def test_eval_refuses_before_it_works(cli: Cli, words: list[str], code: int) -> None:
    assert cli("eval", *words).code == code


@pytest.mark.parametrize("line", [b"{bad", b"\xff", b"[]", b'{"context": "", "questions": []}'])
def test_eval_names_the_malformed_line(cli: Cli, records: Path, line: bytes) -> None:
    records.write_bytes(records.read_bytes() + b"\n" + line)
    done = cli("eval", records, "--json", "-")
    assert (done.code, done.json["error"]["type"]) == (1, "DocumentError")
    assert "line 3" in done.json["error"]["message"]


def test_eval_needs_questions_with_answers(cli: Cli, records: Path) -> None:
    records.write_text(json.dumps({"context": TEXT, "questions": [{"q": "Who?", "answers": []}]}))
    done = cli("eval", records)
    assert (done.code, "questions that have answers" in done.err) == (2, True)


def test_demo(cli: Cli) -> None:
    done = cli("demo", "--json", *OPTIONS)
    assert done.code == 0
    result = done.json
    assert result["latent"]["total"] == 8
    assert {asked["route"] for asked in result["text"]["asked"]} == {"text"}
    assert {asked["route"] for asked in result["latent"]["asked"]} == {"latent"}
    assert result["forgotten"]["from_memory"] == 0
    assert cli("demo", "--home", Path(__file__).parent).code == 2  # not an empty folder


def test_version_and_help(cli: Cli) -> None:
    assert cli("--version").out == f"memkit {__version__}\n"
    shown = cli("--help").out
    for command in ("demo", "remember", "ask", "list", "show", "forget", "verify", "eval", "doctor"):
        assert command in shown
        assert cli(command, "--help").code == 0
