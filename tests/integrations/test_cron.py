"""When cron expressions come true, as Spring and as cron read them, also where clocks are put forward and back."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import islice

import pytest

from orchestrator.integrations.cron import Cron, CronInvalid, Timetable, zone_of

SHOWN = "%Y-%m-%d %H:%M:%S"


def ms(text: str, zone: str = "UTC", fold: int = 0) -> int:
    moment = datetime.strptime(text, SHOWN).replace(tzinfo=zone_of(zone), fold=fold)
    return int(moment.timestamp()) * 1000


def shown(times: list[int], zone: str = "UTC") -> list[str]:
    return [datetime.fromtimestamp(each / 1000, zone_of(zone)).strftime(SHOWN) for each in times]


def times(expression: str, after: str, count: int = 3, zone: str = "UTC") -> list[str]:
    return shown(list(islice(Cron(expression, zone).after(ms(after, zone)), count)), zone)


# 2024-01-01 is a Monday.
@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("* * * * * *", ["2024-01-01 00:00:01", "2024-01-01 00:00:02", "2024-01-01 00:00:03"]),
        ("*/20 * * * * ?", ["2024-01-01 00:00:20", "2024-01-01 00:00:40", "2024-01-01 00:01:00"]),
        ("5/25 0 0 * * *", ["2024-01-01 00:00:05", "2024-01-01 00:00:30", "2024-01-01 00:00:55"]),
        ("0 0 9-17/4 ? * MON-FRI", ["2024-01-01 09:00:00", "2024-01-01 13:00:00", "2024-01-01 17:00:00"]),
        ("0 0 0 * * FRI-SUN", ["2024-01-05 00:00:00", "2024-01-06 00:00:00", "2024-01-07 00:00:00"]),
        ("0 0 0 * * 5-7", ["2024-01-05 00:00:00", "2024-01-06 00:00:00", "2024-01-07 00:00:00"]),
        ("0 0 0 ? * sun,7,0", ["2024-01-07 00:00:00", "2024-01-14 00:00:00", "2024-01-21 00:00:00"]),
        ("0 0 0 * * */3", ["2024-01-04 00:00:00", "2024-01-07 00:00:00", "2024-01-08 00:00:00"]),
        ("0 0 0 L * *", ["2024-01-31 00:00:00", "2024-02-29 00:00:00", "2024-03-31 00:00:00"]),
        ("0 0 0 LW * *", ["2024-01-31 00:00:00", "2024-02-29 00:00:00", "2024-03-29 00:00:00"]),
        ("0 0 0 ? * FRIL", ["2024-01-26 00:00:00", "2024-02-23 00:00:00", "2024-03-29 00:00:00"]),
        ("0 0 0 ? * MON#1", ["2024-02-05 00:00:00", "2024-03-04 00:00:00", "2024-04-01 00:00:00"]),
        ("0 0 0 1 jan,JUL *", ["2024-07-01 00:00:00", "2025-01-01 00:00:00", "2025-07-01 00:00:00"]),
        ("@hourly", ["2024-01-01 01:00:00", "2024-01-01 02:00:00", "2024-01-01 03:00:00"]),
        ("@Weekly", ["2024-01-07 00:00:00", "2024-01-14 00:00:00", "2024-01-21 00:00:00"]),
        # Spring: a day must match both of its fields ...
        ("0 0 0 13 * FRI", ["2024-09-13 00:00:00", "2024-12-13 00:00:00", "2025-06-13 00:00:00"]),
        # ... and in cron one of them.
        ("0 0 13 * FRI", ["2024-01-05 00:00:00", "2024-01-12 00:00:00", "2024-01-13 00:00:00"]),
        ("*/30 * * * *", ["2024-01-01 00:30:00", "2024-01-01 01:00:00", "2024-01-01 01:30:00"]),
        ("0 0 * * */3", ["2024-01-03 00:00:00", "2024-01-06 00:00:00", "2024-01-07 00:00:00"]),
    ],
)
def test_expressions(expression: str, expected: list[str]) -> None:
    assert times(expression, "2024-01-01 00:00:00") == expected


BERLIN = "Europe/Berlin"  # forward 2024-03-31 02:00, back 2024-10-27 03:00


@pytest.mark.parametrize(
    ("expression", "after", "expected"),
    [
        ("0 0 9 * * *", "2024-03-30 12:00:00", ["2024-03-31 09:00:00", "2024-04-01 09:00:00", "2024-04-02 09:00:00"]),
        # What would come in the hour that is left out comes right after it, once.
        ("0 30 2 * * *", "2024-03-30 12:00:00", ["2024-03-31 03:00:00", "2024-04-01 02:30:00", "2024-04-02 02:30:00"]),
        ("0 10,30 2 * * *", "2024-03-30 12:00:00",
         ["2024-03-31 03:00:00", "2024-04-01 02:10:00", "2024-04-01 02:30:00"]),
        ("30 2 * * *", "2024-03-30 12:00:00", ["2024-03-31 03:00:00", "2024-04-01 02:30:00", "2024-04-02 02:30:00"]),
        ("0 0 * * * *", "2024-03-31 00:30:00", ["2024-03-31 01:00:00", "2024-03-31 03:00:00", "2024-03-31 04:00:00"]),
        # What comes at a fixed hour comes once in the hour that comes twice ...
        ("0 30 2 * * *", "2024-10-26 12:00:00", ["2024-10-27 02:30:00", "2024-10-28 02:30:00", "2024-10-29 02:30:00"]),
        # ... and what comes every hour, or every few minutes, comes in both.
        ("0 0 * * * *", "2024-10-27 01:30:00", ["2024-10-27 02:00:00", "2024-10-27 02:00:00", "2024-10-27 03:00:00"]),
        ("0 */30 * * * *", "2024-10-27 02:00:00",
         ["2024-10-27 02:30:00", "2024-10-27 02:00:00", "2024-10-27 02:30:00"]),
    ],
)
def test_where_clocks_are_put_forward_and_back(expression: str, after: str, expected: list[str]) -> None:
    assert times(expression, after, zone=BERLIN) == expected


def test_a_fixed_hour_does_not_come_again_when_asked_in_the_second_of_the_two() -> None:
    cron = Cron("0 30 2 * * *", BERLIN)
    second = ms("2024-10-27 02:10:00", BERLIN, fold=1)
    assert shown([next(cron.after(second))], BERLIN) == ["2024-10-28 02:30:00"]
    assert next(cron.before(second)) == ms("2024-10-27 02:30:00", BERLIN, fold=0)


@pytest.mark.parametrize("zone", [BERLIN, "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "UTC", "+05:30"])
@pytest.mark.parametrize(
    "expression", ["0 30 2 * * *", "0 */20 * * * *", "0 0 1,2,3 * * *", "0 15 * * * MON", "0 0 * * *"]
)
def test_backwards_are_the_same_times_as_forwards(expression: str, zone: str) -> None:
    cron = Cron(expression, zone)
    begin, end = ms("2024-03-01 00:00:00"), ms("2024-11-20 00:00:00")
    forwards = []
    for time in cron.after(begin):
        if time > end:
            break
        forwards.append(time)
    backwards = []
    for time in cron.before(end):
        if time <= begin:
            break
        backwards.append(time)
    assert backwards[::-1] == forwards
    assert forwards == sorted(set(forwards))


def test_a_time_is_after_another_by_milliseconds() -> None:
    cron = Cron("0 * * * * *", "UTC")
    minute = ms("2024-01-01 00:01:00")
    assert next(cron.after(minute - 1)) == minute
    assert next(cron.after(minute)) == next(cron.after(minute + 999)) == minute + 60_000
    assert next(cron.before(minute)) == next(cron.before(minute + 999)) == minute
    assert next(cron.before(minute - 1)) == minute - 60_000


def test_times_that_never_come_end() -> None:
    assert list(Cron("0 0 0 31 2 MON", "UTC").after(0)) == []
    assert list(Cron("0 0 0 31 2 MON", BERLIN).before(0)) == []


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "it has 0 fields"),
        ("* * * *", "it has 4 fields"),
        ("* * * * * * *", "it has 7 fields"),
        ("@reboot", "it has 1 fields"),
        ("60 * * * * *", "the field of the second is wrong"),
        ("* x * * * *", "the field of the minute is wrong"),
        ("* * 24 * * *", "the field of the hour is wrong"),
        ("* * * 0 * *", "the field of the day of the month is wrong"),
        ("* * * * 13 *", "the field of the month is wrong"),
        ("* * * * * 8", "the field of the day of the week is wrong"),
        ("* * * * * MON#6", "the field of the day of the week is wrong"),
        ("*/0 * * * * *", "the field of the second is wrong"),
        ("5-1 * * * * *", "the field of the second is wrong"),
        ("? * * * * *", "'?' stands for a day alone"),
        ("* * * 1? * *", "'?' stands for a day alone"),
        ("0 0 0 15W * *", "not supported"),
        ("0 0 0 L-3 * *", "not supported"),
        ("0 0 0 30 2 *", "the field of the day of the month is wrong"),
        ("٣ * * * * *", "the field of the second is wrong"),
    ],
)
def test_what_is_no_expression_is_refused(expression: str, message: str) -> None:
    with pytest.raises(CronInvalid, match=message.replace("?", r"\?")) as caught:
        Cron(expression, "UTC")
    assert caught.value.field == "cronExpression"


@pytest.mark.parametrize(
    "zone", ["Mars/Olympus", "../etc/passwd", "/etc/localtime", "+19:00", "+02:60", "x" * 90, "\0"]
)
def test_what_is_no_zone_is_refused(zone: str) -> None:
    with pytest.raises(CronInvalid, match="there is no time zone") as caught:
        Cron("* * * * * *", zone)
    assert caught.value.field == "zoneId"


@pytest.mark.parametrize(
    ("zone", "hours"), [("Z", 0), ("", 0), ("+02:00", 2), ("UTC+2", 2), ("GMT-0530", -5.5), ("Asia/Tokyo", 9)]
)
def test_zones_are_names_or_offsets(zone: str, hours: float) -> None:
    offset = datetime(2024, 1, 1, tzinfo=UTC).astimezone(zone_of(zone)).utcoffset()
    assert offset is not None and offset.total_seconds() == hours * 3600


def test_a_timetable_has_the_times_of_all_and_each_once() -> None:
    table = Timetable([("0 0 9 * * *", "UTC"), ("0 0 9,18 * * *", "Asia/Tokyo"), ("0 0 9 * * *", "UTC")])
    begin = ms("2024-01-01 00:00:00")
    found = list(islice(table.after(begin - 1), 4))
    expected = [("2024-01-01 00:00:00", 1), ("2024-01-01 09:00:00", 0), ("2024-01-02 00:00:00", 1)]
    assert [(shown([time])[0], number) for time, number in found[:3]] == expected
    assert list(table.between(begin - 1, found[3][0])) == found[::-1]
    assert list(table.between(begin, begin)) == []


def test_a_timetable_keeps_its_bounds() -> None:
    start, end = ms("2024-01-02 00:00:00"), ms("2024-01-04 00:00:00")
    table = Timetable([("0 0 0 * * *", "UTC")], start, end)
    days = ["2024-01-02 00:00:00", "2024-01-03 00:00:00", "2024-01-04 00:00:00"]
    assert shown([time for time, _ in table.after(0)]) == days
    assert shown([time for time, _ in table.between(0, end * 2)]) == days[::-1]
