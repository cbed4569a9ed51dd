"""``memkit serve``."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memkit.cli.options import (
    Compiler,
    EmbedderName,
    EngineOption,
    GateName,
    Model,
    Options,
    Ratio,
    Urls,
    compiler_options,
)
from memkit.cli.output import Output
from memkit.errors import ConfigError, MissingExtraError, install_line

if TYPE_CHECKING:
    from fastapi import FastAPI

    from memkit.server.config import ServerConfig

GRACE = 20  # seconds for current requests to finish when the server stops
BankHome = Annotated[
    Path | None,
    typer.Option(
        "--home",
        "--bank",
        metavar="PATH",
        envvar="MEMKIT_HOME",
        help="The bank's folder.",
        show_default=False,
    ),
]


Host = Annotated[str, typer.Option(metavar="ADDRESS", help="The address to listen at.")]
Port = Annotated[int, typer.Option(metavar="N", help="The port; 0: any free one.")]
Rate = Annotated[int, typer.Option(metavar="N", help="Requests of one key per minute.")]
MaxBody = Annotated[int, typer.Option(metavar="BYTES", help="Largest request body.")]
Compiles = Annotated[
    bool, typer.Option("--compile/--no-compile", help="Compile new memories in the background.")
]
UpstreamUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        envvar="MEMKIT_UPSTREAM",
        help="An OpenAI-compatible server that answers instead. MEMKIT_UPSTREAM_KEY holds its API key.",
        show_default=False,
    ),
]
Origins = Annotated[
    list[str] | None,
    typer.Option(
        metavar="URL", help="The origin of a web page that may call (CORS); repeatable.", show_default=False
    ),
]
Reports = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH", help="Folder of evaluation reports (JSON) for the dashboard.", show_default=False
    ),
]


def serve(
    host: Host = "127.0.0.1",
    port: Port = 8377,
    model: Model = "nano",
    home: BankHome = None,
    upstream: UpstreamUrl = None,
    rate: Rate = 600,
    max_body: MaxBody = 8 * 2**20,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Longest time per answer.")] = 120.0,
    max_tokens: Annotated[int, typer.Option(metavar="N", help="Longest answer, in tokens.")] = 1024,
    background: Compiles = True,
    origin: Origins = None,
    reports: Reports = None,
    gate: GateName = "auto",
    compiler: Compiler = "auto",
    ratio: Ratio = None,
    option: Options = None,
    embedder: EmbedderName = None,
    engine: EngineOption = None,
    url: Urls = None,
) -> None:
    """Serve memories over HTTP: an OpenAI-compatible proxy, a memory API and a dashboard.

    Callers need a key: `memkit keys create --tenant NAME`, or `--user NAME` for one user. The dashboard is
    at /, the OpenAI-compatible routes at /v1, the API's description at /openapi.json. MEMKIT_METRICS_TOKEN
    opens /metrics for Prometheus. For TLS, put a reverse proxy in front.
    """
    create_app = _server()
    from memkit.server.config import ServerConfig

    config = ServerConfig.load(  # secrets have no flags: other processes can read command lines
        home=home,
        model=model,
        compiler=compiler,
        options=compiler_options(option, ratio),
        embedder=embedder,
        gate=gate,
        engine=engine,
        sglang_urls=url or None,
        host=host,
        port=port,
        rate=rate,
        max_body=max_body,
        answer_timeout=timeout,
        max_tokens=max_tokens,
        compile=background,
        origins=tuple(origin or ()),
        reports=reports,
        upstream=upstream or None,
        quiet=True,
    )
    app = create_app(config)
    app.state.services.load()  # a wrong model or engine is reported before anybody connects
    run(app, host, port, Output())


def run(app: Any, host: str, port: int, output: Output) -> None:
    """Serve an application until it is stopped; current requests may finish."""
    import uvicorn

    with _listening(host, port) as listener:
        address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"

        class Server(uvicorn.Server):
            """Prints its address once it answers."""

            async def startup(self, sockets: list[socket.socket] | None = None) -> None:
                await super().startup(sockets)
                if self.started:
                    output.note(f"serving at {address}; `memkit keys create --tenant NAME` makes a key")

        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="on",
            timeout_keep_alive=30,
            timeout_graceful_shutdown=GRACE,
        )
        server = Server(config)
        with suppress(KeyboardInterrupt):  # a regular end
            server.run(sockets=[listener])
    if not server.started:
        raise ConfigError("the server could not start; the lines above say why")


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends each piece of a stream at once (TCP_NODELAY) only if the protocol is named.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen at {host}:{port}: {error.strerror}; choose another --port"
        ) from error
    return listener


def _server() -> Callable[[ServerConfig], FastAPI]:
    try:
        from memkit.server.app import create_app
    except ImportError as error:
        raise MissingExtraError(error.name or "fastapi", install_line("server")) from error
    return create_app
