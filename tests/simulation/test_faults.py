"""What faults say of the disks that they have damaged: a node may stop itself for that, and for nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.simulation.cluster import SimulatedCluster
from tests.simulation.faults.disks import KINDS
from tests.simulation.faults.occasion import Occasion
from tests.simulation.faults.plan import Planned
from tests.simulation.faults.service import Service
from tests.simulation.run import simulating

RECEIVED, DATABASE = "/data/incoming-9", "/data/state.db"


@pytest.fixture
def cluster() -> Iterator[SimulatedCluster]:
    """Three machines on which nothing runs."""
    with simulating(verbose=False) as scratch:
        cluster = SimulatedCluster(1, 3, scratch)
        yield cluster
        cluster.close()


class _Nobody(Service):
    """Starts no node."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        self.cluster = cluster


async def _happens(occasion: Occasion) -> None:
    await KINDS[occasion.kind](occasion)


def _damage(cluster: SimulatedCluster, path: str, number: int) -> None:
    """That of a snapshot which is there already."""
    cluster.members["n2"].machine.disk.put(path, bytes(4096))
    occasion = Occasion(_Nobody(cluster), None, Planned(0.0, "damaged_copy", number))
    cluster.loop.create_task(_happens(occasion))
    cluster.loop.run(cluster.loop.now + 0.1)
    assert path in occasion.what


def _number_of(cluster: SimulatedCluster, *, arrives: bool) -> int:
    """A fault whose dice say so."""
    return next(number for number in range(99) if (cluster.dice(f"faults/{number}").random() < 0.5) is arrives)


@pytest.mark.parametrize("becomes_the_database", [True, False])
def test_what_arrived_and_becomes_the_database_takes_its_damage_there(
    cluster: SimulatedCluster, becomes_the_database: bool
) -> None:
    _damage(cluster, RECEIVED, _number_of(cluster, arrives=True))
    member = cluster.members["n2"]
    assert member.may_fail and not member.is_damaged
    if becomes_the_database:
        member.machine.disk.rename(RECEIVED, DATABASE)
    else:
        member.machine.disk.remove(RECEIVED)
    cluster.loop.run(cluster.loop.now + 0.1)
    assert member.is_damaged is becomes_the_database


@pytest.mark.parametrize(("copy", "may_fail"), [("copy-1.db", False), ("copy-2.db", True)])
def test_who_reads_its_copy_again_may_stop(cluster: SimulatedCluster, copy: str, may_fail: bool) -> None:
    _damage(cluster, f"/data/snapshots/{copy}", _number_of(cluster, arrives=False))
    assert cluster.members["n2"].may_fail is may_fail
