"""The configuration of memkit: arguments first, then the environment, then a file, then defaults.

The file is TOML, in the platform's folder for configuration or where ``MEMKIT_CONFIG`` says; `SETTINGS` lists
what it may hold. Nothing here changes the environment: whoever needs a value gets the `Config`, or the value.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args

from memkit.errors import ConfigError

Source = Literal["environment", "file", "default"]
EngineName = Literal["transformers", "sglang"]
DtypeName = Literal["float32", "bfloat16"]
FILE_VARIABLE = "MEMKIT_CONFIG"
FILE = "config.toml"


@dataclass(frozen=True)
class Setting:
    """One setting of the file: its name there, its environment variable, its default and what it is for.

    ``field`` is its field of `Config`, where that has another name. A setting with a ``separator`` is a list:
    a text with the separator between two items, or an array in the file.
    """

    name: str
    variable: str
    default: str
    about: str
    secret: bool = False
    field: str = ""
    separator: str = ""

    @property
    def attribute(self) -> str:
        """The name of its field of `Config`."""
        return self.field or self.name

    def parse(self, text: str) -> Any:
        """The setting's value of a text, as `Config` takes it."""
        if not self.separator:
            return text
        return tuple(part.strip() for part in text.split(self.separator) if part.strip())


@dataclass(frozen=True)
class Value:
    """A setting's value as text, and where it comes from."""

    setting: Setting
    value: str
    source: Source


