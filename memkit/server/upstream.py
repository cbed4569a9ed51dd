"""In front of another OpenAI-compatible server: memories go into its prompt as text.

Such a server takes no artifacts. A question's best memory is found as always, without a model; its best
passages become a system message in front of the conversation, and all else is passed on as it came.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
from anyio import CancelScope, to_thread
from fastapi.responses import JSONResponse, Response, StreamingResponse

from memkit.document import Span
from memkit.errors import NotFoundError
from memkit.router.gate import EMPTY, Decision, by_rule
from memkit.router.text import passages
from memkit.server.errors import ApiError
from memkit.server.guard import UNBUFFERED
from memkit.server.openai_schemas import ChatBody
from memkit.server.services import Desk, Services

CHARACTERS = 4  # of a token, roughly: the upstream's tokenizer is not here
MAX_ERROR = 64 * 1024  # bytes of an upstream's refusal that are passed on
FRAME = "Use what is known from earlier, where it answers the user:\n\n{text}"
_OBSTACLE = "the upstream takes no artifacts"


class Estimated:
    """Counts tokens by characters."""

    def count_tokens(self, text: str) -> int:
        return -(-len(text) // CHARACTERS)


@dataclass(frozen=True)
class Found:
    """What memory goes into a prompt, and why."""

    decision: Decision
    text: str
    spans: tuple[Span, ...]

    def told(self, user: str, ignored: list[str]) -> dict[str, Any]:
        """The field ``memkit`` of an answer."""
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
            "ignored": ignored,
        }


class Upstream:
    """Passes conversations on. ``client`` is None where a model here answers."""

    def __init__(self, services: Services, client: httpx2.AsyncClient | None) -> None:
        self._services, self._client = services, client

    @classmethod
    @asynccontextmanager
    async def of(cls, services: Services) -> AsyncGenerator[Upstream, None]:
        """The upstream of a configuration, or one that is never asked."""
        config = services.config
        if config.upstream is None:
            yield cls(services, None)
            return
        headers = {"Authorization": f"Bearer {config.upstream_key}"} if config.upstream_key else {}
        base = config.upstream.rstrip("/") + "/"
        timeout = httpx2.Timeout(config.answer_timeout, connect=10.0)
        async with httpx2.AsyncClient(base_url=base, headers=headers, timeout=timeout) as client:
            yield cls(services, client)

    async def models(self) -> dict[str, Any]:
        """The upstream's models, as it lists them."""
        answered = await self._send("GET", "models", None)
        try:
            found = json.loads(await self._whole(answered))
        finally:
            await answered.aclose()
        return found if isinstance(found, dict) else {"object": "list", "data": []}

    async def chat(self, desk: Desk, body: ChatBody, question: str, within: str | None) -> Response:
        """Answer a conversation, with the best memory of its question in front."""
        found = await to_thread.run_sync(self.look, desk, question, within)
        sent = body.model_dump(mode="json", exclude_unset=True)
        if found.text:
            sent["messages"] = _framed(sent["messages"], FRAME.format(text=found.text))
        told = found.told(desk.caller.user, [])
        answered = await self._send("POST", "chat/completions", sent)
        headers = {f"X-Memkit-{k.title()}": str(told[f]) for k, f in _TOLD.items() if told[f] is not None}
        if answered.status_code >= 400 or not body.stream:
            try:
                return _told(await self._whole(answered), answered, told, headers)
            finally:
                await answered.aclose()
        return StreamingResponse(
            _lines(answered, told), media_type="text/event-stream", headers={**headers, **UNBUFFERED}
        )

    def look(self, desk: Desk, question: str, within: str | None) -> Found:
        """The memory that a question is about, and its passages."""
        with desk.memory() as memory:
            looked = memory.router.look(question, within=within)
            if not looked.ranked:
                return Found(EMPTY, "", ())
            best = looked.ranked[0]
            least = memory.router.config.min_similarity
            decision = by_rule(
                best, _OBSTACLE, memory.router.embedder.min_similarity if least is None else least
            )
            if decision.route != "text":
                return Found(decision, "", ())
            room = self._services.config.context_tokens
            try:
                text, spans = passages(
                    memory.bank, memory.owner, Estimated(), best.memory, looked.vector, room
                )
            except NotFoundError:  # forgotten in the meantime
                text, spans = "", ()
            return Found(decision, text, spans)

    async def _send(self, method: str, path: str, body: dict[str, Any] | None) -> httpx2.Response:
        if self._client is None:
            raise ApiError(503, "there is no upstream", "upstream_unavailable")
        request = self._client.build_request(method, path, json=body)
        try:
            return await self._client.send(request, stream=True)
        except httpx2.TimeoutException as error:
            raise ApiError(504, "the upstream did not answer in time", "upstream_timeout") from error
        except httpx2.HTTPError as error:
            raise ApiError(502, "the upstream cannot be reached", "upstream_unavailable") from error

    async def _whole(self, answered: httpx2.Response) -> bytes:
        most = MAX_ERROR if answered.status_code >= 400 else self._services.config.max_body
        data = b""
        try:
            async for part in answered.aiter_bytes():
                data += part
                if len(data) > most:
                    raise ApiError(502, "the upstream's answer is too long", "upstream_unusable")
        except httpx2.HTTPError as error:
            raise ApiError(502, "the upstream broke off", "upstream_unavailable") from error
        return data


_TOLD = {"route": "route", "memory": "memory_id", "gate": "gate"}


def _told(data: bytes, answered: httpx2.Response, told: dict[str, Any], headers: dict[str, str]) -> Response:
    """An upstream's answer, or its refusal, with what was used."""
    try:
        found = json.loads(data)
    except ValueError as error:
        raise ApiError(502, "the upstream's answer is no JSON", "upstream_unusable") from error
    if answered.status_code in (401, 403):  # its key is the server's, not the caller's
        raise ApiError(502, "the upstream refuses this server", "upstream_unavailable")
    if isinstance(found, dict) and answered.status_code < 400:
        found["memkit"] = told
    return JSONResponse(found, status_code=answered.status_code, headers=headers)


async def _lines(answered: httpx2.Response, told: dict[str, Any]) -> AsyncIterator[str]:
    """An upstream's events as they come, the first chunk with what was used; closing this hangs up there."""
    first = True
    try:
        async for line in answered.aiter_lines():
            if first and line.startswith("data: {"):
                line, first = _marked(line, told), False
            yield line + "\n"
    except httpx2.HTTPError:
        yield 'data: {"error": {"message": "the upstream broke off", "type": "server_error"}}\n\n'
    finally:
        with CancelScope(shield=True):  # else its connection stays open where the reader hung up
            await answered.aclose()


def _marked(line: str, told: dict[str, Any]) -> str:
    try:
        return "data: " + json.dumps({**json.loads(line.removeprefix("data: ")), "memkit": told})
    except (ValueError, TypeError):
        return line


def _framed(messages: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    """The conversation with a text at the end of its system message: some models take only one."""
    first = messages[0]
    if first["role"] in ("system", "developer") and isinstance(first.get("content"), str):
        return [{**first, "content": f"{first['content']}\n\n{text}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]
