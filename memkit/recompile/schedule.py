"""Recompilations at given times, in this process. APScheduler's trigger tells the times."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta

from memkit.errors import ConfigError, MemkitError, MissingExtraError, install_line
from memkit.recompile.cron import check_cron

LOOK = 60.0  # seconds between two looks at the clock, which may be set, or stop while a laptop sleeps


def repeat(
    run: Callable[[], None],
    cron: str,
    zone: str,
    say: Callable[[str], None],
    *,
    clock: Callable[[], datetime] | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Run at the times of a cron expression until interrupted.

    It runs in the thread that calls, so that no two runs overlap and an interruption ends one. A time that
    passes during a run is left out; one that passed while the machine slept is made up for. An error of
    memkit's ends one run and not the schedule. Raises `ConfigError` for an expression or a zone that is none.
    """
    try:
        from apscheduler.triggers.cron import CronTrigger
    except ImportError as error:
        raise MissingExtraError("apscheduler", install_line("schedule")) from error
    try:
        trigger = CronTrigger.from_crontab(check_cron(cron), timezone=zone)
    except (ValueError, LookupError) as error:
        raise ConfigError(f"no schedule is {cron!r} in the zone {zone!r}: {error}") from error
    now = clock or (lambda: datetime.now(trigger.timezone))
    after = now()
    while (due := trigger.get_next_fire_time(None, after)) is not None:
        say(f"next at {due:%Y-%m-%d %H:%M %Z}; interrupt to stop")
        while (left := (due - now()).total_seconds()) > 0:
            sleep(min(left, LOOK))
        try:
            run()
        except MemkitError as error:
            say(f"error: {error}")
        after = max(now(), due + timedelta(seconds=1))
    raise ConfigError(f"{cron!r} names no time that will come")
