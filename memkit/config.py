"""Settings of the ``memkit`` command: from the environment, else from a file, else their defaults.

The file is TOML with the names below. What it sets is put into the environment of the command, and of what it
starts, unless that says otherwise; so that a flag goes before the environment, and that before the file.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

from memkit.errors import ConfigError

Source = Literal["environment", "file", "default"]
FILE_VARIABLE = "MEMKIT_CONFIG"
FILE = "config.toml"


# Keeps progress bars and advice of libraries that a command imports out of its output.
QUIET: Mapping[str, str] = {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


@dataclass(frozen=True)
class Setting:
    """One setting: its name in the file, its variable, its default and what it is for."""

    name: str
    variable: str
    default: str
    about: str
    secret: bool = False


@dataclass(frozen=True)
class Value:
    """A setting's value, and where that comes from."""

    setting: Setting
    value: str
    source: Source


SETTINGS = (
    Setting("home", "MEMKIT_HOME", "", "Folder of the bank; empty: the platform's folder for user data."),
    Setting("user", "MEMKIT_USER", "default", "Whose memories commands are about."),
    Setting("model", "MEMKIT_MODEL", "nano", "nano, smollm2, a hub id, a folder or a .gguf file."),
    Setting("dtype", "MEMKIT_DTYPE", "", "Of the model's weights; empty: float32 on CPUs, else bfloat16."),
    Setting("compiler", "MEMKIT_COMPILER", "lcc", "How memories are compiled: lcc, lora or meanpool."),
    Setting("embedder", "MEMKIT_EMBEDDER", "lexical", "How they are found: lexical, sentence or hybrid."),
    Setting("bank", "MEMKIT_BANK", "", "Catalog that machines share: postgresql+psycopg://..."),
    Setting("artifacts", "MEMKIT_ARTIFACTS", "", "Where shared artifacts are: s3://bucket/folder, ..."),
    Setting("signing_key", "MEMKIT_SIGNING_KEY", "", "Key file that artifacts and bundles are signed with."),
    Setting("trusted_keys", "MEMKIT_TRUSTED_KEYS", "", "Public key files, a colon between two (Windows: ;)."),
    Setting("engine", "MEMKIT_ENGINE", "transformers", "What answers: transformers or sglang."),
    Setting("sglang_urls", "MEMKIT_SGLANG_URLS", "", "SGLang servers, a comma between two."),
    Setting("sglang_secret", "MEMKIT_SGLANG_SECRET", "", "File of the secret that makes cache salts."),
    Setting("sglang_api_key", "MEMKIT_SGLANG_API_KEY", "", "Key of the SGLang servers.", secret=True),
    Setting("checkpoints", "MEMKIT_CHECKPOINTS", "", "Folder of trained compressors."),
    Setting("cache", "MEMKIT_CACHE", "", "Folder of what can be made again."),
    Setting("log", "MEMKIT_LOG", "", "Log records on standard error: text or json; empty: none."),
    Setting("upstream", "MEMKIT_UPSTREAM", "", "OpenAI-compatible server that answers for `memkit serve`."),
    Setting("upstream_key", "MEMKIT_UPSTREAM_KEY", "", "What the upstream asks for.", secret=True),
    Setting("metrics_token", "MEMKIT_METRICS_TOKEN", "", "Opens /metrics of `memkit serve`.", secret=True),
    Setting("judge_key", "MEMKIT_JUDGE_KEY", "", "Key for the server that judges answers.", secret=True),
)


def expanded(path: str | Path) -> Path:
    """A path whose first part may be ``~`` or ``~user``: a home folder. Other paths stay as they are.

    Raises `ConfigError` where that home folder is not known.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{path}: the home folder is not known; give the whole path") from error


def path_of(variable: str) -> Path | None:
    """The path that an environment variable names, or None where it is empty or not set."""
    named = os.environ.get(variable)
    return expanded(named) if named else None


def default_file() -> Path:
    """The file in the platform's folder for configuration, or what ``MEMKIT_CONFIG`` names."""
    if named := path_of(FILE_VARIABLE):
        return named
    from platformdirs import user_config_path

    return user_config_path("memkit", appauthor=False) / FILE


def read(file: Path | None = None) -> dict[str, str]:
    """What the file says, by the settings' names; nothing where there is no file, unless it was named.

    Raises `ConfigError` for a file that cannot be read, is no TOML or holds an unknown setting.
    """
    path = file or default_file()
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if file is None and not os.environ.get(FILE_VARIABLE):
            return {}
        raise ConfigError(f"there is no file {path}; write one with `memkit init --file {path}`") from None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML file: {error}") from error
    known = {setting.name for setting in SETTINGS}
    if unknown := sorted(set(found) - known):
        raise ConfigError(
            f"{path}: unknown setting {', '.join(unknown)}; there are: {', '.join(sorted(known))}"
        )
    for name, value in found.items():
        if not isinstance(value, str):
            raise ConfigError(f'{path}: {name} must be a text in quotes, as {name} = "{value}"')
    return found


def values(found: Mapping[str, str]) -> list[Value]:
    """Every setting as the command sees it; ``found`` is what the file says."""
    return [_value(setting, found) for setting in SETTINGS]


def _value(setting: Setting, found: Mapping[str, str]) -> Value:
    if given := os.environ.get(setting.variable):
        return Value(setting, given, "environment")
    if setting.name in found:
        return Value(setting, found[setting.name], "file")
    return Value(setting, setting.default, "default")


@contextmanager
def applied(found: Mapping[str, str]) -> Iterator[None]:
    """While it lasts, the environment holds what the file says and the environment does not; and `QUIET`."""
    variables = {setting.name: setting.variable for setting in SETTINGS}
    given = {variables[name]: value for name, value in found.items() if value} | dict(QUIET)
    added = {name: value for name, value in given.items() if not os.environ.get(name)}
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def template() -> str:
    """A file that names every setting, all of them commented out."""
    lines = ["# Settings of memkit. A flag goes before the environment, and that before this file.", ""]
    for setting in SETTINGS:
        lines += [
            f"# {setting.about}",
            f'# {setting.name} = "{setting.default}"  # or {setting.variable}',
            "",
        ]
    return "\n".join(lines)


class Shared(TypedDict):
    """The parts of a bank that machines share; None: this machine's own."""

    database: str | None
    artifacts: str | None


def shared() -> Shared:
    """Where ``MEMKIT_BANK`` and ``MEMKIT_ARTIFACTS`` say that the shared parts of a bank are."""
    artifacts = os.environ.get("MEMKIT_ARTIFACTS") or None
    if artifacts and artifacts.startswith("~"):  # an address of a store never does
        artifacts = str(expanded(artifacts))
    return {"database": os.environ.get("MEMKIT_BANK") or None, "artifacts": artifacts}
