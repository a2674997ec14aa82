"""Whether there is room on the disks of a majority, by what its members say."""

from __future__ import annotations

import pytest

from orchestrator.replication.disk_room import DiskRoom, said_bytes

MIB = 1 << 20


def room_of(own: int, others: dict[str, int | None], gone: tuple[str, ...] = ()) -> int:
    """In MiB; None: it says nothing."""
    room = DiskRoom(lambda: own * MIB)
    gossip = {name: {"free_disk_mib": said} for name, said in others.items() if said is not None}
    room.look({name: name not in gone for name in others}, gossip)
    return room.majority_bytes // MIB


@pytest.mark.parametrize(("own", "others", "gone", "majority"), [
    (9, {}, (), 9),
    (9, {"b": 3}, (), 3),
    # One of three may be full.
    (9, {"b": 1, "c": 5}, (), 5),
    (1, {"b": 9, "c": 5}, (), 5),
    (9, {"b": 1, "c": 2}, (), 2),
    (9, {"b": 1, "c": 2, "d": 8, "e": 7}, (), 7),
    # Who can't be reached holds nothing, whatever it said before.
    (9, {"b": 1, "c": 5}, ("c",), 1),
    (9, {"b": 1, "c": 2, "d": 8, "e": 7}, ("d",), 2),
    # Who says nothing, as an older version, is no reason to refuse.
    (9, {"b": None, "c": 2}, (), 9),
    # Without a majority it is not for want of room.
    (9, {"b": 1, "c": 2}, ("b", "c"), 9),
])
def test_the_room_of_a_majority(own: int, others: dict[str, int | None], gone: tuple[str, ...], majority: int) -> None:
    assert room_of(own, others, gone) == majority


def test_what_is_said_is_what_is_heard() -> None:
    measured = [5 * MIB + 7]
    room = DiskRoom(lambda: measured[0])
    assert said_bytes(room.facts) == 5 * MIB
    measured[0] = 100
    room.look({}, {})
    assert said_bytes(room.facts) == 0 and room.own_bytes == room.majority_bytes == 100
    assert said_bytes({}) is None and said_bytes({"free_disk_mib": "x"}) is None
