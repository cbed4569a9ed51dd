"""Background compilation of one memory: every failure becomes its outcome, so that the queue goes on."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Literal

from memkit.bank.owners import Owner
from memkit.compilers.base import Progress, Step, silent
from memkit.errors import BankBusyError, BankError, MemkitError, NotFoundError, VerificationError
from memkit.pipeline.compile import compile_memory
from memkit.pipeline.compile_queue import Job, JobOutcome, JobProgress, StopRequestedError
from memkit.pipeline.context import Context
from memkit.pipeline.ingest import objection

log = logging.getLogger("memkit.recompile")
Status = Literal["compiled", "refused", "failed", "busy", "forgotten", "unfinished", "left"]
UNEXPECTED = "an unexpected {}; the log has the details"


@dataclass(frozen=True)
class CompileOutcome:
    """The outcome of one compilation; ``reason`` says why ``status`` is not "compiled".

    "refused": the artifact failed the admission tests. "failed": an error ended the compilation. "busy":
    another process compiles the memory. "forgotten": the memory is gone. "unfinished": the time is up and
    the next run continues. "left": the compilation was not started. ``version`` is the published one.
    ``seconds`` and ``flops`` are the cost, ``nbytes`` the artifact's size.
    """

    status: Status
    reason: str = ""
    version: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    nbytes: int = 0


class _TimeUpError(Exception):
    """The deadline has passed; the compilation itself is sound."""


def try_compile(
    context: Context, memory_id: str, *, deadline: float | None = None, progress: Progress = silent
) -> CompileOutcome:
    """Compile one memory, at most until ``deadline``, a Unix time, and prune its old versions.

    ``progress`` is called after each step. Raises only `StopRequestedError`, which ``progress`` may raise to
    stop the queue.
    """

    def step(done: Step) -> None:
        progress(done)
        if deadline is not None and time.time() > deadline:
            raise _TimeUpError

    try:
        info, compiled = compile_memory(context, memory_id, step)
        if context.compiling.keep is not None:
            context.bank.versions.prune(context.owner, memory_id, context.compiling.keep)
        return CompileOutcome(
            "compiled", "", info.version, compiled.seconds, compiled.flops, len(compiled.data)
        )
    except _TimeUpError:
        return CompileOutcome("unfinished", "the budget is used up; the next run continues from here")
    except NotFoundError:
        return CompileOutcome("forgotten", "it was forgotten in the meantime")
    except BankBusyError as error:
        return CompileOutcome("busy", str(error))
    except VerificationError as error:
        return CompileOutcome("refused", str(error))
    except MemkitError as error:
        return _failed(context, memory_id, str(error))
    except StopRequestedError:
        raise
    except Exception as error:  # a library's: one memory must not end the compilation of the others
        log.error("compiling memory %s ended unexpectedly", memory_id, exc_info=error)
        return _failed(context, memory_id, UNEXPECTED.format(type(error).__name__))


def _failed(context: Context, memory_id: str, reason: str) -> CompileOutcome:
    """Store the reason with the memory, unless the compilation has done so already."""
    try:
        if context.bank.get(context.owner, memory_id).error != reason:
            context.bank.fail(context.owner, memory_id, reason)
    except BankError:  # the memory was forgotten, or the catalog itself failed
        pass
    return CompileOutcome("failed", reason)


def _waits(context: Context) -> str:
    """Why a document is not compiled in the background but by the nightly run, or ""."""
    choice = context.choice()
    if choice.at_once:
        return ""
    return f"it waits for the nightly run, as {choice.name} trains for it ({choice.reason})"


def compile_job(context: Context, job: Job) -> None:
    """Run a job of the queue: compile one memory, unless it is left on its text, or to the nightly run."""
    if job.memory is None:
        return
    name, memory_id = job.memory
    owner = Owner.of(name)
    progress = job.now = JobProgress(owner.user, memory_id)
    owned = context.of(owner)

    def step(done: Step) -> None:
        owned.queue.check_stopped()
        progress.update(done)

    reason = ""
    if not job.always:
        try:
            reason = objection(owned, memory_id) or _waits(owned)
        except NotFoundError:
            reason = ""  # the compilation reports it
    outcome = CompileOutcome("left", reason) if reason else try_compile(owned, memory_id, progress=step)
    job.retry = outcome.status == "busy"
    values = (outcome.status, outcome.reason, outcome.version, outcome.seconds, outcome.nbytes)
    job.outcomes.append(JobOutcome(owner.user, memory_id, *values))
