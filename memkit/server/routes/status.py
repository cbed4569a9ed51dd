"""Health, status, metrics and evaluation reports."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse
from pydantic import BaseModel

from memkit._version import __version__
from memkit.bank.api_keys import Scope
from memkit.config import expanded
from memkit.errors import NotFoundError
from memkit.server.api_errors import ApiError
from memkit.server.dependencies import InContext, services_of
from memkit.server.engine import AnsweringName
from memkit.server.request_body import JsonRoute
from memkit.server.routes.memories import ERRORS

MAX_REPORT = 16 * 2**20  # bytes
_NAME = re.compile(r"[\w][\w.-]{0,99}")
routes = APIRouter(tags=["about"], responses=ERRORS, route_class=JsonRoute)
open_routes = APIRouter(tags=["about"], route_class=JsonRoute)


class Health(BaseModel):
    """That the server is up, and which engine answers."""

    status: Literal["ok"]
    version: str
    engine: AnsweringName


class Status(BaseModel):
    """What this server serves, and how much the key's tenant or user (``scope``) has stored.

    ``engine`` is what answers: the model in this process ("transformers"), SGLang servers or an upstream;
    ``engine_ready`` says whether it can. ``fingerprint`` and ``window`` (tokens) are those of the model that
    answers, null where that is not known. ``compiler_in_use`` says what the compiler ``auto`` stands for, and
    why; null until the model is loaded.
    """

    version: str
    tenant: str
    scope: Scope
    user: str
    model: str
    engine: AnsweringName
    engine_ready: bool
    fingerprint: str | None
    window: int | None
    compiler: str
    compiler_in_use: str | None
    embedder: str
    gate: str
    upstream: bool
    memories: int
    compiled: int
    characters: int
    artifact_bytes: int
    waiting: int


class Users(BaseModel):
    """The users who have memories; "" is the holder of the key: the tenant itself, or its one user."""

    users: list[str]


class Reports(BaseModel):
    """Names of the evaluation reports."""

    reports: list[str]


@open_routes.get("/health")
def health(request: Request) -> Health:
    """Show that the server is up, and which engine answers. Needs no key."""
    return Health(status="ok", version=__version__, engine=services_of(request).engine_name)


@open_routes.get(
    "/metrics", response_class=PlainTextResponse, responses={404: {"description": "Metrics are closed."}}
)
def metrics(request: Request) -> str:
    """Counts for Prometheus, with the token of the server's configuration. They name no tenant."""
    services = services_of(request)
    if not services.may_see_metrics(request.headers.get("authorization", "")):
        raise ApiError(404, "there is nothing at this address", "http_error")
    return services.metrics.text()


@routes.get("/status")
def status(context: InContext) -> Status:
    """Show what this server serves, and how much the user has stored."""
    services, infos = context.services, context.services.bank.list(context.owner)
    engine = None if services.config.upstream else services.engine.available()
    choice = services.root.context.known_choice()
    waiting = [job for job in services.jobs.list(context.caller.group) if job.state in ("waiting", "running")]
    return Status(
        version=__version__,
        tenant=context.caller.holder,
        scope=context.caller.scope,
        user=context.caller.user,
        model=services.config.model_id,
        engine=services.engine_name,
        engine_ready=engine is not None or services.config.upstream is not None,
        fingerprint=engine.fingerprint if engine else None,
        window=engine.window if engine else None,
        compiler=services.config.compiler,
        compiler_in_use=None if choice is None else str(choice),
        embedder=services.root.router.embedder.name,
        gate=services.config.gate,
        upstream=services.config.upstream is not None,
        memories=len(infos),
        compiled=sum(info.version > 0 for info in infos),
        characters=sum(info.characters for info in infos),
        artifact_bytes=sum(info.artifact_bytes or 0 for info in infos),
        waiting=len(waiting),
    )


@routes.get("/users")
def users(context: InContext) -> Users:
    """List the users with memories, among those that the key covers."""
    return Users(users=context.caller.users(context.services.bank.tenants()))


@routes.get("/reports")
def reports(context: InContext) -> Reports:
    """List the evaluation reports in the server's folder."""
    return Reports(reports=sorted(_reports(context.services.config.reports)))


@routes.get("/reports/{name}")
def report(name: str, context: InContext) -> dict[str, Any]:
    """Show one evaluation report, as ``memkit eval --json`` or ``memkit bench --json`` wrote it."""
    file = _reports(context.services.config.reports).get(name)
    if file is None:
        raise NotFoundError(f"there is no report {name!r:.80}; /reports lists what there is")
    try:
        document = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ApiError(409, f"the report {name} cannot be read", "report_unreadable") from error
    if not isinstance(document, dict):
        raise ApiError(409, f"the report {name} is not a JSON object", "report_unreadable")
    return document


def _reports(folder: Path | None) -> dict[str, Path]:
    """Reports by name. A name is only looked up, never made into a path."""
    folder = None if folder is None else expanded(folder)
    if folder is None or not folder.is_dir():
        return {}
    return {
        path.stem: path
        for path in folder.glob("*.json")
        if _NAME.fullmatch(path.stem) and path.is_file() and path.stat().st_size <= MAX_REPORT
    }
