"""Recompilations at given times, in this process. APScheduler's trigger computes the times."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta

from memkit.errors import ConfigError, MemkitError, MissingExtraError, install_line
from memkit.recompile.cron import check_cron

CLOCK_INTERVAL = 60.0  # seconds between readings of the clock: it may be set, or stop while a laptop sleeps


def repeat(
    run: Callable[[], None],
    cron: str,
    zone: str,
    say: Callable[[str], None],
    *,
    clock: Callable[[], datetime] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Call ``run`` at the times of a cron expression, in the time ``zone``, until interrupted.

    It runs in the calling thread, so that runs never overlap and an interruption ends the current one. A time
    that passes during a run is skipped; one that passed while the machine slept is made up for. A
    `MemkitError` ends one run, not the schedule; it goes to ``say``, as does the next time. Raises
    `ConfigError` for an invalid expression or zone, `MissingExtraError` without APScheduler.
    """
    try:
        from apscheduler.triggers.cron import CronTrigger
    except ImportError as error:
        raise MissingExtraError("apscheduler", install_line("schedule")) from error
    try:
        trigger = CronTrigger.from_crontab(check_cron(cron), timezone=zone)
    except (ValueError, LookupError) as error:
        raise ConfigError(f"{cron!r} in the zone {zone!r} is not a valid schedule: {error}") from error
    now = clock or (lambda: datetime.now(trigger.timezone))
    after = now()
    while (due := trigger.get_next_fire_time(None, after)) is not None:
        say(f"next at {due:%Y-%m-%d %H:%M %Z}; interrupt to stop")
        while (left := (due - now()).total_seconds()) > 0:
            sleep(min(left, CLOCK_INTERVAL))
        try:
            run()
        except MemkitError as error:
            say(f"error: {error}")
        after = max(now(), due + timedelta(seconds=1))
    raise ConfigError(f"{cron!r} has no time in the future")
