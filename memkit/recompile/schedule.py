"""Recompilations at given times, in this process (APScheduler)."""

from __future__ import annotations

from collections.abc import Callable

from memkit.errors import ConfigError, MemkitError, MissingExtraError
from memkit.recompile.cron import check_cron

LATE = 6 * 3600  # seconds by which a run may begin late, as after a night that a laptop slept through


def repeat(run: Callable[[], None], cron: str, zone: str, say: Callable[[str], None]) -> None:
    """Run at the times of a cron expression until interrupted, one run at a time.

    An error of memkit's ends one run and not the schedule. Raises `ConfigError` for an expression or a
    zone that is none.
    """
    try:
        from apscheduler.schedulers.blocking import BlockingScheduler
        from apscheduler.triggers.cron import CronTrigger
    except ImportError as error:
        raise MissingExtraError("apscheduler", "pip install 'memkit[schedule]'") from error
    try:
        trigger = CronTrigger.from_crontab(check_cron(cron), timezone=zone)
    except (ValueError, LookupError) as error:
        raise ConfigError(f"no schedule is {cron!r} in the zone {zone!r}: {error}") from error

    def once() -> None:
        try:
            run()
        except MemkitError as error:
            say(f"error: {error}")

    scheduler = BlockingScheduler(timezone=zone)
    job = scheduler.add_job(once, trigger, coalesce=True, max_instances=1, misfire_grace_time=LATE)
    say(f"recompiling at {cron} ({zone}); interrupt to stop")
    try:
        scheduler.start()
    finally:
        job.remove()
