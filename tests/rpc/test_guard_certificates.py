"""Client certificates behind the guard: whose they are by the access file; TLS alone says only that they are real."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from orchestrator.access.audit import AuditLog
from orchestrator.access.watching import Rules
from orchestrator.engine import system
from orchestrator.rpc.guard import Guard
from orchestrator.rpc.server import RpcServer
from orchestrator.tls.authority import Authority, Made
from orchestrator_api.v1 import workers_pb2
from orchestrator_api.v1 import workflows_pb2 as pb
from orchestrator_client.authorization import authorized
from tests.rpc.bench import Bench, Stubs, Worker
from tests.rpc.guarding import DENIED, INVALID, MISSING, refused
from tests.tls import making

RULES = """
[[certificate]]
common_name = "ops"
[[certificate]]
dns = "shop"
principal = "shop"
groups = ["shops"]
[[certificate]]
common_name = "a"
principal = "nodes"
[[grant]]
to = ["ops"]
role = "operator"
namespaces = ["default"]
[[grant]]
to = ["group:shops"]
role = "starter"
namespaces = ["default"]
workflows = ["order"]
[[grant]]
to = ["nodes"]
role = "node"
"""


class Port:
    """A node with TLS that asks for certificates."""

    def __init__(self, by: Authority, number: int) -> None:
        self._by = by
        self._number = number

    @contextlib.asynccontextmanager
    async def as_(self, made: Made, authorization: str = "") -> AsyncIterator[Stubs]:
        credentials = grpc.ssl_channel_credentials(
            self._by.file.read_bytes(), made.key_file.read_bytes(), made.certificate_file.read_bytes()
        )
        options = (("grpc.use_local_subchannel_pool", 1),)
        async with grpc.aio.secure_channel(f"{making.HOST}:{self._number}", credentials, options) as channel:
            yield Stubs(authorized(channel, lambda: authorization) if authorization else channel)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return making.authority(tmp_path)


@pytest.fixture
async def port(bench: Bench, tmp_path: Path, authority: Authority) -> AsyncIterator[Port]:
    bench.order("pay")
    (tmp_path / "access.toml").write_text(RULES)
    guard = Guard(
        bench.backend(),
        rules=Rules(tmp_path / "access.toml"),
        audit=AuditLog(None, node="n1", wall_ms=lambda: 0),
        wall_ms=lambda: 0,
        monotonic=lambda: 0.0,
    )
    made = making.node(authority, "server")
    pair = (made.key_file.read_bytes(), made.certificate_file.read_bytes())
    root = authority.file.read_bytes()
    credentials = grpc.ssl_server_credentials([pair], root, require_client_auth=True)
    server = RpcServer(bench.backend(), guard, credentials)
    await server.start(making.HOST, 0)
    yield Port(authority, server.port)
    await server.stop(0)


async def test_a_certificate_is_its_principals_by_any_of_its_names(port: Port, authority: Authority) -> None:
    async with port.as_(making.client(authority, "ops")) as stubs:
        await stubs.workflows.SearchWorkflows(pb.SearchWorkflowsRequest())
    async with port.as_(making.client(authority, "shop")) as stubs:
        await stubs.workflows.StartWorkflow(pb.StartWorkflowRequest(name="order"))
        assert await refused(stubs.workflows.SearchWorkflows(pb.SearchWorkflowsRequest())) == DENIED


async def test_one_that_is_nobodys_is_as_good_as_none(port: Port, authority: Authority) -> None:
    async with port.as_(making.client(authority, "stranger")) as stubs:
        assert await refused(stubs.workflows.SearchWorkflows(pb.SearchWorkflowsRequest())) == MISSING


async def test_a_token_that_is_wrong_is_not_made_good_by_a_certificate(port: Port, authority: Authority) -> None:
    async with port.as_(making.client(authority, "ops"), "Bearer nonsense") as stubs:
        assert await refused(stubs.workflows.SearchWorkflows(pb.SearchWorkflowsRequest())) == INVALID


async def test_nodes_may_be_known_by_their_certificates(port: Port, authority: Authority) -> None:
    hello = workers_pb2.WorkHello(namespace=system.NAMESPACE, worker_id="a", task_names=["system/http"], slots=1)
    async with port.as_(making.node(authority, "a")) as stubs:
        node = Worker(stubs)
        await node.say(hello=hello)
        await node.next("welcome")
        assert await refused(stubs.workflows.SearchWorkflows(pb.SearchWorkflowsRequest())) == DENIED
    async with port.as_(making.client(authority, "ops")) as stubs:
        other = Worker(stubs)
        await other.say(hello=hello)
        assert (await other.failed()).code() is grpc.StatusCode.PERMISSION_DENIED
