"""``memkit bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from memkit.cli.evaluate import JsonPath, Seed, Source, check_writable, numbers, write_json
from memkit.cli.options import Model, quiet_libraries
from memkit.cli.output import Output
from memkit.cli.progress import progress

QUICK = {"source": "generated:1", "paper_steps": 50}


def bench_compile(
    source: Source = "generated:3",
    ratio: Annotated[float, typer.Option(metavar="R", help="Context tokens per artifact token.")] = 16.0,
    paper_steps: Annotated[
        int, typer.Option(metavar="N", help="How many of the paper's 22,500 steps to run.")
    ] = 22_500,
    tokens: Annotated[
        str, typer.Option(metavar="N,...", help="Also measure the cost of texts of these lengths.")
    ] = "",
    quick: Annotated[
        bool, typer.Option("--quick", help="One document, and 50 of the paper's steps.")
    ] = False,
    seed: Seed = 0,
    model: Model = "nano",
    json: JsonPath = None,
) -> None:
    """Measure what a compilation costs: the fast recipe beside the paper's, and by length."""
    output = Output(json == "-")
    if json not in (None, "-"):
        check_writable(Path(json))
    quiet_libraries()
    from memkit.evals.bench import BenchConfig, bench

    settings = {"source": source, "paper_steps": paper_steps} | (QUICK if quick else {})
    lengths = tuple(int(n) for n in numbers(tokens, "--tokens"))
    config = BenchConfig(model=model, ratio=ratio, lengths=lengths, seed=seed, **settings)  # type: ignore[arg-type]
    with progress(output) as report:
        result = bench(config, progress=lambda label, done, total: report(label, "", done, total))
    if json not in (None, "-"):
        write_json(Path(json), result)
    names = list(dict.fromkeys(name for row in result["rows"] for name in row))
    output.result(
        result, lambda: output.table(names, [[row.get(n) for n in names] for row in result["rows"]])
    )
