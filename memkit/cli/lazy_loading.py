"""Groups of commands that are imported when they are wanted, so that none waits for the others."""

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
    """A function of a module in `memkit.cli`; the summary is the first paragraph of its docstring.

    ``instead`` names the command that an old name stands for: it works, says so, and is in no list.
    """

    module: str
    function: str
    summary: str
    instead: str = ""

    def load(self, name: str) -> Any:
        """The command that typer makes of the function."""
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
    """Commands below a command."""

    summary: str
    commands: Commands

    def load(self, name: str) -> Any:
        """The group that typer makes of them."""
        app = group(name, self.summary, {"Commands": self.commands}, lambda: None, add_completion=False)
        return typer.main.get_command(app)


def at_home(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command, for whose paths ``~`` is the home folder, from wherever they come: a shell expands it in
    few of the places where an option may have it, and never in a variable's value or the file of settings."""

    @wraps(command)
    def run(**arguments: Any) -> Any:
        return command(**{name: _expanded(value) for name, value in arguments.items()})

    return run


def _expanded(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(map(_expanded, value))
    return usable(value) if isinstance(value, Path) else value


def usable(path: str | Path) -> Path:
    """A path of a command line: ``~`` is the home folder, and no name in it is longer than can be."""
    found = expanded(path)
    try:
        found.lstat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            shown = str(found)[:SHOWN]
            raise ConfigError(
                f"the path {shown}..., or a name in it, is too long; give a shorter one"
            ) from error
    return found


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
    """An application whose help shows commands under ``headings``; ``alone``: it works without one."""

    class Lazy(_Lazy):
        table = headings

    app = typer.Typer(
        name=name,
        cls=Lazy,
        help=text,
        rich_markup_mode=None,  # drawing boxes takes longer than all else that --help does
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


def _defaults(command: Any, texts: Mapping[str, str]) -> dict[str, Any]:
    """What a command's options default to where the file sets their environment variables.

    ``texts`` are those of the file, by the variables' names.
    """
    found = dict[str, Any]()
    for parameter in command.params:
        if text := texts.get(parameter.envvar or ""):
            several = parameter.nargs != 1 or getattr(parameter, "multiple", False)
            found[parameter.name] = parameter.type.split_envvar_value(text) if several else text
    return found


def _listed(commands: Commands) -> list[str]:
    """The names that are shown."""
    return [name for name, each in commands.items() if isinstance(each, Group) or not each.instead]
