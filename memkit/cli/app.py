"""The ``memkit`` command: its sub-commands, and what becomes of their errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import pairwise, takewhile
from typing import Annotated

import typer

from memkit import settings
from memkit._version import __version__
from memkit.cli import (
    backup,
    bench,
    bench_peers,
    bench_server,
    calibrate,
    chat,
    config,
    demo,
    doctor,
    evaluate,
    forget,
    manage,
    mcp,
    recompile,
    serve,
    serving,
    tenants,
    train,
    use,
    versions,
)
from memkit.cli.output import EXIT_CODES, InterruptError, Output
from memkit.errors import ConfigError, MemkitError

_EPILOG = "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()) + "."

_GUIDE = """Memory for LLM agents: documents compiled once into small artifacts for a frozen model.

Begin with [bold]memkit demo[/bold]. Then [bold]memkit remember notes.txt --wait[/bold] and
[bold]memkit ask "..." --trace[/bold], or talk: [bold]memkit chat[/bold]. Every night, [bold]memkit
recompile[/bold]. [bold]memkit COMMAND --help[/bold] tells more."""
_RUN, _MEASURE = "Run it for others", "Train and measure"
_COMMANDS: dict[str, dict[str, Callable[..., None]]] = {
    "Begin": {"demo": demo.demo, "init": config.init, "config": config.config, "doctor": doctor.doctor},
    "Remember and ask": {
        "remember": use.remember,
        "ask": use.ask,
        "chat": chat.chat,
        "list": manage.list_memories,
        "show": manage.show,
        "explain": recompile.explain,
        "forget": forget.forget,
    },
    "Versions": {
        "history": versions.history,
        "diff": versions.diff,
        "rollback": versions.rollback,
        "pin": versions.pin,
        "verify": manage.verify,
        "export": versions.export_bundle,
        "import": versions.import_bundle,
        "keygen": manage.keygen,
    },
    "Every night": {
        "recompile": recompile.recompile,
        "schedule": recompile.schedule,
        "cron": recompile.cron,
    },
    _RUN: {
        "serve": serve.serve,
        "mcp": mcp.mcp,
        "sglang-args": serving.sglang_args,
        "limit": tenants.limit,
        "backup": backup.backup,
        "restore": backup.restore,
    },
    _MEASURE: {
        "eval": evaluate.evaluate,
        "calibrate": calibrate.calibrate,
        "train-compressor": train.train_compressor,
    },
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (default: this process's) and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # not a text stream of this interpreter
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    output = Output(json=wants_json(arguments))
    try:
        found = {} if arguments[:1] in (["init"], ["config"]) else settings.read()
    except ConfigError as error:
        return output.fail(error)
    with settings.applied(found):
        return _run(arguments, output)


def _run(arguments: Sequence[str], output: Output) -> int:
    _log()
    command = typer.main.get_command(build())
    try:
        code = command.main(args=list(arguments), prog_name="memkit", standalone_mode=False)
        if code == 130:  # typer turns Ctrl-C into an exit code
            raise KeyboardInterrupt
    except (MemkitError, typer.TyperException) as error:
        return output.fail(error)
    except (KeyboardInterrupt, InterruptError) as error:
        return output.fail(error if isinstance(error, InterruptError) else InterruptError("interrupted"))
    return code if isinstance(code, int) else 0


def _log() -> None:
    """Log records on standard error, as lines or as JSON, where ``MEMKIT_LOG`` asks for them."""
    form = os.environ.get("MEMKIT_LOG")
    if form:
        import logging

        from memkit.observe import JsonFormatter

        handler = logging.StreamHandler()
        handler.setFormatter(JsonFormatter() if form == "json" else None)
        logger = logging.getLogger("memkit")
        logger.handlers = [handler]
        logger.setLevel(logging.INFO)


def build() -> typer.Typer:
    """The application with all its commands."""
    app = typer.Typer(
        name="memkit",
        help=_GUIDE,
        epilog=_EPILOG,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_root)
    for panel, commands in _COMMANDS.items():
        for name, function in commands.items():
            app.command(name, rich_help_panel=panel)(function)
    keys = typer.Typer(
        help="API keys, each of which lets its holder act for one user.",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    keys.callback()(lambda: None)
    keys.command("create")(tenants.create_key)
    keys.command("list")(tenants.list_keys)
    keys.command("revoke")(tenants.revoke_key)
    app.add_typer(keys, name="keys", rich_help_panel=_RUN)
    benches = typer.Typer(help="Measure costs.", context_settings={"help_option_names": ["-h", "--help"]})
    benches.callback()(lambda: None)
    benches.command("compile")(bench.bench_compile)
    benches.command("route")(bench.bench_route)
    benches.command("gate")(bench.bench_gate)
    benches.command("bank")(bench.bench_bank)
    benches.command("forget")(bench.bench_forget)
    benches.command("year")(bench.bench_year)
    benches.command("recompile")(bench.bench_recompile)
    benches.command("crash")(bench.bench_crash)
    benches.command("ttft")(bench.bench_ttft)
    benches.command("fuzz")(bench_server.bench_fuzz)
    benches.command("load")(bench_server.bench_load)
    benches.command("start")(bench.bench_start)
    benches.command("bytes")(bench.bench_bytes)
    benches.command("lora")(bench.bench_lora)
    benches.command("codec")(bench.bench_codec)
    benches.command("serve")(bench.bench_serve)
    benches.command("peers")(bench_peers.bench_peers)
    app.add_typer(benches, name="bench", rich_help_panel=_MEASURE)
    return app


def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        print(f"memkit {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        print(context.get_help())
        raise typer.Exit(2)


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether a command line, perhaps a wrong one, asks for JSON on standard output."""
    words = list(takewhile(lambda word: word != "--", arguments))
    if words[:1] in (["eval"], ["bench"], ["calibrate"]):  # there, --json takes a path
        return "--json=-" in words or any(pair == ("--json", "-") for pair in pairwise(words))
    return "--json" in words
