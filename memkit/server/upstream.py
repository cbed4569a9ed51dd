"""A proxy in front of another OpenAI-compatible server: memories go into its prompt as text.

Such a server takes no artifacts. The best memory for a question is retrieved as usual, without a model, and
its best passages go into the system message. Everything else passes through unchanged, in both directions.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
from anyio import CancelScope, to_thread
from fastapi.responses import Response, StreamingResponse

from memkit.document import Span
from memkit.errors import NotFoundError
from memkit.router.gate import EMPTY, Decision, decide_by_rule
from memkit.router.passages import select_passages
from memkit.server.api_errors import ApiError
from memkit.server.dependencies import RequestContext, Services
from memkit.server.middleware import UNBUFFERED
from memkit.server.response_passthrough import DECODED, headers_of, joined, marked, with_field
from memkit.server.schemas import MAX_QUESTION

CHARACTERS = 4  # per token, roughly: the upstream's tokenizer is unknown
MAX_ERROR = 64 * 1024  # bytes of an error response that are read
MAX_WHOLE = 16 * 2**20  # bytes of an answer that are buffered; a longer one gets no field `memkit`
FRAME = "Use what is known from earlier, where it answers the user:\n\n{text}"
EVENTS = "text/event-stream"
REFUSED = "the upstream refuses this server: its key belongs in MEMKIT_UPSTREAM_KEY, where this server starts"
BROKEN = b'\n\ndata: {"error": {"message": "the upstream broke off", "type": "server_error"}}\n\n'
_OBSTACLE = "the upstream takes no artifacts"
_SYSTEM = ("system", "developer")
_RENAMED = {"x-request-id": "x-upstream-request-id"}  # the body has ours
_HEADERS = {"Route": "route", "Memory": "memory_id", "Gate": "gate"}


class TokenEstimate:
    """Estimates token counts from characters."""

    def count_tokens(self, text: str) -> int:
        """About the number of tokens of a text, rounded up."""
        return -(-len(text) // CHARACTERS)


@dataclass(frozen=True)
class MemoryContext:
    """The memory that goes into a prompt: the decision, its text, and the spans of its source."""

    decision: Decision
    text: str
    spans: tuple[Span, ...]

    def described(self, user: str) -> dict[str, Any]:
        """The field ``memkit`` of an answer to ``user``."""
        decision = self.decision
        memory = decision.candidate.memory if decision.candidate and self.text else None
        return {
            "user": user,
            "route": decision.route if self.text else "none",
            "reason": decision.reason,
            "gate": decision.gate,
            "calibrated": False,
            "margin": decision.margin,
            "memory_id": memory.id if memory else None,
            "artifact_id": None,
            "version": None,
            "spans": [vars(span) for span in self.spans],
            "notes": [],
            "ignored": [],
        }


class Upstream:
    """Passes conversations on. ``client`` is None if this server's own engine answers."""

    def __init__(self, services: Services, client: httpx2.AsyncClient | None) -> None:
        self._services, self._client = services, client

    @classmethod
    @asynccontextmanager
    async def of(cls, services: Services) -> AsyncGenerator[Upstream, None]:
        """The upstream of the server's configuration, for as long as the context lasts."""
        config = services.config
        if config.upstream is None:
            yield cls(services, None)
            return
        headers = {"Accept-Encoding": "gzip, deflate"}
        if config.upstream_key:
            headers["Authorization"] = f"Bearer {config.upstream_key}"
        base = config.upstream.rstrip("/") + "/"
        timeout = httpx2.Timeout(config.answer_timeout, connect=10.0)
        async with httpx2.AsyncClient(base_url=base, headers=headers, timeout=timeout) as client:
            yield cls(services, client)

    async def ask(
        self,
        method: str,
        path: str,
        *,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        query: str = "",
        used: dict[str, Any] | None = None,
    ) -> Response:
        """The upstream's response; ``used`` becomes its field ``memkit``.

        Raises `ApiError` for an upstream that cannot be reached or used.
        """
        answered = await self._send(method, path, content, headers or {}, query)
        passed = headers_of(answered.headers)
        for name, key in _HEADERS.items():
            if used is not None and used[key] is not None:
                passed[f"X-Memkit-{name}"] = str(used[key])
        if answered.status_code >= 300:
            try:
                return await _refusal(answered, passed)
            finally:
                await answered.aclose()
        if answered.headers.get("content-encoding", "").lower() not in DECODED:
            passed["content-encoding"] = answered.headers["content-encoding"]
            return StreamingResponse(_pieces(answered, raw=True), answered.status_code, passed)
        pieces = _pieces(answered)
        if answered.headers.get("content-type", "").lower().startswith(EVENTS):
            events = pieces if used is None else marked(pieces, "memkit", used)
            return StreamingResponse(events, answered.status_code, {**passed, **UNBUFFERED})
        return await _whole(answered, pieces, passed, used)

    async def chat(
        self,
        context: RequestContext,
        body: dict[str, Any],
        content: bytes,
        within: str | None,
        headers: Mapping[str, str],
        query: str,
    ) -> Response:
        """Pass a conversation on, with the best memory for its question in the instructions.

        ``body`` is the parsed ``content``, which is passed on byte for byte if no memory is used. ``within``
        is the id of the only memory to consider. Raises `ApiError` as `ask`.
        """
        memory = await to_thread.run_sync(self.retrieve, context, latest(body.get("messages")), within)
        if memory.text:
            body = {**body, "messages": framed(body["messages"], FRAME.format(text=memory.text))}
            content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        used = memory.described(context.caller.user)
        return await self.ask(
            "POST", "chat/completions", content=content, headers=headers, query=query, used=used
        )

    def retrieve(self, context: RequestContext, question: str, within: str | None) -> MemoryContext:
        """The best memory for a question, with its best passages."""
        if not question.strip():
            return MemoryContext(Decision("none", None, "there is no question in words"), "", ())
        with context.memory() as memory:
            retrieved = memory.router.retrieve(question, within=within)
            if not retrieved.ranked:
                return MemoryContext(EMPTY, "", ())
            best = retrieved.ranked[0]
            least = memory.router.config.min_similarity
            decision = decide_by_rule(
                best, _OBSTACLE, memory.router.embedder.min_similarity if least is None else least
            )
            if decision.route != "text":
                return MemoryContext(decision, "", ())
            room = self._services.config.context_tokens
            try:
                text, spans = select_passages(
                    memory.bank, memory.owner, TokenEstimate(), best.memory, retrieved.vector, room
                )
            except NotFoundError:  # forgotten in the meantime
                text, spans = "", ()
            return MemoryContext(decision, text, spans)

    async def _send(
        self, method: str, path: str, content: bytes | None, headers: Mapping[str, str], query: str
    ) -> httpx2.Response:
        if self._client is None:
            raise ApiError(503, "there is no upstream", "upstream_unavailable")
        given = dict(headers) if content is None else {**headers, "Content-Type": "application/json"}
        address = f"{path}?{query}" if query else path
        request = self._client.build_request(method, address, content=content, headers=given)
        try:
            return await self._client.send(request, stream=True)
        except httpx2.TimeoutException as error:
            raise ApiError(504, "the upstream did not answer in time", "upstream_timeout") from error
        except httpx2.HTTPError as error:
            raise ApiError(502, "the upstream cannot be reached", "upstream_unavailable") from error


