"""The HTTP application."""

from __future__ import annotations

import mimetypes
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from anyio import to_thread
from fastapi import APIRouter, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.utils import get_openapi
from fastapi.responses import Response
from fastapi.routing import APIRoute

from memkit._version import __version__
from memkit.server.answer_stream import AnswerPool
from memkit.server.api_errors import ApiError
from memkit.server.config import ServerConfig
from memkit.server.dependencies import Services
from memkit.server.error_handlers import add_handlers
from memkit.server.middleware import RequestMiddleware
from memkit.server.routes import ask, embeddings, memories, openai, proxy, recompile, status
from memkit.server.upstream import Upstream

if TYPE_CHECKING:
    from memkit.engine.transformers.engine import TransformersEngine

DESCRIPTION = """Memory for LLM agents: documents compiled once into small artifacts for a frozen model.

Every call but `/health` and `/metrics` needs an API key: `Authorization: Bearer mk_...`. One that was made by
`memkit keys create --tenant T` acts for a tenant: the header `X-Memkit-User` (percent-encoded UTF-8) names a
user within it, with memories of their own; without it the tenant's own memories are meant. One that was made
by `memkit keys create --user U` acts for that one user, who belongs to no tenant.
Errors have one shape, `{"error": {"message", "type", "param", "code", "request_id"}}`.
"""


def create_app(config: ServerConfig, engine: TransformersEngine | None = None) -> FastAPI:
    """The application of a configuration. With an ``engine`` no other model is loaded.

    Bank, engine and connections are closed when the application shuts down. Raises `ConfigError` for settings
    that do not fit together.
    """
    services = Services(config, engine)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        await to_thread.run_sync(services.load)
        await to_thread.run_sync(services.resume)
        async with Upstream.of(services) as upstream:
            app.state.upstream = upstream
            try:
                yield
            finally:
                await to_thread.run_sync(services.close)

    app = FastAPI(
        title="memkit",
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,  # they load scripts from other hosts; the dashboard has a page for the API
        redoc_url=None,
        redirect_slashes=False,
        generate_unique_id_function=_operation,
    )
    app.state.services = services
    app.state.answers = AnswerPool(config.answers, config.answer_timeout)
    add_handlers(app)
    groups = (
        status.open_routes,
        status.routes,
        memories.routes,
        ask.routes,
        recompile.routes,
        openai.routes,
        embeddings.routes,
    )
    first = () if config.upstream is None else (proxy.routes,)  # at the same addresses
    for routes in (*first, *groups, _pages()):
        app.include_router(routes)
    app.add_middleware(RequestMiddleware, max_body=config.max_body)
    if config.origins:  # outermost, so that pages can read refusals as well
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(config.origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],  # whatever a client sends, such as OpenAI's x-stainless-*
            expose_headers=["*"],
        )
    app.openapi = partial(_description, app)  # type: ignore[method-assign] # as FastAPI's documentation says
    return app


def _description(app: FastAPI) -> dict[str, Any]:
    """The API's description, without FastAPI's 422: invalid requests get 400 here."""
    if app.openapi_schema is None:
        schema = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        for methods in schema["paths"].values():
            for operation in methods.values():
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            schema["components"]["schemas"].pop(name, None)
        app.openapi_schema = schema
    return app.openapi_schema


def _operation(route: APIRoute) -> str:
    return route.name


def _pages() -> APIRouter:
    """The dashboard's files, read once."""
    routes = APIRouter(include_in_schema=False)
    pages = {item.name: item.read_bytes() for item in files("memkit.server").joinpath("pages").iterdir()}

    @routes.get("/")
    def index() -> Response:
        return Response(pages["index.html"], media_type="text/html; charset=utf-8")

    @routes.get("/pages/{name}")
    def asset(name: str) -> Response:
        if name not in pages:
            raise ApiError(404, "there is nothing at this address", "http_error")
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return Response(pages[name], media_type=kind)

    return routes
