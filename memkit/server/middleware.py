"""Middleware for every request: an id, a bound on the body, security headers and a log line."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import time
from collections.abc import Iterable

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from memkit.server.api_errors import ApiError, api_error, body_of

log = logging.getLogger("memkit.server")
READ_TIMEOUT = 30.0  # seconds between two chunks of a body
DRAINED, DRAIN_SECONDS = 4 * 2**20, 2.0  # of a refused body: read on, so that the sender gets the answer
UNBUFFERED = {"X-Accel-Buffering": "no"}  # for streams: a proxy passes each piece on at once
_ID = re.compile(rb"[\w.-]{1,64}")
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
_HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)


class RequestMiddleware:
    """ASGI middleware; ``max_body`` is in bytes."""

    def __init__(self, app: ASGIApp, max_body: int) -> None:
        self._app, self._max_body = app, max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, receive, send, self._max_body)
        try:
            if exchange.announced > self._max_body:
                exchange.too_large = True
            else:
                await self._app(scope, exchange.receive, exchange.send)
            if exchange.too_large and not exchange.status:
                await exchange.refuse(_too_large(self._max_body), drain=True)
        except Exception as error:
            if exchange.status:  # too late for an error response: cutting it off shows that it is incomplete
                log.error("unexpected %s", type(error).__name__, exc_info=error)
                raise
            await exchange.refuse(api_error(error))
        finally:
            exchange.note()


class _Exchange:
    """One request and its response."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, max_body: int) -> None:
        self._scope, self._receive, self._send, self._max_body = scope, receive, send, max_body
        self.too_large = False
        self._read, self._whole, self._started, self.status = 0, False, time.perf_counter(), 0
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        self.id = given.decode() if _ID.fullmatch(given) else secrets.token_hex(8)
        scope.setdefault("state", {})["request_id"] = self.id
        length = headers.get(b"content-length", b"")
        self.announced = int(length) if length.isdigit() else 0

    async def receive(self) -> Message:
        if self._whole:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), READ_TIMEOUT)
        except TimeoutError:
            raise HTTPException(408) from None
        self._whole = message["type"] != "http.request" or not message.get("more_body", False)
        self._read += len(message.get("body", b""))
        if self._read > self._max_body:
            self.too_large = True
            raise HTTPException(413)
        return message

    async def send(self, message: Message) -> None:
        if self.too_large and not self.status:
            return  # `refuse` answers instead
        await self._respond(message)

    async def _respond(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = {name.lower() for name, _ in message.get("headers", ())}
            own: Iterable[tuple[bytes, bytes]] = ((b"x-request-id", self.id.encode()), *_HEADERS)
            more = [(name, value) for name, value in own if name not in given]
            if b"x-request-id" in given:  # an upstream's; the log has ours
                more.append((b"x-memkit-request-id", self.id.encode()))
            message = {**message, "headers": [*message.get("headers", ()), *more]}
        await self._send(message)

    async def refuse(self, error: ApiError, drain: bool = False) -> None:
        """Answer with an error; ``drain`` reads on, as a sender does not notice a closed connection."""
        body = json.dumps(body_of(error, self.id)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        headers += [(b"connection", b"close")] * drain
        headers += [(name.lower().encode(), value.encode()) for name, value in error.headers.items()]
        await self._respond({"type": "http.response.start", "status": error.status, "headers": headers})
        await self._respond({"type": "http.response.body", "body": body, "more_body": drain})
        if drain:
            await self._drain()
            await self._respond({"type": "http.response.body", "body": b""})

    async def _drain(self) -> None:
        remaining = DRAINED
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while remaining > 0:
                    message = await self._receive()
                    remaining -= len(message.get("body", b""))
                    if message["type"] != "http.request" or not message.get("more_body", False):
                        return
        except TimeoutError:
            return

    def note(self) -> None:
        """Write one log line, without content."""
        if log.isEnabledFor(logging.INFO):
            ms = (time.perf_counter() - self._started) * 1000
            fields = {
                "event": "request",
                "request": self.id,
                "method": self._scope["method"],
                "path": self._scope["path"],
                "status": self.status,
                "ms": round(ms, 1),
            }
            log.info(
                " ".join(f"{key}={value!s:.200}" for key, value in fields.items()), extra={"memkit": fields}
            )


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"the body is larger than {most:,} bytes: send less at once", "body_too_large")
