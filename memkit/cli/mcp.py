"""``memkit mcp``."""

from __future__ import annotations

from typing import Annotated

import typer

from memkit.cli.options import (
    Compiler,
    EmbedderName,
    Model,
    Options,
    Ratio,
    User,
    compiler_options,
    open_memory,
)
from memkit.cli.output import Output
from memkit.cli.serve import BankHome, Compiles, Host, Port, run
from memkit.errors import ConfigError, MissingExtraError, install_line


def mcp(
    transport: Annotated[
        str, typer.Option(metavar="T", help="stdio, or http: streamable HTTP at /mcp, with API keys.")
    ] = "stdio",
    user: User = "default",
    host: Host = "127.0.0.1",
    port: Port = 8378,
    background: Compiles = True,
    model: Model = "nano",
    home: BankHome = None,
    compiler: Compiler = "lcc",
    ratio: Ratio = None,
    option: Options = None,
    embedder: EmbedderName = None,
) -> None:
    """Serve memories to agents by the Model Context Protocol.

    They can remember, ask, forget, list, explain, and see the status.
    Over stdio it acts for --user. Over http it acts for whom an API key names: Authorization: Bearer mk_...
    """
    if transport not in ("stdio", "http"):
        raise ConfigError(f"the transport is stdio or http, got {transport!r:.40}")
    _require()
    from memkit.server.jobs import Jobs
    from memkit.server.mcp import QUEUE, Gatekeeper, Keyed, Local, create_mcp

    options = compiler_options(option, ratio)
    with open_memory(home, model, user, compiler=compiler, options=options, embedder=embedder) as memory:
        jobs = Jobs(memory, QUEUE, 5) if background else None
        try:
            if transport == "stdio":
                create_mcp(Local(memory), jobs).run("stdio")
                return
            desk = Keyed(memory)
            app = create_mcp(desk, jobs).streamable_http_app(stateless_http=True, host=host)
            run(Gatekeeper(app, desk), host, port, Output())
        finally:
            if jobs is not None:
                jobs.stop()


def _require() -> None:
    try:
        import mcp.server.mcpserver  # noqa: F401 # only whether it is there
    except ImportError as error:
        raise MissingExtraError("mcp", install_line("mcp")) from error
