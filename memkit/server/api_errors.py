"""Errors as callers see them: in OpenAI's shape, and without internals."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from memkit.errors import (
    ArtifactError,
    BankBusyError,
    BankError,
    BankFullError,
    CompileError,
    ConfigError,
    ContextTooLongError,
    DocumentError,
    EngineError,
    MemkitError,
    NotFoundError,
    QuotaError,
    VerificationError,
)
from memkit.server.validation_messages import describe_errors

log = logging.getLogger("memkit.server")
NO_KEY = (
    "give a valid API key: Authorization: Bearer mk_...; whoever runs the server makes one with "
    "`memkit keys create`"
)

# The first class that fits counts.
_STATUS: tuple[tuple[type[MemkitError], int, str], ...] = (
    (NotFoundError, 404, "not_found"),
    (ContextTooLongError, 400, "context_length_exceeded"),
    (QuotaError, 403, "quota_exceeded"),
    (BankBusyError, 503, "bank_busy"),
    (BankFullError, 507, "bank_full"),
    (BankError, 503, "bank_unavailable"),
    (ConfigError, 400, "invalid_value"),
    (DocumentError, 400, "invalid_document"),
    (ArtifactError, 409, "artifact_unusable"),
    (CompileError, 409, "not_compilable"),
    (VerificationError, 409, "refused_by_gate"),
    (EngineError, 503, "engine_unavailable"),
)
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
ENGINE_DOWN = "the engine cannot answer now; memories stay as they are: try again in a moment"
_BUSY = {503: "the server cannot do this now; try again in a moment", 507: "no space is left in the bank"}


class ApiError(Exception):
    """An error with an HTTP ``status``; ``param`` names the field at fault."""

    def __init__(
        self,
        status: int,
        message: str,
        code: str,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.headers = headers or {}


def unauthorized() -> ApiError:
    """The same answer to a missing, unknown, wrong or revoked key."""
    return ApiError(401, NO_KEY, "invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def queue_full() -> ApiError:
    """The answer when a tenant's compile queue is full."""
    message = "too many of this tenant's compilations are waiting; try again later"
    return ApiError(429, message, "queue_full", headers={"Retry-After": "60"})


def api_error(error: Exception) -> ApiError:
    """An error as the caller sees it. The cause of a server error goes to the log alone."""
    if isinstance(error, ApiError):
        return error
    for kind, status, code in _STATUS:
        if isinstance(error, kind):
            if status >= 500:
                log.warning("%s: %s", type(error).__name__, error)
                message = ENGINE_DOWN if kind is EngineError else _BUSY[status]
                return ApiError(status, message, code, headers={"Retry-After": "1"})
            return ApiError(status, str(error), code)
    log.error("unexpected %s", type(error).__name__, exc_info=error)
    return ApiError(
        500, "something went wrong here; the server's log has the details under this request id", "internal"
    )


def body_of(error: ApiError, request_id: str) -> dict[str, Any]:
    """An error as JSON."""
    kind = _TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    return {
        "error": {
            "message": writable(error.message),
            "type": kind,
            "param": None if error.param is None else writable(error.param),
            "code": error.code,
            "request_id": request_id,
        }
    }


def writable(text: str) -> str:
    """A text that UTF-8 can encode: a lone surrogate becomes a question mark."""
    return text.encode(errors="replace").decode()


def invalid_body(findings: Sequence[Mapping[str, Any]], given: Any) -> ApiError:
    """The error for a body that fails validation; ``findings`` are pydantic's, ``given`` is the body."""
    place, message = describe_errors(findings, given)
    return ApiError(400, message, "invalid_request", place)
