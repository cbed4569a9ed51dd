"""``memkit bench``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from memkit.cli.evaluate import check_writable, numbers, write_json
from memkit.cli.options import Model, Options, Out, Records, Seed, compiler_options, quiet_libraries
from memkit.cli.output import Output
from memkit.cli.progress import progress
from memkit.errors import ConfigError

Progress = Callable[[str, int, int], None]
QUICK = {"source": "generated:1", "paper_steps": 50}


def bench_compile(
    source: Records = "generated:3",
    ratio: Annotated[float, typer.Option(metavar="R", help="Context tokens per artifact token.")] = 16.0,
    paper_steps: Annotated[
        int, typer.Option(metavar="N", help="How many of the paper's 22,500 steps to run; 0: lengths alone.")
    ] = 22_500,
    tokens: Annotated[
        str, typer.Option(metavar="N,...", help="Also measure the cost of texts of these lengths.")
    ] = "",
    quick: Annotated[
        bool, typer.Option("--quick", help="One document, and 50 of the paper's steps.")
    ] = False,
    seed: Seed = 0,
    model: Model = "nano",
    json: Out = None,
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
    _show(output, result)


def _show(output: Output, result: dict[str, Any]) -> None:
    names = list(dict.fromkeys(name for row in result["rows"] for name in row))
    output.result(
        result, lambda: output.table(names, [[row.get(n) for n in names] for row in result["rows"]])
    )


def _measured(json: str | None, run: Callable[[Progress], dict[str, Any]]) -> None:
    """Run a bench under a progress display, write and show its rows."""
    output = Output(json == "-")
    if json not in (None, "-"):
        check_writable(Path(json))
    with progress(output) as report:
        result = run(lambda label, done, total: report(label, "", done, total))
    if json not in (None, "-"):
        write_json(Path(json), result)
    _show(output, result)


def bench_route(
    memories: Annotated[int, typer.Option(min=1, metavar="N", help="Memories in the bank.")] = 1000,
    chunks: Annotated[int, typer.Option(min=1, metavar="N", help="Vectors of a memory.")] = 4,
    dim: Annotated[int, typer.Option(min=1, metavar="N", help="Width of a vector.")] = 384,
    queries: Annotated[int, typer.Option(min=1, metavar="N")] = 200,
    seed: Seed = 0,
    json: Out = None,
) -> None:
    """Measure what finding memories costs, exactly and approximately, beside raw FAISS; no embedding."""
    from memkit.evals.bench_route import RouteConfig, route

    config = RouteConfig(memories, chunks, dim, queries, seed)
    _measured(json, lambda report: route(config, report))


def bench_gate(
    tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Length of the documents.")] = 200,
    ratio: Annotated[float, typer.Option(metavar="R", help="Context tokens per artifact token.")] = 16.0,
    candidates: Annotated[str, typer.Option(metavar="N,...", help="How many to probe.")] = "1,2,4,8,16",
    repeats: Annotated[int, typer.Option(min=1, metavar="N")] = 9,
    model: Model = "nano",
    json: Out = None,
) -> None:
    """Measure what probing candidates costs beside reading the text of one of them."""
    quiet_libraries()
    from memkit.evals.bench_route import gate

    counts = tuple(int(n) for n in numbers(candidates, "--candidates"))
    _measured(json, lambda report: gate(model, tokens, ratio, counts, repeats, report))


def bench_crash(
    kills: Annotated[int, typer.Option(min=1, metavar="N", help="How often to kill a writer.")] = 2000,
    database: Annotated[
        str | None,
        typer.Option(metavar="URL", help="An empty PostgreSQL database.", show_default=False),
    ] = None,
    seed: Seed = 0,
    json: Out = None,
) -> None:
    """Kill writers at random instants and fault points, and count what is lost, damaged or left over."""
    from memkit.evals.crash import CrashConfig, crash

    _measured(json, lambda report: crash(CrashConfig(kills, seed, database), report))


def bench_bank(
    memories: Annotated[int, typer.Option(min=1, metavar="N", help="Memories in the large bank.")] = 100_000,
    processes: Annotated[int, typer.Option(min=1, metavar="N", help="At once on one bank.")] = 8,
    operations: Annotated[int, typer.Option(min=1, metavar="N", help="Of each process.")] = 500,
    quick: Annotated[bool, typer.Option("--quick", help="2,000 memories, 2 processes of 50.")] = False,
    seed: Seed = 0,
    json: Out = None,
) -> None:
    """Measure the bank beside raw files and SQLite, under several processes, and with many memories."""
    from memkit.evals.bench_bank import BankConfig, bench

    small = BankConfig(2000, 2, 50, 20, seed=seed)
    config = small if quick else BankConfig(memories, processes, operations, seed=seed)
    _measured(json, lambda report: bench(config, report))


def bench_forget(
    documents: Annotated[int, typer.Option(min=2, metavar="N", help="Documents of eight facts.")] = 34,
    option: Options = None,
    seed: Seed = 0,
    model: Model = "nano",
    json: Out = None,
) -> None:
    """Forget facts, and look for them by every route, version, export, backup and byte."""
    quiet_libraries()
    from memkit.evals.forgetting import ForgetConfig, bench

    config = ForgetConfig(documents, model, compiler_options(option), seed)
    _measured(json, lambda report: bench(config, report))


def bench_year(
    users: Annotated[int, typer.Option(min=1, metavar="N")] = 50,
    nights: Annotated[int, typer.Option(min=1, metavar="N")] = 365,
    facts: Annotated[int, typer.Option(min=1, metavar="N", help="Facts of a user.")] = 6,
    changes: Annotated[int, typer.Option(min=0, metavar="N", help="Facts that change later.")] = 3,
    keep: Annotated[int, typer.Option(min=1, metavar="N", help="Versions that are kept.")] = 3,
    option: Options = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="OUT.svg", help="Draw the bank's size.", show_default=False)
    ] = None,
    seed: Seed = 0,
    model: Model = "nano",
    json: Out = None,
) -> None:
    """Simulate running memories over many nights, and ask what is current in the end."""
    quiet_libraries()
    from memkit.evals import year

    config = year.YearConfig(users, nights, facts, changes, keep, model, compiler_options(option), seed)

    def run(report: Progress) -> dict[str, Any]:
        result = year.bench(config, report)
        if plot is not None:
            year.plot(result, plot)
        return result

    _measured(json, run)


def bench_serve(
    engine: Annotated[str, typer.Option("--engine", metavar="E", help="sglang.")] = "sglang",
    quick: Annotated[
        bool, typer.Option("--quick", help="A few pairs, 60 requests, one length: a few minutes.")
    ] = False,
    only: Annotated[
        str, typer.Option("--only", metavar="PART,...", help="Of equality, mixed, overhead and ttft.")
    ] = "equality,mixed,overhead,ttft",
    seed: Seed = 0,
    model: Model = "nano",
    json: Out = None,
) -> None:
    """Compare answers through SGLang with those in this process, under mixed load, and measure its cost.

    Starts SGLang servers on this machine, on its CPU, from the environment of tests/sglang_env.sh.
    """
    if engine != "sglang":
        raise ConfigError(f"the engine that can be measured is sglang, not {engine!r:.40}")
    quiet_libraries()
    from dataclasses import replace

    from memkit.evals.bench_serve import QUICK, ServeConfig, bench

    parts = tuple(part for part in only.split(",") if part)
    try:
        config = replace(QUICK if quick else ServeConfig(), parts=parts, seed=seed, model=model)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    _measured(json, lambda report: bench(config, report))


def bench_recompile(
    memories: Annotated[int, typer.Option(min=1, metavar="N", help="Memories, of as many users.")] = 8,
    workers: Annotated[int, typer.Option(min=1, metavar="N")] = 2,
    option: Options = None,
    seed: Seed = 0,
    model: Model = "nano",
    json: Out = None,
) -> None:
    """Measure how many memories one process compiles, several do, and Ray does."""
    quiet_libraries()
    from memkit.evals.bench_recompile import RecompileConfig, bench

    config = RecompileConfig(memories, workers, model, compiler_options(option), seed)
    _measured(json, lambda report: bench(config, report))


def bench_ttft(
    tokens: Annotated[str, typer.Option(metavar="N,...", help="Lengths of the texts.")] = "500,1000,2000",
    ratio: Annotated[float, typer.Option(metavar="R", help="Context tokens per artifact token.")] = 16.0,
    repeats: Annotated[int, typer.Option(min=1, metavar="N")] = 15,
    model: Model = "nano",
    json: Out = None,
) -> None:
    """Measure the time to the first token, from an artifact and from the text, beside what FLOPs allow."""
    quiet_libraries()
    from memkit.evals.ttft import TtftConfig, bench

    config = TtftConfig(tuple(int(n) for n in numbers(tokens, "--tokens")), ratio, repeats, model)
    _measured(json, lambda report: bench(config, report))


def bench_start(
    repeats: Annotated[int, typer.Option(min=1, metavar="N")] = 15,
    json: Out = None,
) -> None:
    """Measure what importing memkit and starting its command cost beside bare Python."""
    from memkit.evals.bench_start import StartConfig, bench

    _measured(json, lambda report: bench(StartConfig(repeats), report))


def bench_bytes(
    source: Records = "generated:20",
    ratio: Annotated[float, typer.Option(metavar="R", help="Context tokens per artifact token.")] = 16.0,
    option: Options = None,
    seed: Seed = 0,
    model: Model = "nano",
    json: Out = None,
) -> None:
    """Measure what artifacts of bfloat16, int8 and int4 lose, and what they save."""
    quiet_libraries()
    from memkit.evals.bench_bytes import BytesConfig, bench

    config = BytesConfig(source, ratio, model, compiler_options(option), seed)
    _measured(json, lambda report: bench(config, report))


def bench_lora(
    tokens: Annotated[str, typer.Option(metavar="N,...", help="Lengths of the contexts.")] = "256,1024",
    documents: Annotated[str, typer.Option(metavar="N,...", help="Trained side by side.")] = "1,4,16",
    repeats: Annotated[int, typer.Option(min=1, metavar="N")] = 5,
    model: Model = "nano",
    json: Out = None,
) -> None:
    """Measure what reading the teacher's prefix once saves, and training documents side by side."""
    quiet_libraries()
    from memkit.evals.lora_bench import LoraConfig, bench

    lengths, counts = (
        tuple(int(n) for n in numbers(text, name))
        for text, name in ((tokens, "--tokens"), (documents, "--documents"))
    )
    config = LoraConfig(lengths, counts, repeats=repeats, model=model)
    _measured(json, lambda report: bench(config, report))


def bench_codec(
    cases: Annotated[int, typer.Option(min=1, metavar="N", help="Files.")] = 100_000,
    seed: Seed = 0,
    json: Out = None,
) -> None:
    """Decode damaged artifact files, and count those that are not refused as they should be."""
    from memkit.evals.bench_codec import CodecConfig, bench

    _measured(json, lambda report: bench(CodecConfig(cases, seed), report))