# -- requests ------------------------------------------------------------------------------
def latest(messages: Any) -> str:
    """The user's latest words, for retrieval: everything said since the assistant's last answer in words.

    Images, tool calls and results may follow them. Messages are not validated here.
    """
    texts = list[str]()
    for message in reversed(messages if isinstance(messages, list) else []):
        if not isinstance(message, dict):
            continue
        role, text = message.get("role"), _words(message.get("content"))
        if role == "user" and text.strip():
            texts.append(text)
        elif role == "assistant" and text.strip() and texts:
            break
    return "\n".join(reversed(texts))[-MAX_QUESTION:]


def _words(content: Any) -> str:
    """The text of a message's content, without its other parts."""
    if isinstance(content, list):
        texts = [part.get("text") if isinstance(part, dict) else part for part in content]
        content = "\n".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""


def framed(messages: list[Any], text: str) -> list[Any]:
    """The conversation with ``text`` appended to its system message: some models accept only one."""
    for number, message in enumerate(messages):
        if isinstance(message, dict) and message.get("role") in _SYSTEM:
            content = message.get("content")
            if isinstance(content, list):
                extended: Any = [*content, {"type": "text", "text": text}]
            elif isinstance(content, str) and content:
                extended = f"{content}\n\n{text}"
            elif not content:
                extended = text
            else:
                break  # content of another type
            return [*messages[:number], {**message, "content": extended}, *messages[number + 1 :]]
    return [{"role": "system", "content": text}, *messages]


# -- responses ---------------------------------------------------------------------------
async def _pieces(answered: httpx2.Response, raw: bool = False) -> AsyncGenerator[bytes, None]:
    """The bytes of an answer as they come. Closing the generator closes the connection."""
    try:
        async for piece in answered.aiter_raw() if raw else answered.aiter_bytes():
            yield piece
    except httpx2.HTTPError:
        if not answered.headers.get("content-type", "").lower().startswith(EVENTS):
            raise  # cutting the answer off shows that it is incomplete
        yield BROKEN
    finally:
        with CancelScope(shield=True):  # else the connection stays open after the reader has disconnected
            await answered.aclose()


async def _whole(
    answered: httpx2.Response,
    pieces: AsyncGenerator[bytes, None],
    headers: dict[str, str],
    used: dict[str, Any] | None,
) -> Response:
    parts, size = list[bytes](), 0
    try:
        async for part in pieces:
            parts.append(part)
            size += len(part)
            if size > MAX_WHOLE:
                return StreamingResponse(joined(parts, pieces), answered.status_code, headers)
    except httpx2.HTTPError as error:
        raise ApiError(502, "the upstream broke off", "upstream_unavailable") from error
    data = b"".join(parts)
    return Response(data if used is None else with_field(data, "memkit", used), answered.status_code, headers)


async def _refusal(answered: httpx2.Response, headers: dict[str, str]) -> Response:
    """An upstream's error response, unchanged if it is JSON, else as one of ours with its status."""
    status = answered.status_code
    if status in (401, 403):  # the key is this server's, not the caller's
        raise ApiError(502, REFUSED, "upstream_unavailable")
    if status < 400:
        advice = "the upstream sends its callers elsewhere: give its final address as --upstream"
        raise ApiError(502, advice, "upstream_unusable")
    data = b""
    try:
        async for part in answered.aiter_bytes():
            data += part
            if len(data) > MAX_ERROR:
                break
        json.loads(data)
    except (httpx2.HTTPError, ValueError, RecursionError):
        kept = {_RENAMED.get(name, name): value for name, value in headers.items() if name != "content-type"}
        raise ApiError(status, f"the upstream answered {status}", "upstream_error", headers=kept) from None
    return Response(data, status, headers)
