"""Command groups that import a command only when it runs."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import typer
from typer.core import TyperGroup

from memkit.config import expanded
from memkit.errors import ConfigError

SHOWN = 200  # characters of a path in a message
SETTINGS = {"help_option_names": ["-h", "--help"]}


@dataclass(frozen=True)
class Command:
    """A function of a module in `memkit.cli`. The summary is the first paragraph of its docstring.

    ``instead`` names the new command of an old name, which still works, says so, and is not listed.
    """

    module: str
    function: str
    summary: str
    instead: str = ""

    def load(self, name: str) -> Any:
        """The function as a typer command."""
        app = typer.Typer(
            add_completion=False,
            rich_markup_mode=None,
            pretty_exceptions_enable=False,
            context_settings=SETTINGS,
        )
        function = getattr(import_module(f"memkit.cli.{self.module}"), self.function)
        app.command(name, hidden=bool(self.instead))(at_home(function))
        return typer.main.get_command(app)


@dataclass(frozen=True)
class Group:
    """A command with sub-commands."""

    summary: str
    commands: Commands

    def load(self, name: str) -> Any:
        """The commands as a typer group."""
        app = group(name, self.summary, {"Commands": self.commands}, lambda: None, add_completion=False)
        return typer.main.get_command(app)


def at_home(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command with ``~`` expanded in all its paths.

    A shell does not expand it in ``--option=~/x``, in a variable's value or in the configuration file.
    """

    @wraps(command)
    def run(**arguments: Any) -> Any:
        return command(**{name: _expanded(value) for name, value in arguments.items()})

    return run


def _expanded(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_expanded, value))
    return usable(value) if isinstance(value, Path) else value


def usable(path: str | Path) -> Path:
    """A path of the command line with ``~`` expanded. Raises `ConfigError` for one that is too long."""
    full = expanded(path)
    try:
        full.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            shown = str(full)[:SHOWN]
            raise ConfigError(
                f"the path {shown}..., or a name in it, is too long; give a shorter one"
            ) from error
    return full


Commands: TypeAlias = Mapping[str, Command | Group]


def group(
    name: str,
    text: str,
    headings: Mapping[str, Commands],
    callback: Callable[..., None],
    *,
    alone: bool = False,
    **settings: Any,
) -> typer.Typer:
    """An application whose help lists commands under ``headings``; ``alone``: it runs without a command."""

    class Lazy(_Lazy):
        table = headings

    app = typer.Typer(
        name=name,
        cls=Lazy,
        help=text,
        rich_markup_mode=None,  # drawing boxes takes longer than the rest of --help
        pretty_exceptions_enable=False,
        context_settings=SETTINGS,
        **settings,
    )
    app.callback(invoke_without_command=alone)(callback)
    return app


class _Lazy(TyperGroup):
    table: ClassVar[Mapping[str, Commands]] = {}

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for commands in self.table.values() for name in _listed(commands)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        for commands in self.table.values():
            if found := commands.get(cmd_name):
                if isinstance(found, Command) and found.instead:
                    print(f"`{cmd_name}` is called `{found.instead}` now", file=sys.stderr)
                command = found.load(cmd_name)
                ctx.default_map = {cmd_name: _defaults(command, ctx.obj or {})}
                return command
        return None

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        for heading, commands in self.table.items():
            with formatter.section(heading):
                formatter.write_dl([(name, commands[name].summary) for name in _listed(commands)])


def _defaults(command: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """Defaults of a command's options from the configuration file.

    ``values`` are those of the file by the names of environment variables; a tuple is a list of texts.
    """
    defaults = dict[str, Any]()
    for parameter in command.params:
        if value := values.get(parameter.envvar or ""):
            defaults[parameter.name] = list(value) if isinstance(value, tuple) else value
    return defaults


def _listed(commands: Commands) -> list[str]:
    """The names that the help lists."""
    return [name for name, each in commands.items() if isinstance(each, Group) or not each.instead]
