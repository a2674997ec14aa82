"""Durations and points in time as WAIT takes them, computed by hand: the same on every node and in every zone."""

from __future__ import annotations

import re

DURATION_MS_MAX = 100 * 366 * 86_400_000

_UNITS_MS = {
    "d": 86_400_000,
    "day": 86_400_000,
    "days": 86_400_000,
    "h": 3_600_000,
    "hr": 3_600_000,
    "hrs": 3_600_000,
    "hour": 3_600_000,
    "hours": 3_600_000,
    "m": 60_000,
    "min": 60_000,
    "mins": 60_000,
    "minute": 60_000,
    "minutes": 60_000,
    "s": 1000,
    "sec": 1000,
    "secs": 1000,
    "second": 1000,
    "seconds": 1000,
    "ms": 1,
}
_PART = re.compile(r"[ ]*([0-9]{1,15})[ ]*([A-Za-z]+)[ ]*")
_UNTIL = re.compile(
    r"([0-9]{4})-([0-9]{1,2})-([0-9]{1,2})"
    r"(?:[ T]([0-9]{1,2}):([0-9]{1,2})(?::([0-9]{1,2}))?(?:[ ]*([A-Za-z+-][^ ]*))?)?"
)
_ZONE = re.compile(r"(?:UTC|GMT|Z)?(?:([+-])([0-9]{1,2})(?::?([0-9]{2}))?)?")
_DAYS_OF_MONTH = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


class DurationInvalid(Exception):
    """The text is no duration or point in time; the message says what was expected."""


def parse_duration(text: str) -> int:
    """Milliseconds of `1 days 2 hours 3 minutes 4 seconds`, `1d 2h 3m 4s` or `500ms`."""
    total = 0
    position = 0
    units: set[int] = set()
    text = text.strip(" ")
    while position < len(text):
        match = _PART.match(text, position)
        unit = _UNITS_MS.get(match.group(2).lower()) if match else None
        if match is None or unit is None or unit in units:
            raise DurationInvalid("a duration is like '1 days 2 hours 3 minutes 4 seconds', '2h 30m' or '500ms'")
        units.add(unit)
        total += int(match.group(1)) * unit
        position = match.end()
    if not text:
        raise DurationInvalid("the duration is empty")
    if total > DURATION_MS_MAX:
        raise DurationInvalid("a duration can't be longer than 100 years")
    return total


def parse_until(text: str) -> int:
    """Milliseconds since the epoch of `yyyy-MM-dd`, `yyyy-MM-dd HH:mm` or `yyyy-MM-dd HH:mm:ss`, with or without an
    offset. Without one it is UTC."""
    match = _UNTIL.fullmatch(text.strip(" "))
    if match is None:
        raise DurationInvalid("a time is like '2030-01-31', '2030-01-31 12:00' or '2030-01-31 12:00:00 +02:00'")
    year, month, day, hour, minute, second = (int(group or "0") for group in match.groups()[:6])
    if not 1 <= month <= 12 or not 1 <= day <= _days_of_month(year, month):
        raise DurationInvalid("there is no such day")
    if hour > 23 or minute > 59 or second > 59:
        raise DurationInvalid("there is no such time of day")
    minutes = (_days_from_civil(year, month, day) * 24 + hour) * 60 + minute - _offset_minutes(match.group(7) or "")
    return (minutes * 60 + second) * 1000


def _offset_minutes(zone: str) -> int:
    match = _ZONE.fullmatch(zone)
    if match is None:
        raise DurationInvalid("the zone must be UTC or an offset like '+02:00': the rules of named zones change")
    sign, hours, minutes = match.groups()
    if sign is None:
        return 0
    offset = int(hours) * 60 + int(minutes or "0")
    if offset > 18 * 60 or int(minutes or "0") > 59:
        raise DurationInvalid("an offset can't be more than 18 hours")
    return -offset if sign == "-" else offset


def _days_of_month(year: int, month: int) -> int:
    is_leap = year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return 28 if month == 2 and not is_leap else _DAYS_OF_MONTH[month - 1]


def _days_from_civil(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 in the Gregorian calendar, years beginning in March so that leap days come last."""
    if month <= 2:
        year -= 1
        month += 12
    era, year_of_era = divmod(year, 400)
    day_of_year = (153 * (month - 3) + 2) // 5 + day - 1
    day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    return era * 146_097 + day_of_era - 719_468
