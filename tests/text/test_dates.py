"""Moments: dates, datetimes and ISO text are read alike; anything else is refused in one way."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkit.cli.output import cell
from memkit.errors import ConfigError
from memkit.text.dates import parse_time

pytestmark = pytest.mark.wheel
TOKYO = timezone(timedelta(hours=9))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("2026-05-02", datetime(2026, 5, 2, tzinfo=UTC)),
        ("2026-05-02 08:00", datetime(2026, 5, 2, 8, tzinfo=UTC)),
        ("2026-05-02T08:00:00", datetime(2026, 5, 2, 8, tzinfo=UTC)),
        ("2026-05-02T08:00:00.5", datetime(2026, 5, 2, 8, 0, 0, 500_000, tzinfo=UTC)),
        ("2026-05-02T08:00:00.123456789Z", datetime(2026, 5, 2, 8, 0, 0, 123_456, tzinfo=UTC)),
        ("2026-05-02T08:00:00Z", datetime(2026, 5, 2, 8, tzinfo=UTC)),
        ("2026-05-02 08:00+09:00", datetime(2026, 5, 2, 8, tzinfo=TOKYO)),
        (" 2026-05-02 08:00\n", datetime(2026, 5, 2, 8, tzinfo=UTC)),
        (date(2026, 5, 2), datetime(2026, 5, 2, tzinfo=UTC)),
        (datetime(2026, 5, 2, 8), datetime(2026, 5, 2, 8, tzinfo=UTC)),
        (datetime(2026, 5, 2, 8, tzinfo=TOKYO), datetime(2026, 5, 2, 8, tzinfo=TOKYO)),
    ],
)
def test_a_moment_is_read(given: Any, meant: datetime) -> None:
    assert parse_time(given) == meant


def test_the_zone_that_was_given_is_kept() -> None:
    """At eight in Tokyo it is still yesterday in UTC: the speaker's own day counts."""
    found = parse_time("2026-05-02T08:00+09:00")
    assert (found.day, found.utcoffset()) == (2, timedelta(hours=9))
    assert found.astimezone(UTC).day == 1


@pytest.mark.parametrize(
    "given",
    ["soon", "", "08:00", "2026-13-01", "2026-02-30", "2026", None, 3, 1.5, True, b"2026-05-02", ("2026",)],
)
def test_anything_else_is_one_error_that_names_the_forms(given: Any) -> None:
    with pytest.raises(ConfigError, match=r"2026-05-02 08:00 or .*got"):
        parse_time(given)


def test_what_leaves_the_calendar_in_utc_is_refused() -> None:
    with pytest.raises(ConfigError, match="a time is given as"):
        parse_time(datetime(1, 1, 1, tzinfo=TOKYO))


@given(st.datetimes(min_value=datetime(2, 1, 1)), st.sampled_from([None, UTC, TOKYO]))
def test_what_python_writes_is_read_back(said: datetime, zone: timezone | None) -> None:
    said = said.replace(tzinfo=zone)
    whole = said if said.tzinfo else said.replace(tzinfo=UTC)
    assert parse_time(said) == parse_time(said.isoformat()) == parse_time(said.isoformat(" ")) == whole
    assert parse_time(cell(whole.astimezone(UTC))) == whole.replace(second=0, microsecond=0)


@given(st.text() | st.integers() | st.none() | st.binary() | st.floats() | st.lists(st.integers()))
def test_no_value_is_anything_but_a_moment_or_that_error(given: Any) -> None:
    with suppress(ConfigError):
        assert parse_time(given).utcoffset() is not None
