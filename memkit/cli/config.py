"""``memkit init`` and ``memkit config``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memkit import config as settings
from memkit.cli.options import Json
from memkit.cli.output import Output
from memkit.errors import ConfigError

_HIDDEN = "(hidden)"


def init(
    file: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Default: the platform's folder for configuration.", show_default=False
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing file.")] = False,
    json: Json = False,
) -> None:
    """Write a configuration file that lists every setting, commented out."""
    output, path = Output(json), file or settings.default_file()
    if path.exists() and not force:
        raise ConfigError(f"{path} exists already; --force overwrites it")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(settings.template(), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
    output.result({"file": path}, lambda: output.say(f"wrote {path}; `memkit config` shows what counts"))


def config(json: Json = False) -> None:
    """Show every setting, and whether it comes from the environment, the file or the default."""
    output, path = Output(json), settings.default_file()
    rows = [
        {
            "setting": each.setting.name,
            "value": _HIDDEN if each.setting.secret and each.value else settings.without_password(each.value),
            "from": each.source,
            "variable": each.setting.variable,
        }
        for each in settings.values(settings.read())
    ]

    def show() -> None:
        there = "" if path.exists() else " (not there: `memkit init` writes it)"
        output.say(f"file: {path}{there}")
        output.table(list(rows[0]), [list(row.values()) for row in rows])

    output.result({"file": path, "exists": path.exists(), "settings": rows}, show)
