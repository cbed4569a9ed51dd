"""``~`` means the home folder: in variables, in options, in the file of settings and in Python."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

from memkit import config as settings
from memkit.artifact.signing import Signer, generate, trusted_keys
from memkit.bank import Bank
from memkit.bank.restore import restore
from memkit.cli import lazy_loading
from memkit.cli.command_table import COMMANDS
from memkit.cli.lazy_loading import Command, Group
from memkit.compilers.distillation.teacher_cache import default_cache
from memkit.config import Config
from memkit.document import Document
from memkit.engine.factory import secret_file
from memkit.engine.transformers.decoder_checkpoint import default_store
from memkit.engine.transformers.engine import TransformersEngine
from memkit.errors import ConfigError, DocumentError, ModelError
from memkit.memory import default_home
from memkit.router.embedders import resolve_embedder
from memkit.testing import TEXT

pytestmark = pytest.mark.wheel
Cli = Callable[..., Any]
PLACES: dict[str, Callable[[], Path]] = {
    "MEMKIT_HOME": default_home,
    "MEMKIT_CHECKPOINTS": default_store,
    "MEMKIT_CACHE": default_cache,
    "MEMKIT_SGLANG_SECRET": lambda: secret_file(Config.load()),
}


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of its own, and another one to work in, in which nothing may be called ``~``."""
    folder, elsewhere = tmp_path / "people" / "mira", tmp_path / "elsewhere"
    folder.mkdir(parents=True)
    elsewhere.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("USERPROFILE", str(folder))
    monkeypatch.chdir(elsewhere)
    return folder


@pytest.fixture(autouse=True)
def nothing_is_called_so(tmp_path: Path) -> Iterator[None]:
    yield
    assert list(tmp_path.rglob("~*")) == []


def titles(cli: Cli, *words: str) -> list[str]:
    return [info["title"] for info in cli("list", "--json", *words).json["memories"]]


