"""``memkit bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from memkit.cli.bench_output import GPU_MODEL, Gpu, Plot, Progress, Quick, measured, require_gpu
from memkit.cli.evaluate import numbers
from memkit.cli.options import Model, Options, Out, Records, Seed, compiler_options, quiet_libraries
from memkit.errors import ConfigError


def bench_compile(
    source: Records = "generated:3",
    ratio: Annotated[float, typer.Option(metavar="R", help="Context tokens per artifact token.")] = 16.0,
    paper_steps: Annotated[
        int,
        typer.Option(metavar="N", help="How many of the paper's 22,500 steps to run; 0: only the lengths."),
    ] = 22_500,
    tokens: Annotated[
        str, typer.Option(metavar="N,...", help="Also measure texts of these lengths, in tokens.")
    ] = "",
    quick: Quick = False,
    gpu: Gpu = False,
    plot: Plot = None,
    seed: Seed = 0,
    model: Model = "nano",
    json: Out = None,
) -> None:
    """Measure the cost of a compilation: the fast recipe against the paper's, and by length."""
    quiet_libraries()
    from memkit.bench.compile import BenchConfig, bench

    if quick:
        source, paper_steps, tokens = "generated:1", 50, "500"
    if gpu:
        require_gpu()
        model, paper_steps, tokens = GPU_MODEL, 0, "8000"
    lengths = tuple(int(n) for n in numbers(tokens, "--tokens"))
    config = BenchConfig(source, model, ratio, paper_steps, lengths, seed=seed)
    measured(json, lambda report: bench(config, report), plot)


def bench_route(
    memories: Annotated[int, typer.Option(min=1, metavar="N", help="Memories in the bank.")] = 1000,
    chunks: Annotated[int, typer.Option(min=1, metavar="N", help="Vectors per memory.")] = 4,
    dim: Annotated[int, typer.Option(min=1, metavar="N", help="Width of a vector.")] = 384,
    queries: Annotated[int, typer.Option(min=1, metavar="N")] = 200,
    quick: Quick = False,
    plot: Plot = None,
    seed: Seed = 0,
    json: Out = None,
) -> None:
    """Measure the cost of retrieval, exact and approximate, against raw FAISS; without embedding."""
    from memkit.bench.routing import RouteConfig, route

    config = RouteConfig(*((1000, 4, 384, 50) if quick else (memories, chunks, dim, queries)), seed)
    measured(json, lambda report: route(config, report), plot)


def bench_gate(
    tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Length of the documents.")] = 200,
    ratio: Annotated[float, typer.Option(metavar="R", help="Context tokens per artifact token.")] = 16.0,
    candidates: Annotated[str, typer.Option(metavar="N,...", help="How many to probe.")] = "1,2,4,8,16",
    repeats: Annotated[int, typer.Option(min=1, metavar="N")] = 9,
    quick: Quick = False,
    plot: Plot = None,
    model: Model = "nano",
    json: Out = None,
) -> None:
    """Measure the cost of probing candidates against reading the text of one of them."""
    quiet_libraries()
    from memkit.bench.routing import gate

    counts = (1, 2, 4) if quick else tuple(int(n) for n in numbers(candidates, "--candidates"))
    measured(json, lambda report: gate(model, tokens, ratio, counts, 3 if quick else repeats, report), plot)


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
    from memkit.bench.crash import CrashConfig, crash

    measured(json, lambda report: crash(CrashConfig(kills, seed, database), report))


def bench_bank(
    memories: Annotated[int, typer.Option(min=1, metavar="N", help="Memories in the large bank.")] = 100_000,
    processes: Annotated[int, typer.Option(min=1, metavar="N", help="Processes on one bank.")] = 8,
    operations: Annotated[int, typer.Option(min=1, metavar="N", help="Operations per process.")] = 500,
    quick: Quick = False,
    plot: Plot = None,
    seed: Seed = 0,
    json: Out = None,
) -> None:
    """Measure the bank against raw files and SQLite, with several processes and many memories."""
    from memkit.bench.bank import BankConfig, bench

    small = BankConfig(2000, 2, 50, 20, seed=seed)
    config = small if quick else BankConfig(memories, processes, operations, seed=seed)
    measured(json, lambda report: bench(config, report), plot)


