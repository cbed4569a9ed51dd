"""An upstream's responses, passed on unchanged except for one field of our own."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any

MAX_HELD = 2**20  # bytes of a line that are buffered to find out whether it is an event
DECODED = {
    "",
    "identity",
    "gzip",
    "deflate",
}  # encodings that the HTTP client decodes with the standard library
# Headers of the connection (RFC 9110, 7.6.1) and of the rewritten body, and those that this server sets.
_OWN = {
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authentication-info",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "trailers",
    "transfer-encoding",
    "upgrade",
    "content-length",
    "content-encoding",
    "content-md5",
    "content-range",
    "accept-ranges",
    "digest",
    "etag",
    "last-modified",
    "cache-control",
    "expires",
    "pragma",
    "age",
    "vary",
    "date",
    "server",
    "via",
    "alt-svc",
    "link",
    "location",
    "refresh",
    "set-cookie",
    "www-authenticate",
    "strict-transport-security",
    "content-security-policy",
    "content-security-policy-report-only",
    "content-disposition",
    "clear-site-data",
    "referrer-policy",
    "permissions-policy",
    "nel",
    "report-to",
    "x-frame-options",
    "x-content-type-options",
    "x-powered-by",
}
_OWN_PREFIXES = ("access-control-", "cross-origin-", "x-accel-", "x-memkit-", "x-sendfile")


def headers_of(given: Mapping[str, str]) -> dict[str, str]:
    """The response headers that concern the caller, such as rate limits and request ids."""
    lower = {name.lower(): value for name, value in given.items()}
    named = {name.strip().lower() for name in lower.get("connection", "").split(",")}
    return {
        name: value
        for name, value in lower.items()
        if name not in _OWN and name not in named and not name.startswith(_OWN_PREFIXES)
    }


def with_field(data: bytes, name: str, value: Any) -> bytes:
    """A JSON object with one more field, and no other byte changed; anything but an object stays as it is.

    An existing field of that name (another memkit's) is replaced: readers differ in which of two they see.
    """
    try:
        fields = json.loads(data.decode())
    except (ValueError, RecursionError):
        return data
    if not isinstance(fields, dict):
        return data
    if name in fields:
        return json.dumps({**fields, name: value}, ensure_ascii=False).encode()
    head = data.rstrip()[:-1]
    field = json.dumps({name: value})[1:-1].encode()
    return head + (b"," if fields else b"") + field + b"}" + data[len(data.rstrip()) :]


async def marked(pieces: AsyncGenerator[bytes, None], name: str, value: Any) -> AsyncGenerator[bytes, None]:
    """Server-sent events, with a field added to the first that is a JSON object.

    Lines end at ``\\n`` alone here: U+2028 and its like are part of a text, and stand in it unescaped.
    """
    buffered = b""
    async with aclosing(pieces):
        async for piece in pieces:
            *lines, buffered = (buffered + piece).split(b"\n")
            for number, line in enumerate(lines):
                event = _event(line, name, value)
                yield (event or line) + b"\n"
                if event:
                    buffered = b"\n".join([*lines[number + 1 :], buffered])
                    break
            else:
                if len(buffered) <= MAX_HELD:
                    continue
            yield buffered
            async for rest in pieces:
                yield rest
            return
    yield _event(buffered, name, value) or buffered


def _event(line: bytes, name: str, value: Any) -> bytes | None:
    """The line with the field added, or None if it is not the data of such an event."""
    start, colon, data = line.partition(b":")
    if not colon or start != b"data" or not data.lstrip().startswith(b"{"):
        return None
    changed = with_field(data, name, value)
    return None if changed == data else b"data:" + changed


async def joined(first: list[bytes], rest: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """The pieces that were read, then the rest."""
    async with aclosing(rest):
        for piece in first:
            yield piece
        async for piece in rest:
            yield piece
