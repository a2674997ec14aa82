"""Durations and times, against the calendar of the standard library."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.engine.durations import DurationInvalid, parse_duration, parse_until

DAY = 86_400_000
# A day from the ends of what the standard library can count.
MARGIN = (datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC))


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("1 days 2 hours 3 minutes 4 seconds", DAY + 2 * 3_600_000 + 3 * 60_000 + 4000),
        ("1d 2h 3m 4s", DAY + 2 * 3_600_000 + 3 * 60_000 + 4000),
        ("1d2h3m4s", DAY + 2 * 3_600_000 + 3 * 60_000 + 4000),
        ("500ms", 500),
        ("1s 5ms", 1005),
        ("1 day", DAY),
        ("1 Hour", 3_600_000),
        ("0s", 0),
        (" 90 seconds ", 90_000),
    ],
)
def test_durations(text: str, milliseconds: int) -> None:
    assert parse_duration(text) == milliseconds


@pytest.mark.parametrize("text", ["", " ", "5", "s", "5 fortnights", "1s 2s", "-1s", "1.5s", "1s,", "٣s", "40000d"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(DurationInvalid):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1970-01-01", "1970-01-01T00:00:00+00:00"),
        ("2024-02-29 12:30", "2024-02-29T12:30:00+00:00"),
        ("2024-2-9 2:05", "2024-02-09T02:05:00+00:00"),
        ("2024-02-29 12:30:15", "2024-02-29T12:30:15+00:00"),
        ("2024-02-29T12:30:15Z", "2024-02-29T12:30:15+00:00"),
        ("2030-01-31 12:00 UTC", "2030-01-31T12:00:00+00:00"),
        ("2030-01-31 12:00 GMT+2", "2030-01-31T12:00:00+02:00"),
        ("2030-01-31 12:00 +02:00", "2030-01-31T12:00:00+02:00"),
        ("2030-01-31 12:00-0530", "2030-01-31T12:00:00-05:30"),
    ],
)
def test_times(text: str, moment: str) -> None:
    assert parse_until(text) == int(datetime.fromisoformat(moment).timestamp()) * 1000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tomorrow", "a time is like"),
        ("2030-02-29", "no such day"),
        ("2030-13-01", "no such day"),
        ("2030-00-01", "no such day"),
        ("2030-01-01 24:00", "no such time"),
        ("2030-01-01 12:60", "no such time"),
        ("2030-01-01 12:00 Europe/Berlin", "rules of named zones change"),
        ("2030-01-01 12:00 CET", "rules of named zones change"),
        ("2030-01-01 12:00 +19:00", "18 hours"),
    ],
)
def test_what_is_no_time_is_refused_and_says_why(text: str, message: str) -> None:
    with pytest.raises(DurationInvalid, match=message):
        parse_until(text)


@given(st.datetimes(timezones=st.just(UTC)), st.integers(-18 * 60, 18 * 60))
def test_the_calendar_is_that_of_the_standard_library(moment: datetime, offset: int) -> None:
    moment = min(max(moment, MARGIN[0]), MARGIN[1]).replace(microsecond=0)
    sign = "-" if offset < 0 else "+"
    text = f"{moment:%H:%M:%S} {sign}{abs(offset) // 60:02}:{abs(offset) % 60:02}"
    text = f"{moment.year:04}-{moment.month:02}-{moment.day:02} {text}"
    there = moment.replace(tzinfo=timezone(timedelta(minutes=offset)))
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert parse_until(text) == (there - epoch) // timedelta(milliseconds=1)
