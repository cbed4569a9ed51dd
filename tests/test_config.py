"""The configuration: arguments, environment, file, defaults; and everything that it reaches."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from memkit.artifact.signing import generate
from memkit.compilers.distillation.teacher_cache import default_cache
from memkit.config import SETTINGS, Config
from memkit.engine.factory import create_engine, create_local_engine, secret_file
from memkit.engine.transformers.decoder_checkpoint import default_store
from memkit.errors import ConfigError
from memkit.memory import Memory, default_home
from memkit.server.config import ServerConfig
from memkit.testing import TEXT, TINY_LCC

Cli = Callable[..., Any]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of settings that is read, and no variable that stands before it."""
    for setting in SETTINGS:
        monkeypatch.delenv(setting.variable, raising=False)
    path = tmp_path / "memkit.toml"
    path.write_text("")
    monkeypatch.setenv("MEMKIT_CONFIG", str(path))
    return path


@pytest.fixture(autouse=True)
def environment_unchanged() -> Iterator[None]:
    yield
    assert not {"TRANSFORMERS_VERBOSITY", "HF_HUB_DISABLE_PROGRESS_BARS"} & set(os.environ)


def test_every_setting_is_a_field() -> None:
    names = {each.name for each in fields(Config)}
    assert {setting.attribute for setting in SETTINGS} <= names
    assert {s.variable for s in SETTINGS} == {f"MEMKIT_{s.name.upper()}" for s in SETTINGS}
    hidden = {each.name for each in fields(Config) if not each.repr}
    urls = {"database", "artifacts", "sglang_urls", "upstream"}  # which may hold a password
    assert hidden == urls | {setting.attribute for setting in SETTINGS if setting.secret}


