"""What the tests of the proxy share: an upstream that answers with given bytes."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import httpx2
from starlette.types import Receive, Scope, Send

QUESTION: dict[str, Any] = {"role": "user", "content": "Where does Mira live?"}
ASKED: dict[str, Any] = {"model": "big", "messages": [QUESTION], "user": "mira"}
ODD = "a\u2028b\u2029c\u0085d\u000be"
ANSWER = b'{"id":"x","object":"chat.completion","choices":[],"n":1.10}'


@dataclass
class Raw:
    """A server that answers with these bytes, and keeps what it was sent."""

    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=lambda: [("content-type", "application/json")])
    parts: list[bytes] = field(default_factory=lambda: [ANSWER])
    bodies: list[bytes] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    given: dict[str, str] = field(default_factory=dict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        self.bodies.append(body)
        self.paths.append(scope["raw_path"].decode() + "?" + scope["query_string"].decode())
        self.given = {name.decode(): value.decode() for name, value in scope["headers"]}
        headers = [(name.encode(), value.encode()) for name, value in self.headers]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        for part in self.parts:
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b""})


def events(*texts: str) -> bytes:
    """Server-sent events that hold texts as they are, as servers in other languages write them."""
    chunks = [{"id": "x", "choices": [{"index": 0, "delta": {"content": text}}]} for text in texts]
    lines = [f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n" for chunk in chunks]
    return ("".join(lines) + "data: [DONE]\n\n").encode()


def streamed(upstream: Raw, parts: list[bytes], **headers: str) -> None:
    upstream.parts = parts
    upstream.headers = [("content-type", "text/event-stream"), *headers.items()]


def post(client: httpx2.Client, body: dict[str, Any], **headers: str) -> httpx2.Response:
    return client.post("/v1/chat/completions", json=body, headers=headers)
