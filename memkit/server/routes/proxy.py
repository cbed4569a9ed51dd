"""The OpenAI-compatible routes in front of an upstream, whose own limits apply in place of this server's.

Of a body only two things are read: the user, and the user's latest words.
"""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from fastapi import APIRouter, Request, Response

from memkit.server.answer_stream import until_disconnected
from memkit.server.dependencies import InContext, with_headers
from memkit.server.request_body import InvalidBodyError, parse
from memkit.server.routes.openai import Chosen, unknown
from memkit.server.upstream import Upstream

PASSED: tuple[str, ...] = ("openai-beta", "anthropic-beta", "anthropic-version", "traceparent", "tracestate")
PASSED += ("x-request-id", "x-client-request-id", "accept", "accept-language")
routes = APIRouter(prefix="/v1", include_in_schema=False)  # `memkit.server.routes.openai` describes them


@routes.get("/models")
async def models(context: InContext, request: Request, response: Response) -> Response:
    return with_headers(await _upstream(request).ask("GET", "models", **_passed_on(request)), response)


@routes.get("/models/{model_id:path}")
async def model(model_id: str, context: InContext, request: Request, response: Response) -> Response:
    path = request.scope.get("raw_path", b"").decode("ascii").partition("?")[0]  # escaped as it came
    asked = path.removeprefix(request.scope.get("root_path", "")).removeprefix("/v1/")
    if not {".", ".."}.isdisjoint(model_id.split("/")):  # no way to what else the upstream serves
        raise unknown(model_id)
    return with_headers(await _upstream(request).ask("GET", asked, **_passed_on(request)), response)


@routes.post("/chat/completions")
async def chat(context: InContext, request: Request, response: Response, chosen: Chosen) -> Response:
    content = await request.body()
    body = parse(content)
    if not isinstance(body, dict):
        raise InvalidBodyError("the request must be an object")
    user = body.get("user")
    context = context.of(user if isinstance(user, str) else None)
    within, _ = await chosen.of(context)

    def answered() -> Awaitable[Response]:
        return _upstream(request).chat(context, body, content, within, **_passed_on(request))

    return with_headers(await until_disconnected(request, answered), response)


def _passed_on(request: Request) -> dict[str, Any]:
    """The headers and the query that the upstream gets."""
    given = {name: request.headers[name] for name in PASSED if name in request.headers}
    return {"headers": given, "query": request.url.query}


def _upstream(request: Request) -> Upstream:
    upstream: Upstream = request.app.state.upstream
    return upstream
