"""Nodes of one cluster and different recovery epochs: the later one goes on, the earlier one stops itself."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from orchestrator.replication import identity as identities
from orchestrator.replication.errors import IdentityError, Superseded
from orchestrator.replication.files import RealFiles
from tests.replication.cluster import Cluster, Node, wait_until


def recovered(node: Node) -> None:
    """As after a recovery: the same cluster and node, another epoch."""
    identities.save(node.files, node.directory, msgspec.structs.replace(node.identity(), recovery_epoch=1))


@pytest.mark.parametrize("dials", ["earlier", "later"])
async def test_a_node_of_an_earlier_epoch_stops_whoever_dials(tmp_path: Path, dials: str) -> None:
    async with Cluster(tmp_path) as cluster:
        await cluster.put(b"x")
        await cluster.converged()
        for node in cluster.nodes.values():
            await node.kill()
        later, earlier, third = cluster.nodes.values()
        recovered(later)
        recovered(third)
        await later.start()
        await third.start()
        await cluster.put(b"y", [later, third])
        # Only one side finds the other; what is connected stays.
        for hidden in [earlier] if dials == "earlier" else [later, third]:
            del cluster.network.ports[int(cluster.members[hidden.name].rpartition(":")[2])]
        await earlier.start()
        await wait_until("the earlier one to stop", lambda: earlier.fatal)
        assert isinstance(earlier.fatal[0], Superseded)
        assert "recovery epoch 1" in str(earlier.fatal[0]) and "cluster rebuild" in str(earlier.fatal[0])
        await cluster.put(b"z", [later, third])
        assert not later.fatal and not third.fatal


def test_a_recovery_that_has_not_come_to_its_end_keeps_a_node_from_starting(tmp_path: Path) -> None:
    files, directory = RealFiles(), tmp_path / "n1"
    made = identities.initialise(files, directory, None, "n1", {"n1": "h:1"}, recovery_epoch=3)
    assert identities.load(files, directory).recovery_epoch == 3
    identities.save(files, directory, msgspec.structs.replace(made, recovering=True))
    with pytest.raises(IdentityError, match="run `orchestrator recover` again"):
        identities.load(files, directory)
    assert identities.load(files, directory, unfinished=True).recovering
