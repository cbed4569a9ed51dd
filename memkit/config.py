"""The configuration of memkit, from arguments, the environment, a file and defaults, in that order.

The file is TOML, in the platform's configuration folder or at ``MEMKIT_CONFIG``; `SETTINGS` lists its keys.
The environment is only read: code that needs a value gets a `Config`, or the value itself.
"""

from __future__ import annotations

import os
import re
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
    """A setting: its ``name`` in the file, its environment ``variable``, its default and its description.

    ``field`` is the name of its field of `Config`, if different. A setting with a ``separator`` is a list: a
    text with the separator between items, or an array in the file. A ``secret`` is never shown.
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
        """The value that a text stands for, as `Config` takes it."""
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
    """A path with a leading ``~`` or ``~user`` replaced by the home folder.

    Raises `ConfigError` if that home folder is not known.
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


_PATHS = ("home", "signing_key", "sglang_secret", "checkpoints", "cache")
_SECRETS = ("sglang_api_key", "upstream_key", "metrics_token", "judge_key")
_TEXTS = (
    "model",
    "user",
    "compiler",
    "embedder",
    "gate",
    "database",
    "artifacts",
    "log",
    "upstream",
    *_SECRETS,
)


def _shown(name: str, value: object) -> str:
    """A value as errors quote it: nothing of a secret."""
    return type(value).__name__ if name in _SECRETS else f"{value!r:.40}"


@dataclass(frozen=True)
class Config:
    """All settings of memkit, typed. It can be pickled and sent to other processes; ``repr`` omits
    secrets, and URLs, which may hold some.

    `load` reads arguments, environment and file; the constructor takes arguments alone.

    Bank: ``home`` is its folder; ``database`` (a URL) and ``artifacts`` (a URL or a folder) are the parts
    that machines share (None: this machine's own); ``user`` owns the memories (None: the user ``default``,
    or the tenant itself if one is named). Artifacts are signed with the key in ``signing_key``;
    ``trusted_keys`` are those that `memkit verify` and `memkit import` accept.

    Model: ``model`` is a name that `memkit.models.loading.load` knows, ``dtype`` that of its weights (None:
    float32 on a CPU, else bfloat16); ``checkpoints`` is the folder of trained compressors, ``cache`` that of
    data that can be computed again (None: the platform's folders).

    Memories: ``compiler``, "auto" or a name, and its ``options``; ``embedder`` and ``gate`` by name; ``keep``
    is the number of versions that stay of each memory (None: all).

    Engine: "transformers" runs in this process; "sglang" needs ``sglang_urls``, and uses ``sglang_secret``
    (a file; None: the bank's own) and ``sglang_api_key``.

    ``upstream``, ``upstream_key`` and ``metrics_token`` are the server's, ``judge_key`` that of evaluations.
    ``log`` is "text" or "json" for log records of the command (None: none); ``quiet`` silences the progress
    bars and the advice of libraries. Raises `ConfigError` for a value that is not valid.
    """

    home: Path = field(default_factory=_data_folder)
    model: str = "nano"
    _: KW_ONLY
    user: str | None = None
    dtype: DtypeName | None = None
    compiler: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict, hash=False)
    embedder: str = "lexical"
    gate: str = "auto"
    keep: int | None = None
    database: str | None = field(default=None, repr=False)
    artifacts: str | None = field(default=None, repr=False)
    signing_key: Path | None = None
    trusted_keys: tuple[Path, ...] = ()
    engine: EngineName = "transformers"
    sglang_urls: tuple[str, ...] = field(default=(), repr=False)
    sglang_secret: Path | None = None
    sglang_api_key: str | None = field(default=None, repr=False)
    checkpoints: Path | None = None
    cache: Path | None = None
    log: str | None = None
    upstream: str | None = field(default=None, repr=False)
    upstream_key: str | None = field(default=None, repr=False)
    metrics_token: str | None = field(default=None, repr=False)
    judge_key: str | None = field(default=None, repr=False)
    quiet: bool = False

    def __post_init__(self) -> None:
        self._check_types()
        for name in _PATHS:
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
        if self.log not in (None, "text", "json"):
            raise ConfigError(f"log must be 'text' or 'json', got {self.log!r:.40}")

    def _check_types(self) -> None:
        """Raise `ConfigError` for a value of another type than its field's."""
        wanted: dict[str, tuple[tuple[type, ...], str]] = dict.fromkeys(
            _PATHS, ((str, Path), "a path")
        ) | dict.fromkeys(_TEXTS, ((str,), "a string"))
        wanted |= {"options": ((Mapping,), "a mapping"), "quiet": ((bool,), "true or false")}
        wanted |= dict.fromkeys(("trusted_keys", "sglang_urls"), ((list, tuple), "a list"))
        optional = {each.name for each in fields(self) if each.default is None}
        for name, (types, described) in wanted.items():
            value = getattr(self, name)
            if not isinstance(value, types) and not (value is None and name in optional):
                raise ConfigError(f"{name} must be {described}, got {_shown(name, value)}")
        if self.keep is not None and (isinstance(self.keep, bool) or not isinstance(self.keep, int)):
            raise ConfigError(f"keep must be a whole number, got {self.keep!r:.40}")
        for name in ("trusted_keys", "sglang_urls"):
            if not all(isinstance(item, str | Path) for item in getattr(self, name)):
                raise ConfigError(f"{name} must be a list of strings")

    @classmethod
    def load(cls, file: str | Path | None = None, **arguments: Any) -> Self:
        """The configuration of these arguments, the environment, the file and the defaults, in that order.

        ``file`` must exist (default: `default_file`, which need not). An argument that is None was not
        given. The argument ``sglang_urls`` without an ``engine`` chooses the engine sglang. Raises
        `ConfigError` for an unknown argument, for a file that cannot be read or holds an unknown setting, and
        for a wrong value.
        """
        given = {name: value for name, value in arguments.items() if value is not None}
        names = {each.name for each in fields(cls)}
        if unknown := sorted(set(given) - names):
            raise ConfigError(f"unknown setting {', '.join(unknown)}; there are: {', '.join(sorted(names))}")
        if given.get("sglang_urls") and given.setdefault("engine", "sglang") != "sglang":
            raise ConfigError("--url belongs to the engine sglang")
        for each in values(read(None if file is None else expanded(file))):
            if each.value and each.source != "default":
                given.setdefault(each.setting.attribute, each.setting.parse(each.value))
        return cls(**given)


