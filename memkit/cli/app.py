"""The ``memkit`` command: its sub-commands, and what becomes of their errors."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise, takewhile
from typing import Annotated

import typer

from memkit._version import __version__
from memkit.cli import (
    backup,
    bench,
    calibrate,
    demo,
    doctor,
    evaluate,
    forget,
    manage,
    mcp,
    recompile,
    serve,
    tenants,
    train,
    use,
    versions,
)
from memkit.cli.output import EXIT_CODES, InterruptError, Output
from memkit.errors import MemkitError

_EPILOG = "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()) + "."


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (default: this process's) and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # not a text stream of this interpreter
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    output = Output(json=wants_json(arguments))
    _log()
    command = typer.main.get_command(build())
    try:
        code = command.main(args=arguments, prog_name="memkit", standalone_mode=False)
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
        help="Memory for LLM agents: documents compiled once into small artifacts for a frozen model.",
        epilog=_EPILOG,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_root)
    app.command("demo")(demo.demo)
    app.command("remember")(use.remember)
    app.command("ask")(use.ask)
    app.command("list")(manage.list_memories)
    app.command("show")(manage.show)
    app.command("forget")(forget.forget)
    app.command("verify")(manage.verify)
    app.command("keygen")(manage.keygen)
    app.command("history")(versions.history)
    app.command("diff")(versions.diff)
    app.command("rollback")(versions.rollback)
    app.command("pin")(versions.pin)
    app.command("export")(versions.export_bundle)
    app.command("import")(versions.import_bundle)
    app.command("recompile")(recompile.recompile)
    app.command("schedule")(recompile.schedule)
    app.command("cron")(recompile.cron)
    app.command("explain")(recompile.explain)
    app.command("serve")(serve.serve)
    app.command("mcp")(mcp.mcp)
    app.command("limit")(tenants.limit)
    app.command("eval")(evaluate.evaluate)
    app.command("calibrate")(calibrate.calibrate)
    app.command("train-compressor")(train.train_compressor)
    app.command("doctor")(doctor.doctor)
    app.command("backup")(backup.backup)
    app.command("restore")(backup.restore)
    keys = typer.Typer(
        help="API keys, each of which lets its holder act for one user.",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    keys.callback()(lambda: None)
    keys.command("create")(tenants.create_key)
    keys.command("list")(tenants.list_keys)
    keys.command("revoke")(tenants.revoke_key)
    app.add_typer(keys, name="keys")
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
    app.add_typer(benches, name="bench")
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
