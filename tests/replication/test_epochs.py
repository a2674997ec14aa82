"""Nodes of one cluster and different recovery epochs: the later one goes on, the earlier one stops itself."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from orchestrator.replication import identity as identities
from orchestrator.replication.errors import IdentityError, Superseded
from orchestrator.replication.files import RealFiles
from orchestrator.replication.frames import PROTOCOL_VERSION, Hello, encode_frame
from tests.replication.cluster import Cluster, Node, wait_until
from tests.replication.test_hostile_bytes import closed, connect


def recovered(node: Node) -> None:
    """As after a recovery: the same cluster and node, another epoch."""
    identities.save(node.files, node.directory, msgspec.structs.replace(node.identity(), recovery_epoch=1))


async def test_a_node_of_an_earlier_epoch_stops_when_it_dials_one_of_a_later(tmp_path: Path) -> None:
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
        del cluster.network.ports[int(cluster.members[earlier.name].rpartition(":")[2])]
        await earlier.start()
        await wait_until("the earlier one to stop", lambda: earlier.fatal)
        assert isinstance(earlier.fatal[0], Superseded)
        assert "recovery epoch 1" in str(earlier.fatal[0]) and "cluster rebuild" in str(earlier.fatal[0])
        await cluster.put(b"z", [later, third])
        assert not later.fatal and not third.fatal


async def test_who_dials_in_and_says_that_there_is_a_later_epoch_stops_nobody(tmp_path: Path) -> None:
    """Whoever reaches the port could: it is only believed of a member's address, or of a certificate."""
    async with Cluster(tmp_path, 1) as cluster:
        await cluster.put(b"x")
        node = cluster["n1"]
        for name in ("n1", "n2", "zz"):
            reader, writer = await connect(node)
            hello = Hello(PROTOCOL_VERSION, cluster.cluster_id, name, "f" * 32, "x:1", ["n1"], None, recovery_epoch=7)
            writer.write(encode_frame(hello))
            await closed(reader)
            writer.close()
        assert node.log.status().counters["epoch"] == 3
        await cluster.put(b"y")
        assert not node.fatal


def test_a_recovery_that_has_not_come_to_its_end_keeps_a_node_from_starting(tmp_path: Path) -> None:
    files, directory = RealFiles(), tmp_path / "n1"
    made = identities.initialise(files, directory, None, "n1", {"n1": "h:1"}, recovery_epoch=3)
    assert identities.load(files, directory).recovery_epoch == 3
    identities.save(files, directory, msgspec.structs.replace(made, recovering=True))
    with pytest.raises(IdentityError, match="run `orchestrator recover` again"):
        identities.load(files, directory)
    assert identities.load(files, directory, unfinished=True).recovering
