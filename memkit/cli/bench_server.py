"""``memkit bench fuzz``, ``load`` and ``growth``."""

from __future__ import annotations

from typing import Annotated

import typer

from memkit.cli.bench_output import measured, with_server
from memkit.cli.options import Model, Out, Seed, quiet_libraries


def bench_fuzz(
    cases: Annotated[int, typer.Option(min=1, metavar="N", help="Requests.")] = 10_000,
    seed: Seed = 0,
    json: Out = None,
) -> None:
    """Send the HTTP server valid and invalid requests, and count its failures."""
    quiet_libraries()
    fuzz = with_server("http_fuzz")
    measured(json, lambda report: fuzz.bench(fuzz.FuzzConfig(cases, seed), report))


def bench_load(
    clients: Annotated[
        int, typer.Option(min=1, metavar="N", help="Clients that stream answers at once.")
    ] = 64,
    seconds: Annotated[float, typer.Option(min=1, metavar="S")] = 300.0,
    remembers: Annotated[float, typer.Option(min=0, max=1, help="Share of requests.")] = 0.2,
    forgets: Annotated[float, typer.Option(min=0, max=1, help="Share of requests.")] = 0.02,
    tenants: Annotated[int, typer.Option(min=1, metavar="N")] = 8,
    seed: Seed = 0,
    model: Model = "nano",
    json: Out = None,
) -> None:
    """Let many clients stream answers, remember and forget; count errors and the server's overhead."""
    quiet_libraries()
    load = with_server("http_load")
    config = load.LoadConfig(clients, seconds, remembers, forgets, tenants, model, seed)
    measured(json, lambda report: load.bench(config, report))


def bench_growth(
    users: Annotated[int, typer.Option(min=1, metavar="N", help="Users, each with an artifact.")] = 1000,
    requests: Annotated[int, typer.Option(min=1, metavar="N")] = 10_000,
    seed: Seed = 0,
    model: Model = "nano",
    json: Out = None,
) -> None:
    """Ask the memories of many users in one process, and check that it does not grow."""
    quiet_libraries()
    from memkit.bench.growth import GrowthConfig, bench

    config = GrowthConfig(users, requests, model=model, seed=seed)
    measured(json, lambda report: bench(config, report))
