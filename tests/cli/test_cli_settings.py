"""Settings: flag, environment, file, default; the chat; shell completion; the help."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from memkit import config
from memkit.cli.command_table import COMMANDS
from memkit.cli.lazy_loading import Command, Group
from memkit.errors import ConfigError
from memkit.testing import TEXT

pytestmark = pytest.mark.wheel
Cli = Callable[..., Any]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "memkit.toml"
    monkeypatch.setenv(config.FILE_VARIABLE, str(path))
    return path


def decided(cli: Cli) -> dict[str, tuple[str, str]]:
    rows = cli("config", "--json").json["settings"]
    return {row["setting"]: (row["value"], row["from"]) for row in rows}


def test_a_flag_goes_before_the_environment_and_that_before_the_file(
    cli: Cli, file: Path, document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text('user = "file"\ncompiler = "lora"\nmodel = "nowhere"\n')
    monkeypatch.delenv("MEMKIT_COMPILER")
    assert decided(cli)["user"] == ("file", "file")
    assert decided(cli)["model"][1] == "environment"
    assert decided(cli)["compiler"] == ("lora", "file")
    assert decided(cli)["embedder"] == ("lexical", "default")
    cli("remember", document)
    assert len(cli("list", "--user", "file", "--json").json["memories"]) == 1
    monkeypatch.setenv("MEMKIT_USER", "environment")
    cli("remember", document)
    assert len(cli("list", "--json").json["memories"]) == 1
    assert cli("list", "--user", "flag", "--json").json["memories"] == []
    assert "MEMKIT_COMPILER" not in os.environ  # it was the file's, for as long as the command ran


def test_init_writes_a_file_that_changes_nothing(cli: Cli, file: Path) -> None:
    done = cli("init")
    assert (done.code, str(file) in done.out) == (0, True)
    assert tomllib.loads(file.read_text()) == {}
    before = decided(cli)
    file.write_text(
        "\n".join(line.removeprefix("# ") for line in file.read_text().splitlines() if "= " in line)
    )
    assert set(tomllib.loads(file.read_text())) == {setting.name for setting in config.SETTINGS}
    assert {name: value for name, (value, _) in decided(cli).items()} == {
        n: v for n, (v, _) in before.items()
    }
    assert cli("init").code == 2
    assert cli("init", "--force").code == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [("model =", "not valid TOML"), ("modle = 'x'", "unknown setting modle"), ("model = 3", "in quotes")],
)
def test_a_wrong_file_is_named_with_what_is_wrong(cli: Cli, file: Path, text: str, said: str) -> None:
    file.write_text(text)
    done = cli("list")
    assert done.code == 2
    assert said in done.err
    assert str(file) in done.err


def test_a_file_that_was_named_must_be_there(cli: Cli, file: Path) -> None:
    assert "memkit init" in cli("list").err
    with pytest.raises(ConfigError, match="no file"):
        config.read()


def test_secrets_are_not_shown(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMKIT_JUDGE_KEY", "very secret")
    done = cli("config")
    assert "very secret" not in done.out
    assert "(hidden)" in done.out


def test_a_chat_remembers(cli: Cli) -> None:
    told = TEXT.split(". ")[0] + "."
    done = cli(
        "chat", stdin=f"{told}\n\nWhere does Mira live?\n/why\n/list\n/what\n/quit\nnever read\n".encode()
    )
    assert done.code == 0
    assert "text: " in done.out
    assert told in done.out
    assert "/forget" in done.err
    (info,) = cli("list", "--json").json["memories"]
    assert (info["title"], info["entries"]) == ("profile", 1)
    assert "forgotten" in cli("chat", stdin=b"/forget\n").err
    assert cli("list", "--json").json["memories"] == []


def test_an_error_ends_no_chat(cli: Cli) -> None:
    done = cli("chat", stdin=(b"x\x00y\nWhere?\n"))
    assert done.code == 0
    assert "error: " in done.err
    assert done.out.strip()


def test_the_shell_completes_commands() -> None:
    asked = {"_MEMKIT_COMPLETE": "complete_bash", "COMP_WORDS": "memkit rem", "COMP_CWORD": "1"}
    code = "import sys; from memkit.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **asked}, capture_output=True, text=True, check=False
    )
    assert "remember" in done.stdout.split()


def _all(commands: Mapping[str, Command | Group]) -> Iterator[tuple[str, Command | Group]]:
    for name, each in commands.items():
        yield name, each
        if isinstance(each, Group):
            yield from _all(each.commands)


@pytest.mark.parametrize(("name", "command"), [pair for part in COMMANDS.values() for pair in _all(part)])
def test_the_table_of_commands_says_what_they_say(name: str, command: Command | Group) -> None:
    said = command.load(name).help.split("\n\n")[0]
    assert " ".join(said.split()) == command.summary


def test_the_help_has_headings(cli: Cli) -> None:
    done = cli("--help")
    assert "Remember and ask" in done.out
