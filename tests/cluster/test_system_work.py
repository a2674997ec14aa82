"""Calls that nodes make for workflows, with real nodes and a real server: made once, whoever of the others dies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_client import Client, Execution, Run
from tests.cluster.conftest import StartCluster
from tests.cluster.nodes import check_same_content
from tests.cluster.workload import PATIENCE_S, eventually, within

CALL = {
    "name": "call", "version": 1, "schemaVersion": 2,
    "tasks": [{
        "name": "call", "taskReferenceName": "call", "type": "HTTP",
        "taskDefinition": {"name": "call", "retryCount": 3, "retryLogic": "FIXED", "retryDelaySeconds": 0},
        "inputParameters": {
            "uri": "${workflow.input.uri}", "method": "POST", "readTimeOut": 60_000, "totalTimeOut": 60_000,
        },
    }],
    "outputParameters": {"status": "${call.output.response.statusCode}", "said": "${call.output.response.body}"},
}


EVERY_KIND = {
    "name": "every", "version": 1, "schemaVersion": 2,
    "tasks": [
        {
            "name": "script", "taskReferenceName": "script", "type": "INLINE",
            "inputParameters": {"evaluatorType": "javascript", "expression": "$.x * 2", "x": "${workflow.input.x}"},
        },
        {
            "name": "query", "taskReferenceName": "query", "type": "JSON_JQ_TRANSFORM",
            "inputParameters": {"queryExpression": ".x + 1", "x": "${script.output.result}"},
        },
        {
            "name": "ask", "taskReferenceName": "ask", "type": "GRPC",
            "inputParameters": {
                "target": "${workflow.input.target}", "method": "orchestrator.v1.ClusterService/GetStatus",
            },
        },
        {
            "name": "get", "taskReferenceName": "get", "type": "HTTP",
            "inputParameters": {"uri": "${workflow.input.uri}", "method": "GET"},
        },
    ],
    "outputParameters": {
        "sum": "${query.output.result}", "nodes": "${ask.output.response.body.nodes}",
        "status": "${get.output.response.statusCode}",
    },
}


class Server:
    """Answers when the test lets it; notes each request by its path."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.requests: list[tuple[str, str]] = []  # (path, idempotency key)
        self.cut_off: list[str] = []  # paths
        self._server: asyncio.Server
        self._answering: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)

    async def stop(self) -> None:
        self._server.close()
        self.open.set()
        await asyncio.gather(*self._answering, return_exceptions=True)

    def uri(self, path: str) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}{path}"

    def of(self, path: str) -> list[str]:
        """The keys of the requests to the path."""
        return [key for asked, key in self.requests if asked == path]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._answer(reader, writer))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        path = first.split(" ")[1]
        self.requests.append((path, headers["idempotency-key"]))
        gone, allowed = asyncio.create_task(reader.read()), asyncio.create_task(self.open.wait())
        done, waiting = await asyncio.wait((gone, allowed), return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        if gone in done:
            self.cut_off.append(path)
        else:
            body = b'{"done":true}'
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            writer.write(head.encode() + b"Connection: close\r\n\r\n" + body)
        writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    await made.start()
    yield made
    await made.stop()


class Calls:
    """One call after the other is begun, until every node makes one."""

    def __init__(self, cluster: LocalCluster, client: Client, server: Server) -> None:
        self.cluster = cluster
        self.client = client
        self.server = server
        self.runs: dict[str, Run] = {}  # by path
        self.node_of: dict[str, str] = {}

    async def begin(self) -> None:
        await self.client.register(CALL)
        while set(self.node_of.values()) != set(self.cluster.nodes):
            path = f"/{len(self.runs)}"
            run = self.runs[path] = await self.client.start("call", {"uri": self.server.uri(path)}, register=False)
            await eventually(lambda at=path: self._asked(at), f"the request to {path}")
            self.node_of[path] = (await self.attempts(run))[0].worker_id

    async def _asked(self, path: str) -> bool:
        return bool(self.server.of(path))

    @staticmethod
    async def attempts(run: Run) -> tuple[object, ...]:
        return tuple((await run.get(tasks=True)).tasks)

    def made_by(self, node: str) -> list[str]:
        return [path for path, by in self.node_of.items() if by == node]

    async def end(self) -> dict[str, Execution]:
        self.server.open.set()
        return {path: await run.wait(PATIENCE_S, tasks=True) for path, run in self.runs.items()}


@pytest.fixture
async def calls(cluster: LocalCluster, client: Client, server: Server) -> Calls:
    made = Calls(cluster, client, server)
    await within(made.begin(), "every node to make a call")
    return made


async def test_a_call_is_made_once_though_the_leader_dies(cluster: LocalCluster, calls: Calls) -> None:
    """But for those of the leader itself, which another node makes again under the same key."""
    leader = await cluster.wait_leader()
    lost = calls.made_by(leader)
    await cluster.kill_node(leader)
    await cluster.wait_leader(other_than=leader)
    for path in lost:
        await eventually(lambda at=path: _made_again(calls, at), f"the call to {path} to be made again")
    cluster.start_node(leader)
    await cluster.wait_ready()
    for path, execution in (await calls.end()).items():
        assert execution.output == {"status": 200, "said": {"done": True}}
        keys = calls.server.of(path)
        assert len(keys) == (2 if path in lost else 1), path
        assert len(set(keys)) == 1
        assert [task.attempt for task in execution.tasks] == [1] * len(keys)
    assert set(calls.server.cut_off) == set(lost)
    await check_same_content(cluster)


async def _made_again(calls: Calls, path: str) -> bool:
    return len(calls.server.of(path)) == 2


async def test_a_node_that_is_told_to_stop_ends_its_calls_first(cluster: LocalCluster, calls: Calls) -> None:
    """The leader, too; nothing is made twice, and nothing is lost."""
    leader = await cluster.wait_leader()
    stopping = asyncio.create_task(cluster.stop_node(leader))
    executions = await calls.end()
    assert await stopping == 0
    assert {execution.output["status"] for execution in executions.values()} == {200}
    assert sorted(path for path, _ in calls.server.requests) == sorted(calls.runs)
    assert calls.server.cut_off == []


async def test_a_call_that_does_not_end_is_handed_on_when_its_node_stops(
    start_cluster: StartCluster, server: Server
) -> None:
    cluster = await start_cluster(system_drain_ms=100)
    async with Client(cluster.endpoints) as client:
        calls = Calls(cluster, client, server)
        await within(calls.begin(), "every node to make a call")
        leader = await cluster.wait_leader()
        follower = next(name for name in cluster.nodes if name != leader)
        assert await cluster.stop_node(follower) == 0
        for path in calls.made_by(follower):
            await eventually(lambda at=path: _made_again(calls, at), f"the call to {path} to be made again")
        for path, execution in (await calls.end()).items():
            assert execution.output["status"] == 200
            assert len(server.of(path)) == (2 if calls.node_of[path] == follower else 1)


async def test_nodes_execute_every_kind_of_task_that_needs_no_worker(
    cluster: LocalCluster, client: Client, server: Server
) -> None:
    server.open.set()
    await client.register(EVERY_KIND)
    given = {"x": 20, "target": cluster.endpoints[0], "uri": server.uri("/")}
    run = await client.start("every", given, register=False)
    execution = await run.wait(PATIENCE_S, tasks=True)
    assert [(task.reference, task.status.name, task.reason) for task in execution.tasks] == [
        (name, "COMPLETED", "") for name in ("script", "query", "ask", "get")
    ]
    assert (execution.output["sum"], execution.output["status"]) == (41, 200)
    assert sorted(node["name"] for node in execution.output["nodes"]) == sorted(cluster.nodes)
