"""``/v1/embeddings``: vectors of the server's own embedder, in OpenAI's form."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse

from memkit.router.embedders import Embedder, Vectors
from memkit.router.passages import TokenCounter
from memkit.server.api_errors import ApiError
from memkit.server.dependencies import InContext, RequestContext, with_headers
from memkit.server.openai_schemas import EmbeddingsBody, EmbeddingsOut
from memkit.server.request_body import JsonRoute
from memkit.server.routes.memories import ERRORS
from memkit.server.schemas import MAX_QUESTION
from memkit.server.upstream import TokenEstimate

MAX_INPUTS = 1024
routes = APIRouter(prefix="/v1", tags=["OpenAI-compatible"], responses=ERRORS, route_class=JsonRoute)


@routes.post("/embeddings", response_model=None, responses={200: {"model": EmbeddingsOut}})
def embeddings(body: EmbeddingsBody, context: InContext, response: Response) -> Response:
    """Embed texts with the embedder that retrieves memories. No memory is read, and nothing is stored.

    The embedder treats passages and questions differently: `input_type` says which these are, `passage` (the
    default) or `query`.
    """
    embedder = context.services.root.router.embedder
    if body.model != embedder.name:
        raise ApiError(
            404, f"the embedder here is {embedder.name!r}, not {body.model!r:.80}", "model_not_found", "model"
        )
    if body.dimensions not in (None, embedder.dim):
        raise ApiError(
            400,
            f"the vectors here have {embedder.dim} dimensions and cannot be cut: leave out `dimensions`",
            "unsupported",
            "dimensions",
        )
    texts = _texts(body.input)
    counter = _counter(context)
    tokens = sum(map(counter.count_tokens, texts))
    vectors = _vectors(embedder, texts, query=body.input_type == "query")
    content = {
        "object": "list",
        "model": embedder.name,
        "data": [
            {"object": "embedding", "index": i, "embedding": _encoded(vector, body.encoding_format)}
            for i, vector in enumerate(vectors)
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "memkit": {"ignored": body.ignored()},
    }
    return with_headers(JSONResponse(content), response)


def _texts(given: str | list[str] | list[int] | list[list[int]]) -> list[str]:
    """The texts of a request. Raises `ApiError` for anything else."""
    texts = list[str]()
    for each in [given] if isinstance(given, str) else given:
        if not isinstance(each, str):
            advice = "send texts, not tokens (LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False))"
            raise ApiError(400, advice, "unsupported", "input")
        texts.append(each)
    if not 1 <= len(texts) <= MAX_INPUTS:
        raise ApiError(
            400, f"1 to {MAX_INPUTS:,} texts at once, these are {len(texts):,}", "invalid_value", "input"
        )
    for number, text in enumerate(texts):
        if not text.strip():
            raise ApiError(400, f"text {number} is empty", "invalid_value", "input")
        if len(text) > MAX_QUESTION:
            long = f"text {number} has {len(text):,} characters, the most is {MAX_QUESTION:,}"
            raise ApiError(400, long, "context_length_exceeded", "input")
    return texts


def _counter(context: RequestContext) -> TokenCounter:
    """Counts tokens for the usage: an estimate where an upstream answers and no tokenizer is loaded."""
    return TokenEstimate() if context.services.config.upstream is not None else context.services.root.engine


def _vectors(embedder: Embedder, texts: list[str], *, query: bool) -> Vectors:
    """``[texts, dim]``, float32."""
    if query:
        return np.stack([embedder.question(text) for text in texts])
    return embedder.passages(texts)


def _encoded(vector: Vectors, form: str | None) -> Any:
    """A vector ``[dim]`` as numbers, or as its little-endian float32 bytes in base64."""
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
    return vector.tolist()