SETTINGS = (
    Setting("home", "MEMKIT_HOME", "", "Folder of the bank; empty: the platform's folder for user data."),
    Setting("user", "MEMKIT_USER", "default", "User whose memories commands use."),
    Setting("model", "MEMKIT_MODEL", "nano", "nano, smollm2, a hub id, a folder or a .gguf file."),
    Setting("dtype", "MEMKIT_DTYPE", "", "Data type of the weights; empty: float32 on CPUs, else bfloat16."),
    Setting("compiler", "MEMKIT_COMPILER", "auto", "Compiler: auto, compact, lcc, lora or meanpool."),
    Setting("gate", "MEMKIT_GATE", "auto", "Gate: auto, rule, entropy, learned or a registered one."),
    Setting("embedder", "MEMKIT_EMBEDDER", "lexical", "Retrieval of memories: lexical, sentence or hybrid."),
    Setting(
        "bank",
        "MEMKIT_BANK",
        "",
        "Catalog shared by several machines: postgresql+psycopg://...",
        field="database",
    ),
    Setting("artifacts", "MEMKIT_ARTIFACTS", "", "Store of shared artifacts: s3://bucket/folder, ..."),
    Setting("signing_key", "MEMKIT_SIGNING_KEY", "", "Private key file that signs artifacts and bundles."),
    Setting(
        "trusted_keys",
        "MEMKIT_TRUSTED_KEYS",
        "",
        "Trusted public key files, separated by colons (Windows: ;).",
        separator=os.pathsep,
    ),
    Setting("engine", "MEMKIT_ENGINE", "transformers", "Engine that answers: transformers or sglang."),
    Setting(
        "sglang_urls", "MEMKIT_SGLANG_URLS", "", "URLs of SGLang servers, separated by commas.", separator=","
    ),
    Setting("sglang_secret", "MEMKIT_SGLANG_SECRET", "", "File with the bank's secret for cache salts."),
    Setting("sglang_api_key", "MEMKIT_SGLANG_API_KEY", "", "API key of the SGLang servers.", secret=True),
    Setting("checkpoints", "MEMKIT_CHECKPOINTS", "", "Folder of trained compressors."),
    Setting("cache", "MEMKIT_CACHE", "", "Folder of data that can be computed again."),
    Setting("log", "MEMKIT_LOG", "", "Log records on standard error: text or json; empty: none."),
    Setting("upstream", "MEMKIT_UPSTREAM", "", "OpenAI-compatible server that answers for `memkit serve`."),
    Setting("upstream_key", "MEMKIT_UPSTREAM_KEY", "", "API key of the upstream.", secret=True),
    Setting(
        "metrics_token",
        "MEMKIT_METRICS_TOKEN",
        "",
        "Token that opens /metrics of `memkit serve`.",
        secret=True,
    ),
    Setting("judge_key", "MEMKIT_JUDGE_KEY", "", "API key of the server that judges answers.", secret=True),
)