def bench_forget(
    documents: Annotated[int, typer.Option(min=2, metavar="N", help="Documents of eight facts.")] = 34,
    option: Options = None,
    seed: Seed = 0,
    model: Model = "nano",
    json: Out = None,
) -> None:
    """Forget facts, and search for them in every route, version, export, backup and byte."""
    quiet_libraries()
    from memkit.bench.forgetting import ForgetConfig, bench

    config = ForgetConfig(documents, model, compiler_options(option), seed)
    measured(json, lambda report: bench(config, report))


def bench_year(
    users: Annotated[int, typer.Option(min=1, metavar="N")] = 50,
    nights: Annotated[int, typer.Option(min=1, metavar="N")] = 365,
    facts: Annotated[int, typer.Option(min=1, metavar="N", help="Facts per user.")] = 6,
    changes: Annotated[int, typer.Option(min=0, metavar="N", help="Facts that change later.")] = 3,
    keep: Annotated[int, typer.Option(min=1, metavar="N", help="Versions to keep.")] = 3,
    option: Options = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="OUT.svg", help="Draw the bank's size.", show_default=False)
    ] = None,
    seed: Seed = 0,
    model: Model = "nano",
    json: Out = None,
) -> None:
    """Simulate running memories over many nights, and ask for the latest facts at the end."""
    quiet_libraries()
    from memkit.bench import running_memory_year

    config = running_memory_year.YearConfig(
        users, nights, facts, changes, keep, model, compiler_options(option), seed
    )

    def run(report: Progress) -> dict[str, Any]:
        result = running_memory_year.bench(config, report)
        if plot is not None:
            running_memory_year.plot(result, plot)
        return result

    measured(json, run)


def bench_serve(
    engine: Annotated[str, typer.Option("--engine", metavar="E", help="sglang.")] = "sglang",
    quick: Quick = False,
    only: Annotated[
        str, typer.Option("--only", metavar="PART,...", help="Parts: equality, mixed, overhead, ttft.")
    ] = "equality,mixed,overhead,ttft",
    plot: Plot = None,
    seed: Seed = 0,
    model: Model = "nano",
    json: Out = None,
) -> None:
    """Compare answers from SGLang with those in this process, under mixed load, and measure its cost.

    Starts SGLang servers on this machine's CPU, in the environment that tests/sglang_env.sh creates.
    """
    if engine != "sglang":
        raise ConfigError(f"this bench measures the engine sglang, not {engine!r:.40}")
    quiet_libraries()
    from dataclasses import replace

    from memkit.bench.sglang import QUICK, bench
    from memkit.bench.sglang_run import ServeConfig

    parts = tuple(part for part in only.split(",") if part)
    try:
        config = replace(QUICK if quick else ServeConfig(), parts=parts, seed=seed, model=model)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    measured(json, lambda report: bench(config, report), plot)


def bench_recompile(
    memories: Annotated[int, typer.Option(min=1, metavar="N", help="Memories, one per user.")] = 8,
    workers: Annotated[int, typer.Option(min=1, metavar="N")] = 2,
    option: Options = None,
    seed: Seed = 0,
    model: Model = "nano",
    json: Out = None,
) -> None:
    """Measure how many memories one process, several processes and Ray compile per hour."""
    quiet_libraries()
    from memkit.bench.recompile import RecompileConfig, bench

    config = RecompileConfig(memories, workers, model, compiler_options(option), seed)
    measured(json, lambda report: bench(config, report))


def bench_ttft(
    tokens: Annotated[str, typer.Option(metavar="N,...", help="Lengths of the texts.")] = "500,1000,2000",
    ratio: Annotated[float, typer.Option(metavar="R", help="Context tokens per artifact token.")] = 16.0,
    repeats: Annotated[int, typer.Option(min=1, metavar="N")] = 15,
    quick: Quick = False,
    gpu: Gpu = False,
    plot: Plot = None,
    model: Model = "nano",
    json: Out = None,
) -> None:
    """Measure the time to the first token, from an artifact and from the text, against its FLOPs."""
    quiet_libraries()
    from memkit.bench.ttft import TtftConfig, bench

    if quick:
        tokens, repeats = "500", 5
    if gpu:
        require_gpu()
        tokens, model = "4000,8000,16000,32000,64000,120000", GPU_MODEL
    config = TtftConfig(tuple(int(n) for n in numbers(tokens, "--tokens")), ratio, repeats, model)
    measured(json, lambda report: bench(config, report), plot)


