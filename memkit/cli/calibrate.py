"""``memkit calibrate``."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from memkit.cli.evaluate import check_writable, write_json
from memkit.cli.options import (
    Compiler,
    EmbedderName,
    Home,
    Model,
    Options,
    compiler_options,
    home_of,
    open_memory,
)
from memkit.cli.output import Output
from memkit.cli.progress import progress

SHOWN = (
    "n n_report balanced_accuracy auroc entropy_balanced_accuracy entropy_auroc latent latent_wrong".split()
)


def calibrate(
    source: Annotated[
        str, typer.Argument(metavar="FILE.jsonl|generated[:N]", help="Records, or N generated documents.")
    ] = "generated:24",
    compiler: Compiler = "lcc",
    unrelated: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="General questions; default: built in.", show_default=False),
    ] = None,
    unanswerable: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also records with unanswerable questions.", show_default=False),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Most records.", show_default=False)
    ] = None,
    questions: Annotated[int, typer.Option(min=1, metavar="N", help="Most questions of a record.")] = 4,
    work: Annotated[
        Path | None,
        typer.Option(metavar="PATH", help="Keep the compiled records here, to go on.", show_default=False),
    ] = None,
    option: Options = None,
    seed: Annotated[int, typer.Option(metavar="S")] = 0,
    embedder: EmbedderName = None,
    home: Home = None,
    model: Model = "nano",
    json: Annotated[
        str | None,
        typer.Option("--json", metavar="OUT", help="Write JSON to a path, or to - (standard output)."),
    ] = None,
) -> None:
    """Calibrate the gate of a bank for a model and a compiler.

    Compiles the records apart from all users' memories, asks what they answer and what they do not, and
    stores scorers and thresholds in the bank's folder. With the compiler none, only texts are used.
    """
    output, target = Output(json == "-"), None if json in (None, "-") else Path(json)
    if target is not None:
        check_writable(target)
    from memkit.evals.gating import TENANT, Sources
    from memkit.evals.gating import calibrate as run
    from memkit.router.router import NO_COMPILER

    sources = Sources(
        source,
        None if unrelated is None else str(unrelated),
        None if unanswerable is None else str(unanswerable),
        limit,
        questions,
        seed=seed,
    )
    settings: dict[str, Any] = {"embedder": embedder, "options": compiler_options(option)}
    if compiler != NO_COMPILER:
        settings["compiler"] = compiler
    with (
        _folder(work) as folder,
        open_memory(folder, model, TENANT, **settings) as memory,
        progress(output) as report,
    ):
        made, path = run(
            memory, compiler, sources, home_of(home), lambda label, a, b: report(label, "", a, b)
        )
    result = {"file": path, **made.plain()}
    if target is not None:
        write_json(target, result)
    rows = [(name, made.report.get(name)) for name in SHOWN]
    rows += list(result["thresholds"].items())
    output.result(result, lambda: output.table(("calibration", str(path)), rows))


@contextmanager
def _folder(work: Path | None) -> Iterator[Path]:
    if work is not None:
        yield work
        return
    with tempfile.TemporaryDirectory(prefix="memkit-calibrate-") as folder:
        yield Path(folder)
