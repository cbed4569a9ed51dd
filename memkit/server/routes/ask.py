"""``/ask``: a question to the user's memories, answered with a trace."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Request, Response

from memkit.answer import Answer
from memkit.serialization import plain
from memkit.server.answer_stream import AnswerPool, Question
from memkit.server.api_errors import ApiError
from memkit.server.conversation import parse_earlier
from memkit.server.dependencies import InContext, RequestContext
from memkit.server.request_body import JsonRoute
from memkit.server.routes.memories import ERRORS, get_memory
from memkit.server.schemas import AnswerOut, AskBody

routes = APIRouter(tags=["questions"], responses=ERRORS, route_class=JsonRoute)


@routes.post("/ask")
async def ask(body: AskBody, context: InContext, request: Request, response: Response) -> AnswerOut:
    """Answer a question from the user's best memory, compiled or as text, or without one, and say why."""
    require_model(context)
    within = None
    if body.within is not None:
        within = (await to_thread.run_sync(get_memory, context, body.within)).id
    most = min(body.max_tokens, await longest(context))
    history, system = parse_earlier(body.history)
    question = Question(
        body.question,
        most,
        body.temperature,
        body.seed,
        history,
        system,
        within=within,
        gate=body.gate,
    )
    answer = await answers_of(request).answer(context, question, request)
    response.headers.update(headers_of(context, answer))
    return AnswerOut(
        text=answer.text, route=answer.route, user=context.caller.user, trace=plain(asdict(answer.trace))
    )


def answers_of(request: Request) -> AnswerPool:
    """The server's pool of answers."""
    pool: AnswerPool = request.app.state.answers
    return pool


async def longest(context: RequestContext) -> int:
    """The longest answer, in tokens: memory and question need room in the window as well.

    Raises `EngineError` where the engine cannot answer now.
    """
    info = await to_thread.run_sync(context.services.engine.info)
    return min(context.services.config.max_tokens, info.window // 2)


def require_model(context: RequestContext) -> None:
    """Raise `ApiError` where an upstream answers."""
    if context.services.config.upstream is not None:
        raise ApiError(409, "answers come from an upstream here: ask at /v1/chat/completions", "no_model")


def used(context: RequestContext, answer: Answer) -> dict[str, Any]:
    """What an answer is based on: the field ``memkit`` of OpenAI-compatible answers."""
    trace = answer.trace
    return {
        "user": context.caller.user,
        "route": trace.route,
        "reason": trace.reason,
        "gate": trace.gate,
        "calibrated": trace.calibrated,
        "margin": plain(trace.margin),
        "memory_id": trace.memory_id if trace.route != "none" else None,
        "artifact_id": trace.artifact_id,
        "version": trace.version,
        "spans": plain(trace.spans),
        "route_ms": round(trace.route_ms, 2),
        "ttft_ms": round(trace.ttft_ms, 2),
        "total_ms": round(trace.total_ms, 2),
        "notes": list(trace.notes),
    }


def headers_of(context: RequestContext, answer: Answer) -> dict[str, str]:
    """A summary of `used`, as ``X-Memkit-*`` headers."""
    about = used(context, answer)
    names = {"route": "Route", "gate": "Gate", "memory_id": "Memory", "version": "Version"}
    return {f"X-Memkit-{name}": str(about[key]) for key, name in names.items() if about[key] is not None}
