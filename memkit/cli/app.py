"""The ``memkit`` command: runs sub-commands and reports their errors."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import pairwise, takewhile
from typing import Annotated

import typer

from memkit import config
from memkit._version import __version__
from memkit.cli.command_table import COMMANDS
from memkit.cli.lazy_loading import group
from memkit.cli.output import EXIT_CODES, InterruptError, Output
from memkit.errors import ConfigError, MemkitError

_EPILOG = "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in EXIT_CODES.items()) + "."

_GUIDE = """Memory for LLM agents: documents compiled once into small artifacts for a frozen model.

Start with memkit demo. Then memkit remember notes.txt --wait and
memkit ask "..." --trace, or memkit chat. Every night: memkit
recompile. For details: memkit COMMAND --help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (default: this process's) and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError):  # not a text stream of this interpreter
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    output = Output(json=wants_json(arguments))
    texts = dict[str, str]()
    try:
        if arguments[:1] not in (["init"], ["config"]):  # they help to correct a wrong file
            texts = config.read()
            _log(_log_format(texts))
    except ConfigError as error:
        return output.fail(error)
    return _run(arguments, output, texts)


def _run(arguments: Sequence[str], output: Output, texts: Mapping[str, str]) -> int:
    """Run a command; ``texts``, those of the file, stand in for options that are not given."""
    command = typer.main.get_command(build())
    defaults = {
        setting.variable: setting.parse(texts[setting.name])
        for setting in config.SETTINGS
        if setting.name in texts
    }
    try:
        code = command.main(args=list(arguments), prog_name="memkit", standalone_mode=False, obj=defaults)
        if code == 130:  # typer turns Ctrl-C into an exit code
            raise KeyboardInterrupt
    except (MemkitError, typer.TyperException) as error:
        return output.fail(error)
    except (KeyboardInterrupt, InterruptError) as error:
        return output.fail(error if isinstance(error, InterruptError) else InterruptError("interrupted"))
    return code if isinstance(code, int) else 0


def _log_format(texts: Mapping[str, str]) -> str | None:
    """The setting ``log`` alone: another one that is wrong must not keep `memkit doctor` from running."""
    return next(each.value or None for each in config.values(texts) if each.setting.name == "log")


def _log(form: str | None) -> None:
    """Write log records to standard error, as JSON or as lines of text; None writes none."""
    if form:
        import logging

        from memkit.observability.events import JsonFormatter

        handler = logging.StreamHandler()
        handler.setFormatter(JsonFormatter() if form == "json" else None)
        logger = logging.getLogger("memkit")
        logger.handlers = [handler]
        logger.setLevel(logging.INFO)


def build() -> typer.Typer:
    """The application with all its commands."""
    return group("memkit", _GUIDE, COMMANDS, _root, alone=True, epilog=_EPILOG)


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
    from memkit.cli.notes import show_notes

    show_notes()


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether a command line, valid or not, asks for JSON on standard output."""
    words = list(takewhile(lambda word: word != "--", arguments))
    if words[:1] in (["eval"], ["bench"], ["calibrate"]):  # there, --json takes a path
        return "--json=-" in words or any(pair == ("--json", "-") for pair in pairwise(words))
    return "--json" in words
