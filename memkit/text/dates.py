"""Parse times: a date, a datetime or ISO 8601 text."""

from __future__ import annotations

from datetime import UTC, date, datetime, time

from memkit.errors import ConfigError

TIME_FORMS = "2026-05-02, 2026-05-02 08:00 or 2026-05-02T08:00:00.5+09:00"


def parse_time(given: str | date | datetime) -> datetime:
    """The time as a `datetime` with a time zone; a given zone is kept.

    A date means 00:00 of that day. Input without a zone is in UTC, a naive `datetime` too. Text is ISO 8601,
    with a space or a T before the time. Raises `ConfigError` for anything else.
    """
    parsed: object = given
    if isinstance(given, str):
        try:
            parsed = datetime.fromisoformat(given.strip())
        except ValueError:
            raise _invalid_time(given) from None
    if not isinstance(parsed, datetime):  # a datetime is a date too
        if not isinstance(parsed, date):
            raise _invalid_time(given)
        parsed = datetime.combine(parsed, time())
    if parsed.utcoffset() is None:
        parsed = parsed.replace(tzinfo=UTC)
    try:
        parsed.astimezone(UTC)
    except OverflowError:  # the year is out of range in UTC
        raise _invalid_time(given) from None
    return parsed


def _invalid_time(given: object) -> ConfigError:
    return ConfigError(
        f"a time is given as {TIME_FORMS} (without a zone: UTC), or as a date or datetime; got {given!r:.80}"
    )
