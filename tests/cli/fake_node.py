"""A process that answers as a node's cluster service does, so that the manager of processes is tested on its own.

Beside the nodes' directories a file `leader` says who leads, and a file `<node>.fails` makes the node end at once.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import grpc.aio

from orchestrator.cli.die_with_parent import die_with_parent
from orchestrator.config import load
from orchestrator_api.v1 import cluster_pb2, cluster_pb2_grpc


class Service(cluster_pb2_grpc.ClusterServiceServicer):
    def __init__(self, node: str, directory: Path) -> None:
        self.node, self.directory = node, directory

    @property
    def leader(self) -> str:
        return (self.directory / "leader").read_text().strip()

    async def GetLeader(self, request, context):  # type: ignore[no-untyped-def]
        return cluster_pb2.GetLeaderResponse(leader=self.leader, term=3)

    async def GetStatus(self, request, context):  # type: ignore[no-untyped-def]
        return cluster_pb2.GetStatusResponse(node=self.node, leader=self.leader, term=3)


async def serve(config_file: Path) -> None:
    config = load(config_file, {}, {})
    directory = config.data_dir.parent.parent
    print("I am", config.node, flush=True)
    if (directory / f"{config.node}.fails").exists():
        sys.exit("disk on fire")
    server = grpc.aio.server()
    cluster_pb2_grpc.add_ClusterServiceServicer_to_server(Service(config.node, directory), server)
    server.add_insecure_port(str(config.grpc_address))
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    die_with_parent(int(sys.argv[2]))
    asyncio.run(serve(Path(sys.argv[1])))
