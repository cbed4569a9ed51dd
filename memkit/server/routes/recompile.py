"""``/recompile``: the plan, its execution and its progress."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query

from memkit.bank.owners import Owner
from memkit.errors import ConfigError, NotFoundError
from memkit.recompile.advice import AdvisorConfig
from memkit.recompile.plan import Scope, plan
from memkit.server.api_errors import queue_full
from memkit.server.dependencies import InContext, RequestContext
from memkit.server.identity import Caller
from memkit.server.request_body import JsonRoute
from memkit.server.routes.ask import require_model
from memkit.server.routes.memories import ERRORS
from memkit.server.schemas import JobOut, JobsOut, PlanOut, RecompileBody, SkippedOut, TaskOut

routes = APIRouter(prefix="/recompile", tags=["recompilation"], responses=ERRORS, route_class=JsonRoute)


def _query_parameters(
    user: Annotated[str | None, Query(description="One user. Default: all.")] = None,
    retry: Annotated[bool, Query(description="Include memories that failed and have not changed.")] = False,
    always: Annotated[bool, Query(description="Include memories that are better left as text.")] = False,
) -> RecompileBody:
    return RecompileBody(user=user, retry=retry, always=always)


@routes.get("")
def list_jobs(context: InContext) -> JobsOut:
    """List the tenant's compilations and recompilations, newest first."""
    jobs = context.services.jobs.list(context.caller.group)
    return JobsOut(jobs=[JobOut.model_validate(each) for each in jobs])


@routes.get("/plan")
def show_plan(context: InContext, asked: Annotated[RecompileBody, Depends(_query_parameters)]) -> PlanOut:
    """Show what is due, in which order, and the estimated cost. Nothing is compiled."""
    require_model(context)
    planned = plan(context.services.root, _scope(context, asked))
    return PlanOut(
        tasks=[TaskOut.model_validate({**vars(task), "user": _user(task.user)}) for task in planned.tasks],
        skipped=[
            SkippedOut(user=_user(each.user), memory_id=each.memory_id, reason=each.reason)
            for each in planned.skipped
        ],
        unchanged=planned.unchanged,
        seconds=planned.seconds,
    )


@routes.post("", status_code=202)
def start(body: RecompileBody, context: InContext) -> JobOut:
    """Queue a recompilation of what is due."""
    require_model(context)
    job = context.services.jobs.recompile(context.caller.group, _scope(context, body))
    if job is None:
        raise queue_full()
    return JobOut.model_validate(job)


@routes.get("/{job_id}")
def show_job(job_id: str, context: InContext) -> JobOut:
    """Show the progress of a compilation or recompilation."""
    job = context.services.jobs.get(context.caller.group, job_id)
    if job is None:
        raise NotFoundError(f"there is no job {job_id!r:.40}; jobs that ended long ago are not kept")
    return JobOut.model_validate(job)


def _scope(context: RequestContext, body: RecompileBody) -> Scope:
    caller = context.caller
    if body.user is not None:
        owners = [Caller(caller.holder, body.user, caller.scope).owner]
        if not context.services.bank.exists(owners[0]):
            raise NotFoundError(f"the user {body.user!r:.80} has no memories")
    else:
        users = caller.users(context.services.bank.tenants())
        owners = [Caller(caller.holder, user, caller.scope).owner for user in users]
    try:
        return Scope(
            users=tuple(owners),
            limit=body.limit,
            budget=body.budget,
            retry=body.retry,
            keep=context.services.config.keep,
            advisor=AdvisorConfig(enabled=not body.always),
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _user(owner: str) -> str:
    return Owner.of(owner).user
