"""``memkit mcp``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from memkit.cli.options import (
    Compiler,
    EmbedderName,
    EngineOption,
    Model,
    Options,
    Ratio,
    Tenant,
    Urls,
    User,
    compiler_options,
    load_config,
    open_configured,
    owner_option,
)
from memkit.cli.output import Output
from memkit.cli.serve import BankHome, Compiles, Host, MaxBody, Port, Rate, run
from memkit.errors import ConfigError, MissingExtraError, install_line

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    from memkit.config import EngineName
    from memkit.memory import Memory
    from memkit.server.jobs import Jobs


KEEP = 5  # versions of a memory that is compiled in the background


def mcp(
    transport: Annotated[
        str, typer.Option(metavar="T", help="stdio, or http: streamable HTTP at /mcp, with API keys.")
    ] = "stdio",
    user: User = None,
    tenant: Tenant = None,
    host: Host = "127.0.0.1",
    port: Port = 8378,
    rate: Rate = 600,
    max_body: MaxBody = 8 * 2**20,
    background: Compiles = True,
    model: Model = "nano",
    home: BankHome = None,
    compiler: Compiler = "auto",
    ratio: Ratio = None,
    option: Options = None,
    embedder: EmbedderName = None,
    engine: EngineOption = None,
    url: Urls = None,
) -> None:
    """Serve memories to agents over the Model Context Protocol.

    Tools: remember, ask, forget, list, explain, status. Over stdio it acts for --user (of --tenant, if
    given). Over http it acts for the holder of the API key in Authorization: Bearer mk_... There, --rate and
    --max-body limit requests.
    """
    if transport not in ("stdio", "http"):
        raise ConfigError(f"the transport is stdio or http, got {transport!r:.40}")
    if rate < 1 or max_body < 1:
        raise ConfigError("--rate and --max-body are at least 1")
    _require()
    from memkit.server.jobs import Jobs
    from memkit.server.mcp import QUEUE, LocalMemory, create_mcp

    config = load_config(
        home,
        model,
        engine=engine,
        urls=url,
        compiler=compiler,
        options=compiler_options(option, ratio),
        embedder=embedder,
        keep=KEEP,
    )
    with open_configured(config, owner_option(user, tenant)) as memory:
        jobs = Jobs(memory, QUEUE) if background else None
        try:
            if jobs is not None:
                jobs.resume()
            if transport == "stdio":
                create_mcp(LocalMemory(memory), jobs, config.engine).run("stdio")
                return
            app = _http_app(memory, jobs, config.engine, rate, max_body)
            run(app, host, port, Output())
        finally:
            if jobs is not None:
                jobs.stop()


def _http_app(memory: Memory, jobs: Jobs | None, engine: EngineName, rate: int, max_body: int) -> ASGIApp:
    try:
        from memkit.server.mcp_http import KeyedMemory, http_app
    except ImportError as error:
        raise MissingExtraError(error.name or "limits", install_line("mcp")) from error
    return http_app(KeyedMemory(memory), jobs, engine=engine, rate=rate, max_body=max_body)


def _require() -> None:
    try:
        import mcp.server.mcpserver  # noqa: F401 # only whether it is there
    except ImportError as error:
        raise MissingExtraError("mcp", install_line("mcp")) from error
