"""``memkit eval``."""

from __future__ import annotations

import json as jsonlib
import os
from pathlib import Path
from typing import Annotated, Any

import typer

from memkit.cli.options import Model, Options, compiler_options, quiet_libraries
from memkit.cli.output import Output, plain
from memkit.cli.progress import progress
from memkit.errors import ConfigError, MemkitError


def evaluate(
    source: Annotated[
        str, typer.Argument(metavar="FILE.jsonl|generated[:N]", help="Records, or N generated documents.")
    ] = "generated",
    compilers: Annotated[
        str, typer.Option(metavar="C,...", help="Compilers, each a name or name:preset.")
    ] = "lcc",
    baselines: Annotated[str, typer.Option(metavar="B,...", help="What to compare with.")] = "full,none",
    ratio: Annotated[str, typer.Option(metavar="R,...", help="Context tokens per artifact token.")] = "16",
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Most records.", show_default=False)
    ] = None,
    questions: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Most questions of a record.", show_default=False)
    ] = None,
    seed: Annotated[int, typer.Option(metavar="S")] = 0,
    preset: Annotated[
        str | None, typer.Option(metavar="P", help="Preset of the compilers.", show_default=False)
    ] = None,
    option: Options = None,
    model: Model = "nano",
    json: Annotated[
        str | None,
        typer.Option("--json", metavar="OUT", help="Write JSON to a path, or to - (standard output)."),
    ] = None,
) -> None:
    """Measure compilers against baselines on the same questions. Uses no bank.

    With --json OUT, an interrupted evaluation goes on where it was when the same command runs again.
    """
    output = Output(json == "-")
    if json not in (None, "-"):
        _check_writable(Path(json))
    options = compiler_options(option)
    if preset is not None:
        options["preset"] = preset
    quiet_libraries()
    from memkit.evals.run import EvalConfig
    from memkit.evals.run import evaluate as run

    config = EvalConfig(
        source=source,
        model=model,
        compilers=_names(compilers),
        baselines=_names(baselines),
        ratios=_numbers(ratio),
        limit=limit,
        questions=questions,
        seed=seed,
        options=options,
    )
    journal = None if json in (None, "-") else Path(f"{json}.partial")
    with progress(output) as report:
        table = run(
            config, progress=lambda label, done, total: report(label, "", done, total), journal=journal
        )
    if json not in (None, "-"):
        _write(Path(json), table)
    output.result(table, lambda: _show(output, table["rows"]))


def _names(text: str) -> tuple[str, ...]:
    return tuple(name for name in (part.strip() for part in text.split(",")) if name)


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in _names(text))
    except ValueError:
        raise ConfigError(f"--ratio takes numbers with commas between them, got {text!r}") from None


def _check_writable(path: Path) -> None:
    """Refuse a path that the result could not be written to, before the work is done."""
    folder = path.parent
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigError(f"cannot write {path}: give a file in a folder that exists and is writable")


def _write(path: Path, table: dict[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(jsonlib.dumps(plain(table), allow_nan=False, indent=2) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise MemkitError(f"cannot write {path}: {error.strerror}") from error


def _show(output: Output, rows: list[dict[str, Any]]) -> None:
    """The columns of RESULTS.md, under the same titles."""
    from memkit.evals.report import COLUMNS

    columns = {**{name: title for name, title, _ in COLUMNS}, "failed": "failed"}
    output.table(list(columns.values()), [[row.get(name) for name in columns] for row in rows])
