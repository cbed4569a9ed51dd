"""``memkit sglang-args``, and the checks of SGLang servers for ``memkit doctor``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeAlias

import typer

from memkit._version import __version__
from memkit.cli.lazy_loading import usable
from memkit.cli.options import Home, Json, Model, load_config, quiet_libraries
from memkit.cli.output import Output
from memkit.config import Config
from memkit.errors import ConfigError, MemkitError

Status: TypeAlias = Literal["ok", "warn", "fail"]


def sglang_args(
    bank: Annotated[
        str | None,
        typer.Option(
            "--bank",
            metavar="DIR|URL",
            help="The bank's folder, or the URL of its artifacts (--home is then its folder).",
            show_default=False,
        ),
    ] = None,
    page: Annotated[int, typer.Option("--page-size", min=1, metavar="N", help="Tokens per cache page.")] = 1,
    lora_rank: Annotated[
        int, typer.Option(min=0, metavar="R", help="Highest rank of LoRA artifacts; 0: serve none.")
    ] = 0,
    loaded: Annotated[int, typer.Option(min=1, metavar="N", help="LoRAs to keep loaded.")] = 32,
    batched: Annotated[int, typer.Option(min=1, metavar="N", help="LoRAs per batch.")] = 8,
    home: Home = None,
    model: Model = "nano",
    json: Json = False,
) -> None:
    """Prepare a bank for SGLang, and print the flags of a server for it.

    Writes the header of the model's prompt and the bank's secret to the bank's folder, unless they exist:
    python -m sglang.launch_server $(memkit sglang-args ...)
    """
    output = Output(json)
    quiet_libraries()
    from memkit.engine.sglang.plugin.server_args import ServerFlags, command, prepare
    from memkit.models.loading import load, served_path

    settings = load_config(home, model)
    url = bank if bank and "://" in bank else settings.artifacts
    folder = settings.home if bank is None or "://" in bank else usable(bank)
    try:
        flags = ServerFlags(page, lora_rank, loaded, batched)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    base = load(model, dtype=settings.dtype)
    config = prepare(folder, base, url)
    dtype = str(base.model.dtype).removeprefix("torch.")
    words = flags.of(served_path(model, dtype), config, dtype)
    result = {"flags": words, "fingerprint": base.fingerprint, "bank": str(folder)}
    output.result(result, lambda: output.say(command(words)))


def server_checks(config: Config, fingerprint: str | None) -> Iterator[tuple[str, Status, str]]:
    """Name, status and detail of each check of each server. ``fingerprint`` is the local model's."""
    from memkit.engine.factory import create_sglang_engine

    try:
        engine = create_sglang_engine(config)
    except MemkitError as error:
        yield "sglang", "fail", str(error)
        return
    try:
        for url in engine.config.urls:
            try:
                info = engine.server(url)
            except MemkitError as error:
                yield f"sglang {url}", "fail", str(error)
            else:
                yield from _server(url, info, fingerprint)
    finally:
        engine.close()


def _server(url: str, info: Mapping[str, Any], fingerprint: str | None) -> Iterator[tuple[str, Status, str]]:
    window, page = info["window"], info["page_size"]
    yield f"sglang {url}", "ok", f"SGLang {info['sglang']}, {info['dtype']}, {window} tokens, pages of {page}"
    if info["memkit"] == __version__:
        yield "plugin", "ok", f"memkit {info['memkit']}"
    else:
        yield "plugin", "warn", f"memkit {info['memkit']} there, {__version__} here: install the same"
    theirs = str(info["fingerprint"])
    if fingerprint in (None, theirs):
        yield "model", "ok", f"fingerprint {theirs[:16]}"
    else:
        yield (
            "model",
            "fail",
            f"{info['model']} in {info['dtype']} is {theirs[:16]}, not {str(fingerprint)[:16]}: what "
            "is compiled here does not fit it; serve the same model in the same dtype",
        )
    if not info["lora"]:
        yield "loras", "warn", "the server serves none: start it with the flags of sglang-args --lora-rank"
    if not info["hidden_states"]:
        yield "hidden states", "warn", "the server returns none, which calibrated gates may need"