def bench_compact(
    tokens: Annotated[str, typer.Option(metavar="N,...", help="Lengths of the texts.")] = "300,2000",
    ratio: Annotated[float, typer.Option(metavar="R", help="Context tokens per row of a head.")] = 4.0,
    repeats: Annotated[int, typer.Option(min=1, metavar="N")] = 3,
    quick: Quick = False,
    gpu: Gpu = False,
    plot: Plot = None,
    model: Model = "nano",
    json: Out = None,
) -> None:
    """Measure compact memories beside the prefilled text: FLOPs, seconds, peak memory, answers."""
    quiet_libraries()
    from memkit.bench.compact import CompactBenchConfig, bench

    if quick:
        tokens, repeats = "300", 1
    if gpu:
        require_gpu()
        tokens, model = "300,2000,8000,20000,60000", GPU_MODEL
    lengths = tuple(int(n) for n in numbers(tokens, "--tokens"))
    config = CompactBenchConfig(lengths, ratio, repeats=repeats, model=model)
    measured(json, lambda report: bench(config, report), plot)


def bench_step(
    tokens: Annotated[int, typer.Option(min=1, metavar="N", help="Length of the text.")] = 400,
    ratio: Annotated[float, typer.Option(metavar="R", help="Context tokens per row of a head.")] = 8.0,
    examples: Annotated[int, typer.Option(min=1, metavar="N", help="Questions in a step.")] = 9,
    repeats: Annotated[int, typer.Option(min=1, metavar="N")] = 3,
    plot: Plot = None,
    model: Model = "nano",
    json: Out = None,
) -> None:
    """Measure a training step of a memory against the rate of a matrix product."""
    quiet_libraries()
    from memkit.bench.training_step import StepBenchConfig, bench

    config = StepBenchConfig(tokens, ratio, examples, repeats, model)
    measured(json, lambda report: bench(config, report), plot)


def bench_start(
    repeats: Annotated[int, typer.Option(min=1, metavar="N")] = 15,
    plot: Plot = None,
    json: Out = None,
) -> None:
    """Measure the cost of importing memkit and starting its command, against bare Python."""
    from memkit.bench.startup import StartConfig, bench

    measured(json, lambda report: bench(StartConfig(repeats), report), plot)


def bench_bytes(
    source: Records = "generated:20",
    ratio: Annotated[float, typer.Option(metavar="R", help="Context tokens per artifact token.")] = 16.0,
    option: Options = None,
    seed: Seed = 0,
    model: Model = "nano",
    json: Out = None,
) -> None:
    """Measure what artifacts in bfloat16, int8 and int4 lose in quality and save in bytes."""
    quiet_libraries()
    from memkit.bench.quantization import BytesConfig, bench

    config = BytesConfig(source, ratio, model, compiler_options(option), seed)
    measured(json, lambda report: bench(config, report))


def bench_lora(
    tokens: Annotated[str, typer.Option(metavar="N,...", help="Lengths of the contexts.")] = "256,1024",
    documents: Annotated[
        str, typer.Option(metavar="N,...", help="Documents trained side by side.")
    ] = "1,4,16",
    repeats: Annotated[int, typer.Option(min=1, metavar="N")] = 5,
    model: Model = "nano",
    json: Out = None,
) -> None:
    """Measure the savings of one teacher prefill, and of training documents side by side."""
    quiet_libraries()
    from memkit.bench.lora import LoraConfig, bench

    lengths, counts = (
        tuple(int(n) for n in numbers(text, name))
        for text, name in ((tokens, "--tokens"), (documents, "--documents"))
    )
    config = LoraConfig(lengths, counts, repeats=repeats, model=model)
    measured(json, lambda report: bench(config, report))


def bench_codec(
    cases: Annotated[int, typer.Option(min=1, metavar="N", help="Damaged files.")] = 100_000,
    seed: Seed = 0,
    json: Out = None,
) -> None:
    """Decode damaged artifact files, and count those that are not refused."""
    from memkit.bench.artifact_corruption import CodecConfig, bench

    measured(json, lambda report: bench(CodecConfig(cases, seed), report))
