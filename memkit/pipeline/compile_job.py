"""Compilations in the background: whatever goes wrong with one is its outcome, and ends no other."""

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
UNEXPECTED = "an unexpected {}; the log tells more"


@dataclass(frozen=True)
class CompileOutcome:
    """What came of one compilation; ``reason`` says why it is not "compiled".

    "refused": by the admission tests, "busy": another process compiles it, "unfinished": the time is up and
    the next run continues, "left": not begun. ``seconds``, ``flops`` and ``nbytes`` are what it cost.
    """

    status: Status
    reason: str = ""
    version: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    nbytes: int = 0


class _TimeUpError(Exception):
    """The deadline has passed; not an error of the compilation."""


def try_compile(
    context: Context, memory_id: str, *, deadline: float | None = None, progress: Progress = silent
) -> CompileOutcome:
    """Compile one memory until ``deadline``, a Unix time, and drop the versions beyond those to keep.

    Raises nothing but `StopRequestedError`, which ``progress`` may raise to end the queue.
    """

    def step(done: Step) -> None:
        progress(done)
        if deadline is not None and time.time() > deadline:
            raise _TimeUpError

    try:
        info, made = compile_memory(context, memory_id, step)
        if context.compiling.keep is not None:
            context.bank.versions.prune(context.owner, memory_id, context.compiling.keep)
        return CompileOutcome("compiled", "", info.version, made.seconds, made.flops, len(made.data))
    except _TimeUpError:
        return CompileOutcome("unfinished", "the budget ended; the next run goes on where this one was")
    except NotFoundError:
        return CompileOutcome("forgotten", "it was forgotten meanwhile")
    except BankBusyError as error:
        return CompileOutcome("busy", str(error))
    except VerificationError as error:
        return CompileOutcome("refused", str(error))
    except MemkitError as error:
        return _failed(context, memory_id, str(error))
    except StopRequestedError:
        raise
    except Exception as error:  # of a library: one memory must not end the others' compilations
        log.error("compiling memory %s ended unexpectedly", memory_id, exc_info=error)
        return _failed(context, memory_id, UNEXPECTED.format(type(error).__name__))


def _failed(context: Context, memory_id: str, reason: str) -> CompileOutcome:
    """Show the memory's owner the reason; what a compiler or the tests refused is noted already."""
    try:
        if context.bank.get(context.owner, memory_id).error != reason:
            context.bank.fail(context.owner, memory_id, reason)
    except BankError:  # forgotten meanwhile, or the catalog is what failed
        pass
    return CompileOutcome("failed", reason)


def compile_job(context: Context, job: Job) -> None:
    """Do a job of the bank's queue: compile one memory, unless the advice is to leave it on its text."""
    if job.memory is None:
        return
    owner, memory_id = job.memory
    at = job.now = JobProgress(Owner.of(owner).user, memory_id)
    mine = context.of(Owner.of(owner))

    def step(done: Step) -> None:
        mine.queue.stopping()
        at.at(done)

    reason = ""
    if not job.always:
        try:
            reason = objection(mine, memory_id)
        except NotFoundError:
            reason = ""  # compiling it reports that
    outcome = CompileOutcome("left", reason) if reason else try_compile(mine, memory_id, progress=step)
    job.again = outcome.status == "busy"
    kept = (outcome.status, outcome.reason, outcome.version, outcome.seconds, outcome.nbytes)
    job.outcomes.append(JobOutcome(Owner.of(owner).user, memory_id, *kept))