def default_file() -> Path:
    """The file in the platform's configuration folder, or the one that ``MEMKIT_CONFIG`` names."""
    if path := path_of(FILE_VARIABLE):
        return path
    from platformdirs import user_config_path

    return user_config_path("memkit", appauthor=False) / FILE


def read(file: Path | None = None) -> dict[str, str]:
    """The file's settings as texts, by name. Empty if the default file does not exist.

    Raises `ConfigError` for a named file that does not exist, and for one that cannot be read, is not TOML or
    holds an unknown setting.
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
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    known = {setting.name: setting for setting in SETTINGS}
    if unknown := sorted(set(found) - set(known)):
        raise ConfigError(
            f"{path}: unknown setting {', '.join(unknown)}; there are: {', '.join(sorted(known))}"
        )
    return {name: _text(path, known[name], value) for name, value in found.items()}


def _text(path: Path, setting: Setting, value: Any) -> str:
    """A value of the file as text. Raises `ConfigError` for a value of another type."""
    if setting.separator and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return setting.separator.join(value)
    if setting.separator and not isinstance(value, str):
        raise ConfigError(f"{path}: {setting.name} must be a string or a list of strings, got {value!r:.80}")
    if not isinstance(value, str):
        example = "" if isinstance(value, list | dict) else f': {setting.name} = "{value}"'
        raise ConfigError(f"{path}: {setting.name} must be a string in quotes{example}")
    return value


def values(texts: Mapping[str, str]) -> list[Value]:
    """Every setting with its value and its source; ``texts`` are those of the file (see `read`)."""
    return [_value(setting, texts) for setting in SETTINGS]


def _value(setting: Setting, texts: Mapping[str, str]) -> Value:
    if given := os.environ.get(setting.variable):
        return Value(setting, given, "environment")
    if setting.name in texts:
        return Value(setting, texts[setting.name], "file")
    return Value(setting, setting.default, "default")


def without_password(text: str) -> str:
    """A text as it may be shown: the password of a URL is left out."""
    return re.sub(r"(?<=://)([^/@\s]*?):[^@\s]*@", r"\1:***@", text)


def template() -> str:
    """The text of a file that lists every setting, commented out."""
    lines = [
        "# Settings of memkit. Flags override the environment, and the environment overrides this file.",
        "",
    ]
    for setting in SETTINGS:
        lines += [
            f"# {setting.about}",
            f'# {setting.name} = "{setting.default}"  # or {setting.variable}',
            "",
        ]
    return "\n".join(lines)
