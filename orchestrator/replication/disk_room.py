"""Room on the disks of the members: this node's as it measures it, the others' as they say in the gossip.

A node whose disk is full stops. So what is of interest is not each member's disk but a majority's: as long as there is
room on those, commands can be committed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from orchestrator.replication.frames import GossipValue

_FACT = "free_disk_mib"


def said_bytes(said: Mapping[str, GossipValue]) -> int | None:
    """What a node says of its disk; None if it says nothing, as one of an older version."""
    found = said.get(_FACT)
    return found << 20 if isinstance(found, int) and found >= 0 else None


class DiskRoom:
    """Measured some times a second, for the disk is asked each time, and each start wants to know."""

    def __init__(self, measure: Callable[[], int]) -> None:
        self._measure = measure
        self.own_bytes = measure()
        self.majority_bytes = self.own_bytes

    @property
    def facts(self) -> dict[str, GossipValue]:
        """For the gossip; in MiB, so that it is not another fact with every write."""
        return {_FACT: self.own_bytes >> 20}

    def look(self, others: Mapping[str, bool], gossip: Mapping[str, Mapping[str, GossipValue]]) -> None:
        """`others`: the other members that vote, and whether they can be reached: who can't holds no entry now."""
        self.own_bytes = self._measure()
        majority = (len(others) + 1) // 2 + 1
        rooms = [self.own_bytes]
        for name, is_reached in others.items():
            if is_reached:
                said = said_bytes(gossip.get(name, {}))
                # Who says nothing is no reason to refuse anything.
                rooms.append(self.own_bytes if said is None else said)
        rooms.sort(reverse=True)
        # Without a majority nothing is committed, and that has another name.
        self.majority_bytes = rooms[majority - 1] if len(rooms) >= majority else self.own_bytes
