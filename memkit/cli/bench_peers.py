"""``memkit bench peers``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from memkit.cli.bench_output import Quick, measured, with_server
from memkit.cli.evaluate import numbers
from memkit.cli.options import Model, Options, Out, Seed, compiler_options, quiet_libraries


def bench_peers(
    peers: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            envvar="MEMKIT_PEERS",
            help="Folder of the peers' environments.",
            show_default=False,
        ),
    ] = None,
    only: Annotated[
        str, typer.Option("--only", metavar="PEER,...", help="Peers: mem0, langgraph, rag.")
    ] = "mem0,langgraph,rag",
    documents: Annotated[int, typer.Option(min=1, metavar="N", help="Documents of eight facts.")] = 12,
    compilers: Annotated[
        str,
        typer.Option(
            metavar="C,...", help="Compilers: also answer from their artifacts.", show_default=False
        ),
    ] = "",
    items: Annotated[str, typer.Option(metavar="N,...", help="Items in the stores.")] = "1000,10000",
    quick: Quick = False,
    option: Options = None,
    seed: Seed = 0,
    model: Model = "nano",
    json: Out = None,
) -> None:
    """Measure memkit against mem0, LangGraph's stores and hand-written retrieval, on the same work.

    Peers run in the environments that tests/peers_env.sh makes; one that is absent is named in the result.
    """
    quiet_libraries()
    found = with_server("peers_compare")
    config = found.PeersConfig(
        documents=documents,
        compilers=tuple(filter(None, compilers.split(","))),
        options=compiler_options(option),
        sizes=tuple(int(n) for n in numbers(items, "--items")),
        only=tuple(filter(None, only.split(","))),
        peers=peers,
        model=model,
        seed=seed,
    )
    config = replace(config, **found.QUICK) if quick else config
    measured(json, lambda report: found.bench(config, report))