def test_arguments_then_environment_then_file_then_defaults(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Config.load() == Config()
    file.write_text('model = "file"\ncompiler = "lora"\nbank = "sqlite:///x"\ncache = ""\n')
    monkeypatch.setenv("MEMKIT_MODEL", "environment")
    monkeypatch.setenv("MEMKIT_DTYPE", "bfloat16")
    monkeypatch.setenv("MEMKIT_COMPILER", "")  # as if it were not set
    found = Config.load(dtype="float32", model=None)
    assert (found.model, found.dtype, found.compiler) == ("environment", "float32", "lora")
    assert (found.database, found.cache, found.embedder) == ("sqlite:///x", None, "lexical")
    other = file.parent / "other.toml"
    other.write_text('compiler = "meanpool"\n')
    assert Config.load(other).compiler == "meanpool"
    with pytest.raises(ConfigError, match="no file"):
        Config.load(file.parent / "absent.toml")


def test_lists_and_paths(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('sglang_urls = "http://a, http://b"\ntrusted_keys = ["/a.pub", "/b.pub"]\n')
    found = Config.load()
    assert found.sglang_urls == ("http://a", "http://b")
    assert found.trusted_keys == (Path("/a.pub"), Path("/b.pub"))
    assert found.engine == "transformers"  # servers that are known need not answer
    assert Config.load(sglang_urls=["http://c"]).engine == "sglang"
    file.write_text('model = ["a"]\n')
    with pytest.raises(ConfigError, match="in quotes"):
        Config.load()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"modle": "x"}, "unknown setting modle; there are: artifacts, "),
        ({"engine": "fast"}, "the engine is one of transformers, sglang"),
        ({"dtype": "float16"}, "the dtype is one of float32, bfloat16"),
        ({"keep": 0}, "keep must be at least 1"),
        ({"engine": "transformers", "sglang_urls": ["http://x"]}, "--url belongs"),
    ],
)
def test_wrong_arguments(file: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.load(**arguments)


def test_it_is_frozen_and_can_be_sent() -> None:
    config = Config(Path("bank"), "tiny", options={"ratio": 8}, judge_key="very secret")
    again = pickle.loads(pickle.dumps(config))
    assert (again, hash(again), again.judge_key) == (config, hash(config), "very secret")
    assert "very secret" not in repr(config)
    with pytest.raises(AttributeError):
        config.model = "other"  # type: ignore[misc]


def test_the_file_reaches_what_lies_deep_inside(file: Path, tmp_path: Path, tiny_model_folder: Path) -> None:
    pytest.importorskip("cryptography")
    private, _ = generate(tmp_path / "key")
    file.write_text(
        f'home = "{tmp_path / "bank"}"\nmodel = "{tiny_model_folder}"\ndtype = "bfloat16"\n'
        f'checkpoints = "{tmp_path / "checkpoints"}"\ncache = "{tmp_path / "cache"}"\n'
        f'sglang_secret = "{tmp_path / "secret"}"\nsigning_key = "{private}"\n'
    )
    before = dict(os.environ)
    config = Config.load()
    assert (default_home(), default_store(), default_cache()) == (
        tmp_path / "bank",
        tmp_path / "checkpoints",
        tmp_path / "cache",
    )
    assert secret_file(config) == tmp_path / "secret"
    assert create_engine(config) is None
    base = create_local_engine(config).base
    assert str(base.model.dtype) == "torch.bfloat16"
    assert (base.checkpoints, base.cache) == (config.checkpoints, config.cache)
    with Memory() as memory:
        assert memory.bank.path == tmp_path / "bank"
        assert memory.context.compiling.signer is not None
    assert dict(os.environ) == before


def test_what_is_given_reaches_it_without_any_file(tmp_path: Path, tiny_model_folder: Path) -> None:
    """The answers of the teacher are kept in the folder that a configuration names."""
    config = Config(
        tmp_path / "bank", str(tiny_model_folder), **TINY_LCC, cache=tmp_path / "mine", quiet=True
    )
    with Memory(config=config) as memory:
        memory.compile(memory.remember(TEXT, compile=False).id)
    assert [path.suffix for path in (tmp_path / "mine").rglob("*.json")] == [".json"]


def test_the_file_stands_in_for_options_that_are_not_given(
    cli: Cli, file: Path, tmp_path: Path, document: Path
) -> None:
    file.write_text(f'home = "{tmp_path / "third"}"\nuser = "file"\n')
    before = dict(os.environ)
    assert cli("remember", document).code == 0
    assert (tmp_path / "third" / "catalog.sqlite3").is_file()
    assert len(cli("list", "--user", "file", "--json").json["memories"]) == 1
    assert dict(os.environ) == before


def test_keys_of_the_file_sign_and_are_trusted(cli: Cli, file: Path, tmp_path: Path, document: Path) -> None:
    pytest.importorskip("cryptography")
    private, public = generate(tmp_path / "key")
    file.write_text(f'home = "{tmp_path / "bank"}"\nsigning_key = "{private}"\ntrusted_keys = ["{public}"]\n')
    memory_id = cli("remember", document, "--json").json["memory"]["id"]
    bundle = tmp_path / "bundle"
    done = cli("export", memory_id, bundle)
    assert "--key" not in done.err, done.err  # the file names it
    file.write_text(f'home = "{tmp_path / "bank"}"\n')
    assert "--key" in cli("export", memory_id, bundle).err


@pytest.mark.parametrize(
    "wrong",
    [
        {"keep": "3"},
        {"keep": True},
        {"home": 3},
        {"home": None},
        {"trusted_keys": "/a/b"},
        {"sglang_urls": "http://a"},
        {"options": [1]},
        {"model": 3},
        {"quiet": "no"},
        {"log": "xml"},
    ],
)
def test_a_value_of_another_type_is_an_error(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Config(**wrong)


def test_passwords_in_urls_are_not_shown() -> None:
    config = Config(database="postgresql+psycopg://u:hush@h/db", upstream="http://u:hush@h/")
    assert "hush" not in repr(config)
    with pytest.raises(ConfigError) as raised:
        ServerConfig(upstream="ftp://u:hush@h")
    assert "hush" not in str(raised.value)


def test_a_memory_takes_the_user_of_its_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Memory(config=Config(home=tmp_path, user="bob")) as memory:
        assert memory.user == "bob"
        assert Memory(memory.bank, user="default", config=Config(user="bob")).user == "default"
    monkeypatch.setenv("MEMKIT_USER", "mira")
    with Memory(tmp_path) as memory:
        assert memory.user == "mira"
    with Memory(config=Config(home=tmp_path)) as memory:
        assert memory.user == "default"
    wrong: list[Any] = [{"home": tmp_path}, "x.toml"]
    for config in wrong:
        with pytest.raises(ConfigError, match="Config"):
            Memory(config=config)


def test_lists_of_the_file_are_defaults_of_commands(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "memkit.toml"
    file.write_text('trusted_keys = ["a.pub", "b.pub"]\nsglang_urls = "http://a:1"\n')
    monkeypatch.setenv("MEMKIT_CONFIG", str(file))
    for command in ("verify", "import", "ask", "serve"):
        assert cli(command, "--help").code == 0
    assert "a.pub" in cli("import", str(file)).err


def test_a_wrong_setting_keeps_no_version_from_being_shown(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMKIT_DTYPE", "float16")
    assert cli("--version").code == 0
    assert cli("list").code == 2


@pytest.mark.parametrize("source", ["environment", "file"])
def test_the_gate_of_the_configuration_reaches_commands(
    cli: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    if source == "environment":
        monkeypatch.setenv("MEMKIT_GATE", "nonsense")
    else:
        file = tmp_path / "memkit.toml"
        file.write_text('gate = "nonsense"\n')
        monkeypatch.setenv("MEMKIT_CONFIG", str(file))
    assert "unknown gate 'nonsense'" in cli("ask", "Where does Mira live?").err
    assert "unknown gate 'nonsense'" not in cli("ask", "Where does Mira live?", "--gate", "rule").err
