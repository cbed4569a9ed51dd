"""MCP over streamable HTTP, with the HTTP server's API keys, rate limits and bounds on bodies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from anyio import to_thread
from mcp.server.mcpserver import Context
from mcp.server.transport_security import TransportSecuritySettings

from memkit.config import EngineName
from memkit.errors import MemkitError
from memkit.memory import Memory
from memkit.server.api_errors import ApiError, api_error, body_of
from memkit.server.identity import Caller, header_text
from memkit.server.jobs import Jobs
from memkit.server.mcp import create_mcp
from memkit.server.memory_pool import MemoryPool
from memkit.server.middleware import RequestMiddleware
from memkit.server.rate_limits import RateLimiter, authenticate

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

NO_MESSAGE = "the body is no JSON-RPC message: send an object with jsonrpc, method and, for an answer, id"
RATE, MAX_BODY = 600, 8 * 2**20  # requests of a key per minute; bytes


class KeyedMemory:
    """The memory of the caller, whom an API key and ``X-Memkit-User`` name; ``users`` are kept ready."""

    def __init__(self, root: Memory, users: int = 256) -> None:
        self._pool = MemoryPool(root, users)
        self._bank = root.bank

    def caller(self, headers: dict[str, str]) -> tuple[Caller, str]:
        """The caller, and an identifier of the key for rate limits.

        Raises `ApiError` without a valid key, `ConfigError` for an invalid name.
        """
        key, counted = authenticate(self._bank, headers.get("authorization", ""))
        return Caller(key.tenant, header_text(headers.get("x-memkit-user", "")), key.scope), counted

    @contextmanager
    def memory(self, context: Context[Any, Any]) -> Iterator[Memory]:
        caller, _ = self.caller(dict(context.headers or {}))
        with self._pool.of(caller.owner) as memory:
            yield memory


class KeyMiddleware:
    """ASGI middleware that admits only requests with a valid key, up to its rate limit."""

    def __init__(self, app: ASGIApp, memories: KeyedMemory, rates: RateLimiter) -> None:
        self._app, self._memories, self._rates = app, memories, rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            limits = await to_thread.run_sync(self._admit, headers)
        except (MemkitError, ApiError) as error:
            await _refuse(scope, send, api_error(error))
            return

        started: list[Message] = []  # the start of a refusal, until its body is known

        async def respond(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *_encoded(limits)]}
                if message["status"] == 400:
                    started.append(message)
                    return
            elif started:
                start, body = started.pop(), plain_refusal(message.get("body", b""))
                if not message.get("more_body"):
                    message = {**message, "body": body}
                    start = {**start, "headers": _measured(start["headers"], len(body))}
                await send(start)
            await send(message)

        await self._app(scope, receive, respond)

    def _admit(self, headers: dict[str, str]) -> dict[str, str]:
        return self._rates.count(self._memories.caller(headers)[1])


def http_app(
    memories: KeyedMemory,
    jobs: Jobs | None,
    *,
    engine: EngineName = "transformers",
    rate: int = RATE,
    max_body: int = MAX_BODY,
) -> ASGIApp:
    """The MCP server at ``/mcp``; ``rate`` counts requests of a key in a minute, ``max_body`` is in bytes.

    ``engine`` names what answers, for the tool ``status``.
    """
    # The SDK's check of host names keeps web pages from a server that trusts whoever reaches it (DNS
    # rebinding). Here every request brings a key, which no page has; and proxies pass on names of their own.
    names = TransportSecuritySettings(enable_dns_rebinding_protection=False)
    app = create_mcp(memories, jobs, engine).streamable_http_app(
        stateless_http=True, transport_security=names, max_request_body_size=max_body
    )
    return RequestMiddleware(KeyMiddleware(app, memories, RateLimiter(rate)), max_body)


def plain_refusal(body: bytes) -> bytes:
    """The SDK's refusal of a body that is no JSON-RPC message, without the details of its validation."""
    try:
        refusal = json.loads(body)
        message = refusal["error"]["message"]
    except (ValueError, TypeError, KeyError):
        return body
    if not isinstance(message, str) or not message.startswith("Validation error"):
        return body
    refusal["error"]["message"] = NO_MESSAGE
    return json.dumps(refusal).encode()


def _measured(headers: list[tuple[bytes, bytes]], length: int) -> list[tuple[bytes, bytes]]:
    """The headers with ``Content-Length`` set."""
    kept = [(name, value) for name, value in headers if name.lower() != b"content-length"]
    return [*kept, (b"content-length", b"%d" % length)]


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode()) for name, value in headers.items()]


async def _refuse(scope: Scope, send: Send, error: ApiError) -> None:
    body = json.dumps(body_of(error, scope.get("state", {}).get("request_id", ""))).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    start = {"type": "http.response.start", "status": error.status}
    await send({**start, "headers": [*headers, *_encoded(error.headers)]})
    await send({"type": "http.response.body", "body": body})
