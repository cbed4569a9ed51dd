"""Options and output of all ``memkit bench`` commands."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from memkit.cli.evaluate import check_writable, write_json
from memkit.cli.lazy_loading import usable
from memkit.cli.output import Output
from memkit.cli.progress import progress
from memkit.errors import ConfigError, MissingExtraError, install_line

Progress = Callable[[str, int, int], None]
Plot = Annotated[
    Path | None,
    typer.Option(metavar="SVG", help="Also draw a chart of the rows.", show_default=False),
]
Quick = Annotated[bool, typer.Option("--quick", help="A small run: under five minutes on two cores.")]
Gpu = Annotated[
    bool, typer.Option("--gpu", help="On a GPU, with the shape of Qwen2.5-7B and random weights.")
]
GPU_MODEL = "shape:qwen2.5-7b"


def measured(json: str | None, run: Callable[[Progress], dict[str, Any]], plot: Path | None = None) -> None:
    """Run a bench under a progress display; write, draw and show its rows."""
    output, written = Output(json == "-"), None if json in (None, "-") else usable(str(json))
    for path in (written, plot):
        if path is not None:
            check_writable(path)
    with progress(output) as report:
        result = run(lambda label, done, total: report(label, "", done, total))
    if written is not None:
        write_json(written, result)
    if plot is not None:
        from memkit.bench.plots import bars

        plot.write_text(bars(result), encoding="utf-8")
    names = list(dict.fromkeys(name for row in result["rows"] for name in row))
    output.result(
        result, lambda: output.table(names, [[row.get(n) for n in names] for row in result["rows"]])
    )


def require_gpu() -> None:
    """Raise `ConfigError` without a GPU."""
    import torch

    if not torch.cuda.is_available():
        raise ConfigError("--gpu needs a GPU that PyTorch can use; leave it out to measure on the CPU")


def with_server(name: str) -> Any:
    """A module of `memkit.bench` that needs the server's extra."""
    try:
        return import_module(f"memkit.bench.{name}")
    except ImportError as error:
        raise MissingExtraError(error.name or "fastapi", install_line("server")) from error
