"""What commands print: tables for people, one JSON document for programs, one line for errors."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

import typer

from memkit.errors import (
    ArtifactError,
    BankError,
    ConfigError,
    MemkitError,
    NotFoundError,
    VerificationError,
)
from memkit.serialization import plain

if TYPE_CHECKING:  # not needed for help
    from rich.console import Console
    from rich.text import Text

EXIT_CODES: Mapping[int, str] = {
    0: "all went well",
    1: "an error not listed here",
    2: "wrong usage or configuration",
    3: "no such user or memory",
    4: "an artifact is damaged, made for another model, or failed verification",
    5: "the bank is unavailable (read-only, full, busy or damaged)",
    130: "interrupted",
}


class InterruptError(Exception):
    """Ctrl-C; the message describes the state that it leaves."""


def exit_code(error: BaseException) -> int:
    """The exit code of an error."""
    if isinstance(error, InterruptError):
        return 130
    if isinstance(error, ConfigError):
        return 2
    if isinstance(error, NotFoundError):
        return 3
    if isinstance(error, ArtifactError | VerificationError):
        return 4
    if isinstance(error, BankError):
        return 5
    if isinstance(error, MemkitError):
        return 1
    return error.exit_code if isinstance(error, typer.TyperException) else 1


class Output:
    """Standard output and error of a command; with ``json``, output is a single JSON document."""

    def __init__(self, json: bool = False) -> None:
        self.json = json

    @cached_property
    def out(self) -> Console:
        """Standard output."""
        return _console(sys.stdout)

    @cached_property
    def err(self) -> Console:
        """Standard error."""
        return _console(sys.stderr)

    def note(self, text: str) -> None:
        """A line for people, on standard error."""
        print(clean(text), file=sys.stderr)

    def result(self, document: Any, show: Callable[[], None]) -> None:
        """The command's result: ``document`` as JSON, or whatever ``show`` prints."""
        if self.json:
            print(json.dumps(plain(document), allow_nan=False, indent=2))
        else:
            show()

    def say(self, text: str) -> None:
        """A line of the result, on standard output. Only tables import rich, which is slow to import."""
        print(clean(text))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, err: bool = False) -> None:
        """A table whose cells are never cut off or parsed as markup."""
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            longest = max((len(word) for word in column.split()), default=0)  # titles break at spaces only
            table.add_column(_text(column), overflow="fold", min_width=longest)
        for row in rows:
            table.add_row(*(_text(cell(value), _STYLES.get(str(value), "")) for value in row))
        (self.err if err else self.out).print(table)

    def fail(self, error: BaseException) -> int:
        """Print an error as one line, and as JSON with ``--json``; returns the exit code."""
        usage = isinstance(error, typer.TyperException)
        message = error.format_message() if isinstance(error, typer.TyperException) else str(error)
        message = " ".join(message.split())
        self.note(message if isinstance(error, InterruptError) else f"error: {message}")
        if self.json:
            name = "UsageError" if usage else type(error).__name__
            print(json.dumps({"error": {"type": name, "message": message}}))
        return exit_code(error)


_STYLES = {"ok": "green", "✓": "green", "warn": "yellow", "fail": "bold red", "✗": "bold red"}


def _text(text: str, style: str = "") -> Text:
    """Text that rich prints unchanged."""
    from rich.text import Text

    return Text(clean(text), style=style)


def _console(stream: Any) -> Console:
    from rich.console import Console

    console = Console(file=stream, highlight=False)
    if not console.is_terminal:
        console.width = 160  # not a terminal: wide enough to keep each row on one line
    return console


def clean(text: str) -> str:
    """Text with control characters replaced: they could drive a terminal."""
    return "".join(
        c if c in "\n\t" or unicodedata.category(c) != "Cc" else "\N{REPLACEMENT CHARACTER}" for c in text
    )


def cell(value: Any) -> str:
    """A value as a table shows it."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1e5 else f"{value:.2e}"
    if isinstance(value, datetime):
        return value.replace(tzinfo=None).isoformat(" ", "minutes")
    if isinstance(value, list | tuple):
        return "–".join(cell(item) for item in value)
    return str(value)