def test_the_path_of_a_name(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.expanded("~/bank") == at_home / "bank"
    assert settings.expanded("~") == at_home
    assert settings.expanded("a/~/b") == Path("a/~/b")
    monkeypatch.setenv("MEMKIT_CACHE", "~/cache")
    assert settings.path_of("MEMKIT_CACHE") == at_home / "cache"
    monkeypatch.setenv("MEMKIT_CACHE", "")
    assert settings.path_of("MEMKIT_CACHE") is None
    with pytest.raises(ConfigError, match="the home folder is not known"):
        settings.expanded("~nobody-of-that-name/bank")


def test_in_the_variable_of_the_bank(cli: Cli, at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMKIT_HOME", "~/bank")
    assert cli("remember", "-", "--title", "mine", stdin=TEXT.encode()).code == 0
    assert (at_home / "bank" / "catalog.sqlite3").is_file()
    assert titles(cli, "--home", str(at_home / "bank")) == ["mine"]


def test_in_an_option(cli: Cli, at_home: Path) -> None:
    assert cli("remember", "-", "--title", "mine", "--home", "~/other", stdin=TEXT.encode()).code == 0
    assert (at_home / "other" / "catalog.sqlite3").is_file()
    assert titles(cli, "--home=~/other") == ["mine"]


def test_in_the_file_of_settings(cli: Cli, at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEMKIT_HOME")
    monkeypatch.setenv("MEMKIT_CONFIG", "~/memkit.toml")
    (at_home / "memkit.toml").write_text('home = "~/third"\n')
    assert cli("remember", "-", "--title", "mine", stdin=TEXT.encode()).code == 0
    assert (at_home / "third" / "catalog.sqlite3").is_file()
    assert titles(cli) == ["mine"]


def test_init_writes_there(cli: Cli, at_home: Path) -> None:
    assert cli("init", "--file", "~/made.toml").code == 0
    assert (at_home / "made.toml").is_file()


def test_of_files_that_are_read_and_written(cli: Cli, at_home: Path) -> None:
    (at_home / "notes.txt").write_text(TEXT)
    assert cli("remember", "~/notes.txt").code == 0
    assert titles(cli) == ["notes.txt"]
    assert Document.from_file("~/notes.txt").text == TEXT
    assert cli("backup", "~/bank.tar").code == 0
    assert cli("restore", "~/bank.tar", "--home", "~/restored").code == 0
    assert titles(cli, "--home", "~/restored") == ["notes.txt"]


def test_of_keys(cli: Cli, at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cryptography")
    assert cli("keygen", "~/a").code == 0
    assert sorted(path.name for path in at_home.iterdir()) == ["a", "a.pub"]
    generate("~/b")
    (at_home / "c").mkdir()
    assert len(trusted_keys(["~/a.pub", "~/b.pub"])) == 2
    assert Signer.from_file("~/a").key.public_key() == trusted_keys(["~/a.pub"])[0]
    trusting = ("verify", "--all", "--require-signed")
    assert "has no memories" in cli(*trusting, "--trust", "~/a.pub").err
    monkeypatch.setenv("MEMKIT_TRUSTED_KEYS", os.pathsep.join(["~/a.pub", "~/b.pub"]))
    assert "has no memories" in cli(*trusting).err
    monkeypatch.setenv("MEMKIT_TRUSTED_KEYS", os.pathsep.join(["~/a.pub", "~/none.pub"]))
    assert f"cannot read the key {at_home / 'none.pub'}" in cli(*trusting).err


def test_where_shared_artifacts_are(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMKIT_ARTIFACTS", "~/artifacts")
    assert Config.load().artifacts == str(at_home / "artifacts")
    for address in ("s3://bucket/~/x", "file:///srv/x"):
        monkeypatch.setenv("MEMKIT_ARTIFACTS", address)
        assert Config.load().artifacts == address


def test_where_libraries_keep_what_they_make(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, place in PLACES.items():
        monkeypatch.setenv(variable, "~/kept")
        assert place() == at_home / "kept"
        monkeypatch.setenv(variable, "")
        if variable != "MEMKIT_SGLANG_SECRET":
            assert place().is_absolute()


def test_of_a_server(at_home: Path, engine: TransformersEngine) -> None:
    pytest.importorskip("fastapi")
    from memkit.server.config import ServerConfig
    from memkit.server.dependencies import Services

    config = ServerConfig(home=Path("~/bank"), reports=Path("~/reports"))
    assert (config.home, config.reports) == (at_home / "bank", at_home / "reports")
    services = Services(config, engine)
    services.root.remember(TEXT, compile=False)
    services.close()
    assert (at_home / "bank" / "catalog.sqlite3").is_file()


def test_of_backups(at_home: Path) -> None:
    with Bank(at_home / "bank") as bank:
        bank.keys.create("acme")
        assert bank.backup("~/all.tar") == (at_home / "all.tar").stat().st_size
    assert restore("~/all.tar", "~/again", deletions="~/bank") == 0
    assert (at_home / "again" / "catalog.sqlite3").is_file()


def test_of_a_sentence_model(at_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sentence_transformers")
    (at_home / "mm").mkdir()
    assert resolve_embedder("sentence:~/mm").name == "sentence:mm"
    monkeypatch.setenv("MEMKIT_EMBEDDER", "sentence:~/mm")
    assert resolve_embedder(None).name == "sentence:mm"
    with pytest.raises(ModelError):
        _ = resolve_embedder(None).dim


def test_of_data_to_measure_on(cli: Cli, at_home: Path) -> None:
    (at_home / "empty.jsonl").write_text("{bad")
    assert f"{at_home / 'empty.jsonl'}, line 1" in cli("eval", "~/empty.jsonl").err
    assert "no such folder" not in cli("eval", "~", "--report").err
    assert f"there are no results in {at_home}" in cli("eval", "~", "--report").err.replace("~", str(at_home))


@pytest.mark.parametrize("command", ["keygen", "remember", "backup", "restore"])
def test_a_path_that_is_too_long_is_called_that(cli: Cli, command: str) -> None:
    done = cli(command, "x" * 300)
    assert done.code in (1, 2)
    assert "too long" in done.err
    assert "disk" not in done.err
    assert len(done.err) < 400


@pytest.mark.parametrize(
    "words",
    [("list", "--home"), ("init", "--file"), ("eval", "generated:1", "--json"), ("doctor", "--home")],
)
def test_an_option_with_a_path_that_is_too_long_is_called_that(cli: Cli, words: tuple[str, ...]) -> None:
    done = cli(*words, "x" * 300)
    assert done.code == 2
    assert "too long; give a shorter one" in done.err


def test_a_bank_that_cannot_be_there_says_why(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    for place, why in ((file, "a file is where the folder should be"), (file / "bank", "is a file and not")):
        done = cli("list", "--home", place)
        assert (done.code, why in done.err, "disk" in done.err) == (5, True, False)


def test_a_folder_is_no_document(cli: Cli, tmp_path: Path) -> None:
    done = cli("remember", tmp_path)
    assert (done.code, "Is a directory; give the path of a text file" in done.err) == (1, True)
    with pytest.raises(DocumentError, match="no file can have that name"):
        Document.from_file("a\x00b")


def _commands(table: Any) -> Iterator[Command]:
    for each in table.values():
        if isinstance(each, Group):
            yield from _commands(each.commands)
        else:
            yield each


def test_every_path_of_every_command_goes_the_same_way() -> None:
    """A path in the home folder of nobody: whatever the option, it does not reach the command."""
    seen = set[str]()
    for command in (each for part in COMMANDS.values() for each in _commands(part)):
        function = getattr(import_module(f"memkit.cli.{command.module}"), command.function)
        for name, parameter in signature(function, eval_str=True).parameters.items():
            if "Path" in str(parameter.annotation):
                seen.add(name)
                for value in (Path("~nobody-of-that-name/x"), [Path("~nobody-of-that-name/x")]):
                    with pytest.raises(ConfigError, match="the home folder is not known"):
                        lazy_loading.at_home(function)(**{name: value})
    assert {"home", "file", "trust", "key", "plot", "html", "reports", "metrics", "deletions"} <= seen