def expanded(path: str | Path) -> Path:
    """A path whose first part may be ``~`` or ``~user``: a home folder. Other paths stay as they are.

    Raises `ConfigError` where that home folder is not known.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{path}: the home folder is not known; give the whole path") from error


def path_of(variable: str) -> Path | None:
    """The path in an environment variable, or None where it is empty or not set."""
    text = os.environ.get(variable)
    return expanded(text) if text else None


def _data_folder() -> Path:
    from platformdirs import user_data_path

    return user_data_path("memkit", appauthor=False)


@dataclass(frozen=True)
class Config:
    """What a bank, a model and those who use them need to know; see `SETTINGS` for the names in the file.

    `load` reads arguments, environment and file; the constructor takes arguments alone. ``home`` is the
    bank's folder. ``database`` and ``artifacts`` are the parts of a bank that machines share (None: this
    machine's own). ``options`` are the compiler's, ``gate`` a name that `memkit.router.gate.resolve_gate`
    knows, ``keep`` the number of versions that stay of each memory (None: all). ``dtype`` None is float32 on
    a CPU and bfloat16 elsewhere. ``checkpoints`` and ``cache`` are folders (None: the platform's). ``user``
    None is the user ``default``, or a tenant itself where one is named.
    ``quiet`` keeps the libraries' progress bars and advice out of the process's output.

    It can be sent to other processes. Secrets are in no ``repr``. Raises `ConfigError` for a value that
    cannot be.
    """

    home: Path = field(default_factory=_data_folder)
    model: str = "nano"
    _: KW_ONLY
    user: str | None = None
    dtype: DtypeName | None = None
    compiler: str = "lcc"
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    embedder: str = "lexical"
    gate: str = "auto"
    keep: int | None = None
    database: str | None = None
    artifacts: str | None = None
    signing_key: Path | None = None
    trusted_keys: tuple[Path, ...] = ()
    engine: EngineName = "transformers"
    sglang_urls: tuple[str, ...] = ()
    sglang_secret: Path | None = None
    sglang_api_key: str | None = field(default=None, repr=False)
    checkpoints: Path | None = None
    cache: Path | None = None
    log: str | None = None
    upstream: str | None = None
    upstream_key: str | None = field(default=None, repr=False)
    metrics_token: str | None = field(default=None, repr=False)
    judge_key: str | None = field(default=None, repr=False)
    quiet: bool = False

    def __post_init__(self) -> None:
        for name in ("home", "signing_key", "sglang_secret", "checkpoints", "cache"):
            if (path := getattr(self, name)) is not None:
                object.__setattr__(self, name, expanded(path))
        object.__setattr__(self, "trusted_keys", tuple(expanded(path) for path in self.trusted_keys))
        object.__setattr__(self, "sglang_urls", tuple(self.sglang_urls))
        if self.artifacts and self.artifacts.startswith("~"):  # the URL of a store never does
            object.__setattr__(self, "artifacts", str(expanded(self.artifacts)))
        if self.engine not in get_args(EngineName):
            names = ", ".join(get_args(EngineName))
            raise ConfigError(f"the engine is one of {names}, not {self.engine!r:.40}")
        if self.dtype is not None and self.dtype not in get_args(DtypeName):
            raise ConfigError(f"the dtype is one of {', '.join(get_args(DtypeName))}, not {self.dtype!r:.40}")
        if self.keep is not None and self.keep < 1:
            raise ConfigError(f"keep must be at least 1, got {self.keep}")

    @classmethod
    def load(cls, file: Path | None = None, **arguments: Any) -> Self:
        """The configuration of these arguments, the environment, the file and the defaults, in that order.

        ``file`` must exist (default: `default_file`, which need not). An argument that is None was not
        given. ``sglang_urls`` without an ``engine`` choose the engine sglang. Raises `ConfigError` for an
        unknown argument, for a file that cannot be read or holds an unknown setting, and for a wrong value.
        """
        given = {name: value for name, value in arguments.items() if value is not None}
        names = {each.name for each in fields(cls)}
        if unknown := sorted(set(given) - names):
            raise ConfigError(f"unknown setting {', '.join(unknown)}; there are: {', '.join(sorted(names))}")
        if given.get("sglang_urls") and given.setdefault("engine", "sglang") != "sglang":
            raise ConfigError("--url belongs to the engine sglang")
        for each in values(read(file)):
            if each.value and each.source != "default":
                given.setdefault(each.setting.attribute, each.setting.parse(each.value))
        return cls(**given)


SETTINGS = (
    Setting("home", "MEMKIT_HOME", "", "Folder of the bank; empty: the platform's folder for user data."),
    Setting("user", "MEMKIT_USER", "default", "Whose memories commands are about."),
    Setting("model", "MEMKIT_MODEL", "nano", "nano, smollm2, a hub id, a folder or a .gguf file."),
    Setting("dtype", "MEMKIT_DTYPE", "", "Of the model's weights; empty: float32 on CPUs, else bfloat16."),
    Setting("compiler", "MEMKIT_COMPILER", "lcc", "How memories are compiled: lcc, lora or meanpool."),
    Setting("embedder", "MEMKIT_EMBEDDER", "lexical", "How they are found: lexical, sentence or hybrid."),
    Setting(
        "bank", "MEMKIT_BANK", "", "Catalog that machines share: postgresql+psycopg://...", field="database"
    ),
    Setting("artifacts", "MEMKIT_ARTIFACTS", "", "Where shared artifacts are: s3://bucket/folder, ..."),
    Setting("signing_key", "MEMKIT_SIGNING_KEY", "", "Key file that artifacts and bundles are signed with."),
    Setting(
        "trusted_keys",
        "MEMKIT_TRUSTED_KEYS",
        "",
        "Public key files, a colon between two (Windows: ;).",
        separator=os.pathsep,
    ),
    Setting("engine", "MEMKIT_ENGINE", "transformers", "What answers: transformers or sglang."),
    Setting("sglang_urls", "MEMKIT_SGLANG_URLS", "", "SGLang servers, a comma between two.", separator=","),
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


def default_file() -> Path:
    """The file in the platform's folder for configuration, or the one that ``MEMKIT_CONFIG`` names."""
    if path := path_of(FILE_VARIABLE):
        return path
    from platformdirs import user_config_path

    return user_config_path("memkit", appauthor=False) / FILE


def read(file: Path | None = None) -> dict[str, str]:
    """The texts in the file, by the settings' names; nothing where there is no file, unless it was named.

    Raises `ConfigError` for a file that cannot be read, is not TOML or holds an unknown setting.
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
    known = {setting.name: setting for setting in SETTINGS}
    if unknown := sorted(set(found) - set(known)):
        raise ConfigError(
            f"{path}: unknown setting {', '.join(unknown)}; there are: {', '.join(sorted(known))}"
        )
    return {name: _text(path, known[name], value) for name, value in found.items()}


def _text(path: Path, setting: Setting, value: Any) -> str:
    """A value of the file as text. Raises `ConfigError` for one of another type."""
    if setting.separator and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return setting.separator.join(value)
    if not isinstance(value, str):
        raise ConfigError(f'{path}: {setting.name} must be a text in quotes, as {setting.name} = "{value}"')
    return value


def values(texts: Mapping[str, str]) -> list[Value]:
    """Every setting as the process sees it; ``texts`` are those of the file."""
    return [_value(setting, texts) for setting in SETTINGS]


def _value(setting: Setting, texts: Mapping[str, str]) -> Value:
    if given := os.environ.get(setting.variable):
        return Value(setting, given, "environment")
    if setting.name in texts:
        return Value(setting, texts[setting.name], "file")
    return Value(setting, setting.default, "default")


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
