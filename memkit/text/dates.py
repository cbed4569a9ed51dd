"""Moments as people and programs give them: a date, a datetime or ISO 8601 text."""

from __future__ import annotations

from datetime import UTC, date, datetime, time

from memkit.errors import ConfigError

FORMS = "2026-05-02, 2026-05-02 08:00 or 2026-05-02T08:00:00.5+09:00"


def parse_time(given: str | date | datetime) -> datetime:
    """The moment that is meant, with its zone; the zone that was given is kept.

    A date is that day at 00:00. What names no zone is in UTC, a naive `datetime` too. A text is in the
    forms of ISO 8601, with a space or a T before the time. Raises `ConfigError` for anything else.
    """
    found: object = given
    if isinstance(given, str):
        try:
            found = datetime.fromisoformat(given.strip())
        except ValueError:
            raise _unknown(given) from None
    if not isinstance(found, datetime):  # a datetime is a date, too
        if not isinstance(found, date):
            raise _unknown(given)
        found = datetime.combine(found, time())
    if found.utcoffset() is None:
        found = found.replace(tzinfo=UTC)
    try:
        found.astimezone(UTC)
    except OverflowError:  # a year before the first or after the last, in UTC
        raise _unknown(given) from None
    return found


def _unknown(given: object) -> ConfigError:
    return ConfigError(
        f"a time is given as {FORMS} (without a zone: UTC), or as a date or datetime; got {given!r:.80}"
    )
