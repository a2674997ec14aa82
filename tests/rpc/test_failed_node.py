"""A node that has found out that it is wrong says nothing any more, at once and not only when its process has ended."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from orchestrator.cli.local_cluster import free_ports
from orchestrator.config import Config
from orchestrator.node import Node, NodeFailed
from orchestrator.replication import identity
from orchestrator.replication.errors import Stopped
from orchestrator.replication.files import RealFiles
from orchestrator.rpc.errors import RpcFailure
from orchestrator.services.checkpoints import ContentDiffers
from orchestrator_api.v1.common_pb2 import ReadOptions

DEADLINE_S = 20.0


async def test_a_node_that_fails_votes_acknowledges_and_answers_nothing_from_then_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ports = free_ports()
    address = f"127.0.0.1:{next(ports)}"
    config = Config(node="a", data_dir=tmp_path / "data", peer_listen=address, grpc_listen=f"127.0.0.1:{next(ports)}",
                    call_slots=0, script_slots=0)
    identity.initialise(RealFiles(), config.data_dir, None, "a", {"a": address})
    node = Node(config)
    await node.start()
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not node.backend.leading():  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(0.01)
            for stale_ok in (False, True):
                await node.backend.read_point(ReadOptions(stale_ok=stale_ok))
        node._fail(ContentDiffers("its rows differ"))
        # No turn of the loop later.
        assert not node.backend.leading()
        for stale_ok in (False, True):
            with pytest.raises(RpcFailure) as refused:
                await node.backend.read_point(ReadOptions(stale_ok=stale_ok))
            assert refused.value.reason == "NODE_STOPPED"
        with pytest.raises(Stopped):
            node._log.append(b"")
        with pytest.raises(OSError):
            await asyncio.open_connection(*address.split(":"))
        with pytest.raises(NodeFailed, match="its rows differ"):
            await node.wait_failed()
        said = [record.getMessage() for record in caplog.records if record.levelname == "CRITICAL"]
        assert len(said) == 1 and "What to do: if a majority" in said[0] and "orchestrator cluster rebuild" in said[0]
    finally:
        await node.stop()


async def test_a_node_whose_grpc_server_has_ended_ends_too(tmp_path: Path) -> None:
    """Else it would go on to lead, and nobody could call it."""
    ports = free_ports()
    address = f"127.0.0.1:{next(ports)}"
    config = Config(node="a", data_dir=tmp_path / "data", peer_listen=address, grpc_listen=f"127.0.0.1:{next(ports)}",
                    metrics_listen="", call_slots=0, script_slots=0)
    identity.initialise(RealFiles(), config.data_dir, None, "a", {"a": address})
    node = Node(config)
    await node.start()
    try:
        await node.serve()
        assert node._server is not None
        await node._server._server.stop(0)  # nobody who may
        async with asyncio.timeout(DEADLINE_S):
            with pytest.raises(NodeFailed, match="the gRPC server has ended by itself"):
                await node.wait_failed()
    finally:
        await node.stop()
