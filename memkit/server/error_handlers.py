"""Exceptions as error responses."""

from __future__ import annotations

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from memkit.errors import MemkitError
from memkit.server.api_errors import ApiError, api_error, body_of, invalid_body

NO_BODY = "the request has no body: send a JSON object"


def answer(error: ApiError, request: Request) -> JSONResponse:
    """An error as a response."""
    body = body_of(error, request_id_of(request))
    return JSONResponse(body, status_code=error.status, headers=error.headers)


def request_id_of(request: Request) -> str:
    """The request's id, which the response and the log carry."""
    return str(getattr(request.state, "request_id", ""))


def _invalid(error: Exception) -> ApiError:
    """The error of FastAPI's validation: of a body that is not JSON, of a body, or of the address."""
    findings = error.errors() if isinstance(error, RequestValidationError) else []
    if findings and findings[0]["type"] == "json_invalid":
        return ApiError(400, not_json(findings[0]["loc"][-1]), "invalid_request")
    body = getattr(error, "body", None)
    ours = [{**each, "loc": each["loc"][1:]} for each in findings if each["loc"][0] == "body"]
    if not ours:  # of the address or a header: a name without parts
        given = {each["loc"][-1]: each.get("input") for each in findings}
        return invalid_body([{**each, "loc": each["loc"][-1:]} for each in findings], given)
    if isinstance(body, bytes):
        advice = "send JSON, and say so: Content-Type: application/json"
        return ApiError(400, advice, "invalid_request")
    return invalid_body(ours, body) if body is not None else ApiError(400, NO_BODY, "invalid_request")


def not_json(place: object) -> str:
    """The message for a body that is not JSON from the character ``place`` on."""
    return f"the body is not JSON: look at character {place}"


def add_handlers(app: FastAPI) -> None:
    """Answer every error of the application in the same shape."""

    async def known(request: Request, error: Exception) -> JSONResponse:
        return answer(api_error(error), request)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        return answer(_invalid(error), request)

    async def http(request: Request, error: Exception) -> JSONResponse:
        status = error.status_code if isinstance(error, HTTPException) else 500
        message = {404: "there is nothing at this address", 405: "this address does not take that method"}
        headers = dict(getattr(error, "headers", None) or {})
        text = message.get(status, "the request cannot be read")
        if own := getattr(error, "message", None):  # of a body that `memkit.server.request_body` refused
            return answer(ApiError(status, own, "invalid_request", getattr(error, "param", None)), request)
        return answer(ApiError(status, text, "http_error", headers=headers), request)

    app.add_exception_handler(MemkitError, known)
    app.add_exception_handler(ApiError, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
