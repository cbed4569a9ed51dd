"""The OpenAI-compatible routes: answers from the caller's memories, which the field ``memkit`` names.

Where an upstream answers, `memkit.server.routes.proxy` takes precedence.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse

from memkit import registry
from memkit.answer import Answer
from memkit.errors import ConfigError, MemkitError
from memkit.server.answer_stream import Question
from memkit.server.api_errors import ApiError, api_error, body_of
from memkit.server.conversation import split_conversation
from memkit.server.dependencies import InContext, RequestContext, with_headers
from memkit.server.error_handlers import request_id_of
from memkit.server.identity import header_text
from memkit.server.middleware import UNBUFFERED
from memkit.server.openai_schemas import (
    ChatBody,
    ChatOut,
    Common,
    CompletionBody,
    Model,
    Models,
)
from memkit.server.request_body import JsonRoute
from memkit.server.routes.ask import answers_of, headers_of, longest, used
from memkit.server.routes.memories import ERRORS, get_memory
from memkit.text.stop_sequences import StopSequences

DEFAULT_TOKENS = 256
_EXTENSION = (
    "The field `memkit` says what was used: user, route (latent, text or none), reason, gate, margin, "
    "memory_id, artifact_id, version, spans and times, and lists the request fields that were ignored. In a "
    "stream it is in the last chunk; otherwise the headers X-Memkit-Route, -Gate, -Memory and -Version "
    "summarize it. The request headers X-Memkit-User, X-Memkit-Memory (an id) and X-Memkit-Gate choose."
)


@dataclass(frozen=True)
class Choices:
    """The memory and the gate that request headers choose, in place of the router."""

    memory: str
    gate: str

    async def of(self, context: RequestContext) -> tuple[str | None, str | None]:
        """The memory's id and the gate. Raises `NotFoundError` for a memory that is not the caller's."""
        gate = self.gate or None
        if gate is not None and gate not in registry.SHIPPED[registry.GATES]:
            names = registry.names(registry.GATES)
            if gate not in names:
                raise ConfigError(f"X-Memkit-Gate is one of {', '.join(names)}")
        if not self.memory:
            return None, gate
        return (await to_thread.run_sync(get_memory, context, header_text(self.memory))).id, gate


async def _choices(
    x_memkit_memory: Annotated[str, Header(description="Id of the only memory to use.")] = "",
    x_memkit_gate: Annotated[str, Header(description="auto, rule, entropy or learned.")] = "",
) -> Choices:
    return Choices(x_memkit_memory, x_memkit_gate)


Chosen = Annotated[Choices, Depends(_choices)]
routes = APIRouter(prefix="/v1", tags=["OpenAI-compatible"], responses=ERRORS, route_class=JsonRoute)


@routes.get("/models")
def models(context: InContext) -> Models:
    """List the model that answers and the embedder; or the models of the upstream."""
    return Models(data=[_model(context, name) for name in _names(context)])


@routes.get("/models/{model_id:path}")
def model(model_id: str, context: InContext) -> Model:
    """Show the model or the embedder."""
    if model_id not in _names(context):
        raise unknown(model_id)
    return _model(context, model_id)


@routes.post(
    "/chat/completions", description=_EXTENSION, response_model=None, responses={200: {"model": ChatOut}}
)
async def chat(
    body: ChatBody, context: InContext, request: Request, response: Response, chosen: Chosen
) -> Response:
    context = context.of(body.user)
    _check(context, body)
    history, question, system = split_conversation(body.messages)
    asked = await _question(context, body, chosen, question, body.max_completion_tokens)
    asked = replace(asked, history=history, system=system)
    return await _answered(_Form("chat.completion", "chatcmpl"), context, body, asked, request, response)


@routes.post("/completions", description=_EXTENSION, response_model=None, responses={200: {"model": ChatOut}})
async def completions(
    body: CompletionBody, context: InContext, request: Request, response: Response, chosen: Chosen
) -> Response:
    context = context.of(body.user)
    if context.services.config.upstream is not None:
        raise ApiError(
            400, "answers come from an upstream here: use /v1/chat/completions", "unsupported", "prompt"
        )
    _check(context, body)
    prompt = body.prompt if isinstance(body.prompt, str) else body.prompt[0]
    asked = await _question(context, body, chosen, prompt, None)
    return await _answered(_Form("text_completion", "cmpl"), context, body, asked, request, response)


# -- requests ------------------------------------------------------------------------------
def _check(context: RequestContext, body: Common) -> None:
    _require_model(context, body.model)
    if unsupported := body.impossible():
        field, advice = unsupported
        raise ApiError(400, advice, "unsupported", field)


def _require_model(context: RequestContext, name: str) -> None:
    if name != context.services.config.model_id:
        raise unknown(name)


def unknown(name: str) -> ApiError:
    """The answer to a model name that is not served."""
    return ApiError(
        404,
        f"the model {name!r:.80} is not served here; /v1/models lists the models",
        "model_not_found",
        "model",
    )


def _names(context: RequestContext) -> tuple[str, str]:
    """The model that answers, and the embedder."""
    return context.services.config.model_id, context.services.root.router.embedder.name


def _model(context: RequestContext, name: str) -> Model:
    return Model(id=name, created=context.services.started)


async def _question(
    context: RequestContext, body: Common, chosen: Choices, text: str, most: int | None
) -> Question:
    if not text.strip():
        raise ApiError(400, "the question is empty", "invalid_value", "messages")
    tokens = most or body.max_tokens or DEFAULT_TOKENS
    within, gate = await chosen.of(context)
    return Question(
        text,
        min(tokens, await longest(context)),
        body.temperature or 0.0,
        (body.seed or 0) % 2**63,
        within=within,
        gate=gate,
    )


# -- what is answered ---------------------------------------------------------------------------
@dataclass(frozen=True)
class _Form:
    """One of the two shapes of an answer."""

    object: str
    prefix: str

    def choice(self, text: str, finish: str | None) -> dict[str, Any]:
        content = (
            {"message": {"role": "assistant", "content": text}}
            if self.prefix == "chatcmpl"
            else {"text": text}
        )
        return {"index": 0, **content, "logprobs": None, "finish_reason": finish}

    def piece(self, text: str | None, finish: str | None, first: bool) -> dict[str, Any]:
        if self.prefix != "chatcmpl":
            return {"index": 0, "text": text or "", "logprobs": None, "finish_reason": finish}
        delta = ({"role": "assistant"} if first else {}) | ({} if text is None else {"content": text})
        return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}

    def frame(self, context: RequestContext, streamed: bool) -> dict[str, Any]:
        kind = f"{self.object}.chunk" if streamed and self.prefix == "chatcmpl" else self.object
        return {
            "id": f"{self.prefix}-{secrets.token_hex(12)}",
            "object": kind,
            "created": int(time.time()),
            "model": context.services.config.model_id,
            "system_fingerprint": context.services.engine.info().fingerprint[:16],
        }


async def _answered(
    form: _Form, context: RequestContext, body: Common, asked: Question, request: Request, response: Response
) -> Response:
    if body.stream:
        pieces = answers_of(request).stream(context, asked)
        try:
            first = await anext(pieces)  # errors before it have a status of their own
        except BaseException:
            await pieces.aclose()
            raise
        events = _events(form, context, body, first, pieces, request_id_of(request))
        streamed = StreamingResponse(events, media_type="text/event-stream", headers=UNBUFFERED)
        return with_headers(streamed, response)
    answer = await answers_of(request).answer(context, asked, request)
    stopper = StopSequences(body.stops)
    text = stopper.take(answer.text) + stopper.rest()
    content = {
        **form.frame(context, False),
        "choices": [form.choice(text, _finish(answer, stopper))],
        "usage": _usage(answer),
        "memkit": {**used(context, answer), "ignored": body.ignored()},
    }
    return with_headers(JSONResponse(content, headers=headers_of(context, answer)), response)


async def _events(
    form: _Form,
    context: RequestContext,
    body: Common,
    first: str | Answer,
    pieces: AsyncGenerator[str | Answer, None],
    request_id: str,
) -> AsyncIterator[str]:
    """Server-sent events of an answer. Generation stops when the reader disconnects."""
    frame, stopper, began = form.frame(context, True), StopSequences(body.stops), False
    usage = body.stream_options is not None and bool(body.stream_options.include_usage)
    async with aclosing(pieces):
        piece: str | Answer = first
        while True:
            if isinstance(piece, Answer):
                last = [(stopper.rest(), None)] if stopper.waiting else []
                for text, finish in [*last, (None, _finish(piece, stopper))]:
                    chunk = {**frame, "choices": [form.piece(text, finish, not began)]}
                    began = True
                    if finish:
                        chunk["memkit"] = {**used(context, piece), "ignored": body.ignored()}
                    yield _event(chunk)
                if usage:
                    yield _event({**frame, "choices": [], "usage": _usage(piece)})
                break
            if text := stopper.take(piece):
                yield _event({**frame, "choices": [form.piece(text, None, not began)]})
                began = True
            try:
                piece = await anext(pieces)
            except (MemkitError, ApiError) as error:
                yield _event(body_of(api_error(error), request_id))
                return
    yield "data: [DONE]\n\n"


def _event(value: dict[str, Any]) -> str:
    return f"data: {json.dumps(value)}\n\n"


def _finish(answer: Answer, stopper: StopSequences) -> str:
    return "stop" if stopper.stopped or answer.trace.stopped else "length"


def _usage(answer: Answer) -> dict[str, int]:
    prompt, completion = answer.trace.prompt_tokens, answer.trace.completion_tokens
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
