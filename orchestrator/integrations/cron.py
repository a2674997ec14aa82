"""When cron expressions come true: Spring's six fields, seconds first, or the usual five, in a zone. Home of cronsim.

Six fields are read as Spring reads them: a day must match both of its fields, `?` is `*`, days of the week are 0 to 7
or names, `L` and `LW` are days of the month, `5L` and `FRI#2` are days of the week. Five fields are read as cron does:
a day matches if one of its two fields does.

When clocks are put forward, what would have come in the hour that is left out comes right after it; put back, what
comes at a fixed hour comes once. Expressions of every hour go by time as it passes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from heapq import merge
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from orchestrator.engine.triggers.schedule_documents import ParsedSchedule

FIELDS = ("second", "minute", "hour", "day of the month", "month", "day of the week")
# Further back than any clock was ever put.
_PUT_BACK = timedelta(hours=3)
_MACROS = {
    "@YEARLY": "0 0 0 1 1 *",
    "@ANNUALLY": "0 0 0 1 1 *",
    "@MONTHLY": "0 0 0 1 * *",
    "@WEEKLY": "0 0 0 * * 0",
    "@DAILY": "0 0 0 * * *",
    "@MIDNIGHT": "0 0 0 * * *",
    "@HOURLY": "0 0 * * * *",
}
_DAYS = {name: str(number) for number, name in enumerate("SUN MON TUE WED THU FRI SAT".split())}
_DAY_NAME = re.compile("|".join(_DAYS))
_UNBUILT = re.compile(r"L-|[0-9]W")
_OFFSET = re.compile(r"(?:UTC|GMT|UT)?([+-])([0-9]{1,2})(?::?([0-9]{2}))?")
_SECOND = timedelta(seconds=1)
_MINUTE = timedelta(minutes=1)

Time = tuple[int, int]
"""(milliseconds since the epoch, number of the expression whose time it is)"""


class CronInvalid(Exception):
    """The expression, or the zone, is none; `field` says which: cronExpression or zoneId."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class Cron:
    """The times of one expression in one zone."""

    def __init__(self, expression: str, zone: str) -> None:
        self._text, self._both_days = _translated(expression)
        self._zone = zone_of(zone)
        minute, hour = self._text.split()[1:3]
        self._is_fixed = not minute.startswith("*") and not hour.startswith("*")
        try:
            self._sim(datetime(2000, 1, 1, tzinfo=UTC), reverse=False)
        except CronSimError as error:
            raise CronInvalid("cronExpression", _explained(error)) from None

    def after(self, time_ms: int) -> Iterator[int]:
        """Later times, ascending; they end when there is none within 50 years."""
        last = time_ms
        for moment in self._moments(datetime.fromtimestamp(time_ms // 1000, self._zone), reverse=False):
            if moment > last:
                yield moment
                last = moment

    def before(self, time_ms: int) -> Iterator[int]:
        """Times until then and then itself, descending."""
        last = time_ms + 1
        for moment in self._moments(datetime.fromtimestamp(time_ms // 1000, self._zone) + _SECOND, reverse=True):
            if moment < last:
                yield moment
                last = moment

    def _moments(self, start: datetime, *, reverse: bool) -> Iterator[int]:
        if not self._is_fixed:
            for moment in self._sim(start, reverse=reverse):
                yield int(moment.timestamp()) * 1000
            return
        wall = start.replace(tzinfo=None, fold=0)
        for local in self._sim(wall + _PUT_BACK if reverse else wall, reverse=reverse):
            yield self._instant_ms(local)

    def _instant_ms(self, local: datetime) -> int:
        """Of a time on the wall: the first, if it comes twice; what follows the gap, if it does not come at all."""
        moment = local.replace(tzinfo=self._zone)
        while moment.astimezone(UTC).astimezone(self._zone).replace(tzinfo=None, fold=0) != local:
            local += _MINUTE
            moment = local.replace(tzinfo=self._zone)
        return int(moment.timestamp()) * 1000

    def _sim(self, start: datetime, *, reverse: bool) -> CronSim:
        sim = CronSim(self._text, start, reverse=reverse)
        sim.day_and = sim.day_and or self._both_days
        return sim


class Timetable:
    """The times of several expressions together, within bounds. Where they have one in common, the first one has it.

    `crons`: (expression, zone); `start_ms`, `end_ms`: no time before or after, 0 for none. Raises CronInvalid.
    """

    def __init__(self, crons: Sequence[tuple[str, str]], start_ms: int = 0, end_ms: int = 0) -> None:
        self._crons = [Cron(expression, zone) for expression, zone in crons]
        self._start_ms = start_ms
        self._end_ms = end_ms

    def after(self, time_ms: int) -> Iterator[Time]:
        """Later times, ascending."""
        begin = max(time_ms, self._start_ms - 1)
        for time in _once(merge(*(_numbered(cron.after(begin), number) for number, cron in enumerate(self._crons)))):
            if self._end_ms and time[0] > self._end_ms:
                return
            yield time

    def between(self, after_ms: int, until_ms: int) -> Iterator[Time]:
        """Times after the one and up to the other, descending."""
        begin = min(until_ms, self._end_ms) if self._end_ms else until_ms
        after_ms = max(after_ms, self._start_ms - 1)
        streams = (_numbered(cron.before(begin), number) for number, cron in enumerate(self._crons))
        for time in _once(merge(*streams, key=lambda each: (-each[0], each[1]))):
            if time[0] <= after_ms:
                return
            yield time


def timetable_of(schedule: ParsedSchedule) -> Timetable:
    """Raises CronInvalid."""
    return Timetable([(cron.expression, cron.zone) for cron in schedule.crons], schedule.start_ms, schedule.end_ms)


def _numbered(times: Iterator[int], number: int) -> Iterator[Time]:
    return ((time_ms, number) for time_ms in times)


def _once(times: Iterator[Time]) -> Iterator[Time]:
    last = -1
    for time in times:
        if time[0] != last:
            yield time
        last = time[0]


def zone_of(name: str) -> tzinfo:
    """A zone by its name in the IANA tables, or an offset such as `+02:00`. Raises CronInvalid."""
    if name in ("", "Z", "UTC", "GMT", "UT"):
        return UTC
    match = _OFFSET.fullmatch(name)
    if match is not None:
        minutes = int(match[2]) * 60 + int(match[3] or "0")
        if minutes <= 18 * 60 and int(match[3] or "0") < 60:
            return timezone(timedelta(minutes=-minutes if match[1] == "-" else minutes))
    try:
        return ZoneInfo(name)
    except (OSError, ValueError) as error:  # ZoneInfoNotFoundError is a KeyError
        raise CronInvalid("zoneId", f"there is no time zone {name!r}") from error
    except KeyError:
        raise CronInvalid("zoneId", f"there is no time zone {name!r}") from None


def _translated(expression: str) -> tuple[str, bool]:
    """The six fields as cronsim reads them, and whether a day must match both of its fields."""
    text = expression.upper()
    parts = _MACROS.get(text, text).split()
    if len(parts) not in (5, 6):
        raise CronInvalid(
            "cronExpression", f"it has {len(parts)} fields; six are expected, seconds first, or five without seconds"
        )
    is_spring = len(parts) == 6
    parts = parts if is_spring else ["0", *parts]
    for number, part in enumerate(parts):
        if "?" in part and (part != "?" or number not in (3, 5)):
            raise CronInvalid("cronExpression", f"'?' stands for a day alone, not in the field of the {FIELDS[number]}")
    if _UNBUILT.search(parts[3]):
        raise CronInvalid("cronExpression", "'L-n' and 'nW' as days of the month are not supported")
    parts = ["*" if part == "?" else part for part in parts]
    parts[5] = ",".join(_day_of_week(term, is_spring) for term in parts[5].split(","))
    return " ".join(parts), is_spring


def _day_of_week(term: str, is_spring: bool) -> str:
    """Names as numbers; a range that ends on Sunday ends on 7; in Spring `*/2` begins on Monday."""
    span, slash, step = _DAY_NAME.sub(lambda match: _DAYS[match[0]], term).partition("/")
    first, dash, last = span.partition("-")
    if dash and last == "0" and first != "0":
        span = f"{first}-7"
    if slash and span == "*" and is_spring:
        span = "1-7"
    return f"{span}{slash}{step}"


def _explained(error: CronSimError) -> str:
    named = str(error).removeprefix("Bad ").replace("-", " ")
    wrong = next((field for field in FIELDS if field.replace(" the", "") == named), "")
    return f"the field of the {wrong} is wrong" if wrong else "it is no cron expression"
