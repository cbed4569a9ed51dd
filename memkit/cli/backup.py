"""``memkit backup`` and ``memkit restore``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memkit.cli.options import Home, Json, load_config, open_bank
from memkit.cli.output import Output
from memkit.errors import NotFoundError


def backup(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A new file.")],
    home: Home = None,
    json: Json = False,
) -> None:
    """Write the whole bank, of all users, to one file. Reading and writing may continue meanwhile."""
    output, config = Output(json), load_config(home)
    folder = config.home
    if not folder.exists() and config.database is None:
        raise NotFoundError(f"there is no bank at {folder}")
    with open_bank(home) as bank:
        size = bank.backup(file)
    output.result({"file": file, "bytes": size}, lambda: output.say(f"wrote {file}, {size:,} bytes"))


def restore(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `memkit backup` wrote.")],
    deletions: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="A bank: leave out what it has forgotten since the backup.",
            show_default=False,
        ),
    ] = None,
    home: Home = None,
    json: Json = False,
) -> None:
    """Restore a backup into a folder that is empty or does not exist yet."""
    from memkit.bank.restore import restore as make

    output, folder = Output(json), load_config(home).home
    count = make(file, folder, deletions=deletions)
    output.result(
        {"home": folder, "memories": count}, lambda: output.say(f"restored {count} memories to {folder}")
    )
