"""Secrets on real nodes: used in every place of a call and failed in every way, and found nowhere afterwards."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator.sealing.keys import new_key_line
from orchestrator_client import Client, TaskContext, Worker, Workflow, secret, task
from tests.cluster.conftest import StartCluster
from tests.cluster.directories import configured, said
from tests.cluster.test_calls import call, workflow
from tests.cluster.workload import PATIENCE_S, eventually
from tests.integrations.grpc_server import GrpcServer
from tests.integrations.http_server import HttpServer, Received, reply

# No part of them looks like anything else that is written. The second one has to be escaped in JSON and in URLs.
PLAIN, ODD, TOKEN = "zqhunter2zq", 'zqod"d é/\\&zq', "zqtoken7zq"
LOGIN = json.dumps({"user": "zquserzq", "password": "zqpasswordzq"})
VALUES = ("zqhunter2zq", "zqod", "zqtoken7zq", "zquserzq", "zqpasswordzq")


def found_in(directory: Path) -> list[str]:
    """The files in which any of the values is, but for the keys'."""
    found = []
    for path in sorted(directory.rglob("*")):
        data = path.read_bytes() if path.is_file() else b""
        found += [f"{path}: {value}" for value in VALUES if value.encode() in data]
    return found


async def seen(client: Client) -> str:
    """All that readers see."""
    shown = [repr(one) async for one in client.search()]
    shown += [repr(one) async for one in client.search_tasks()]
    for one in [one async for one in client.search()]:
        shown.append(repr(await client.get(one.workflow_id, tasks=True)))
        shown.append(repr(await client.conductor.get(one.workflow_id)))
        shown.append(repr(await client.task_logs(one.workflow_id)))
    for value in VALUES:
        found = await client.count(free_text=value), await client.count_tasks(free_text=value)
        assert [hits.count for hits in found] == [0, 0]
    return "\n".join(shown)


async def put_all(client: Client) -> None:
    for name, value in (("PLAIN", PLAIN), ("ODD", ODD), ("TOKEN", TOKEN), ("LOGIN", LOGIN)):
        await client.secrets.put(name, value)


P, Q, T = (f"${{workflow.secrets.{name}}}" for name in ("PLAIN", "ODD", "TOKEN"))
HEADERS = {"Authorization": f"Bearer {T}", "X-User": "${workflow.secrets.LOGIN.user}"}


async def ended(client: Client, name: str, workflow_id: str, status: str = "COMPLETED") -> Any:
    run = await client.start(name, {"of": P}, id=workflow_id)
    execution = await run.wait(PATIENCE_S, tasks=True)
    assert execution.status == status, execution
    return execution


async def test_a_call_has_them_everywhere_and_nobody_sees_them(start_cluster: StartCluster) -> None:
    cluster = await start_cluster(1, log_level="debug")

    def echo(received: Received) -> bytes:
        said = {"target": received.target, "headers": received.headers, "body": received.body.decode()}
        return reply(200, said, ("X-Echo", received.header("Authorization")[0]))

    async with Client(cluster.endpoints) as client, HttpServer(echo) as server, GrpcServer() as shop:
        await put_all(client)
        http = call("http", "HTTP", uri=f"{server.uri}/{P}/x?key={T}&of=${{workflow.input.of}}", method="POST",
                    headers=HEADERS, body={"odd": Q, "password": "${workflow.secrets.LOGIN.password}", "at": [P]})
        grpc = call("grpc", "GRPC", target=shop.target, method="shop.Orders/Place", metadata={"token": T},
                    request={"orderId": P, "price": {"units": 5}})
        await client.register(workflow(http, grpc))
        await ended(client, "order", "a")
        [received] = server.received
        assert received.target == f"/{PLAIN}/x?key={TOKEN}&of={P}"
        assert received.header("Authorization") == [f"Bearer {TOKEN}"]
        assert received.header("X-User") == ["zquserzq"]
        assert json.loads(received.body) == {"odd": ODD, "password": "zqpasswordzq", "at": [PLAIN]}
        [(order, metadata)] = shop.calls
        assert (order.order_id, metadata["token"]) == (PLAIN, TOKEN)
        shown = await seen(client)
        assert f"Bearer {T}" in shown and "'orderId': '***'" in shown
        assert not [value for value in VALUES if value in shown]
        # Once more with all of it in the database.
        await cluster.stop_node("a")
        assert found_in(cluster.directory) == []


async def refuse(received: Received) -> bytes:
    return reply(400, f"no: {received.target} {received.headers} {received.body.decode()}" + "." * 20_000)


async def silent(received: Received) -> bytes:
    await asyncio.sleep(3600)
    return b""


async def hang_up(received: Received) -> bytes:
    return b""


async def cut_off(received: Received) -> bytes:
    """The last of what is kept of the body is the beginning of a secret."""
    return reply(500, "." * (16 * 1024 - 9) + received.header("Authorization")[0].removeprefix("Bearer ") + "." * 99)


async def elsewhere(received: Received) -> bytes:
    return reply(302, b"", ("Location", f"ftp://other/{received.target}"))


@pytest.mark.parametrize("answer", [refuse, silent, hang_up, cut_off, elsewhere])
async def test_a_call_that_fails_tells_nobody(start_cluster: StartCluster, answer: Any) -> None:
    cluster = await start_cluster(1, log_level="debug")
    async with Client(cluster.endpoints) as client, HttpServer(answer) as server:
        await put_all(client)
        method = "GET" if answer is elsewhere else "POST"
        fails = call("http", "HTTP", uri=f"{server.uri}/{P}?key={T}", method=method, headers=HEADERS, readTimeOut=300)
        if method == "POST":
            fails["inputParameters"]["body"] = {"odd": Q}
        await client.register(workflow(fails))
        await ended(client, "order", "a", "FAILED")
        assert server.received[0].target == f"/{PLAIN}?key={TOKEN}"
        shown = await seen(client)
        assert not [value for value in (*VALUES, "zqtoken", "zqhunt") if value in shown]
        await cluster.stop_node("a")
        assert found_in(cluster.directory) == []


INVALID = [
    {"uri": f"{P}://x/{T}", "method": "GET"},
    {"uri": f"http://x:{P}/{T}", "method": "GET"},
    {"uri": f"http://{P}:{T}@x/", "method": "GET"},
    {"uri": f"http://x/{Q}\u0001", "method": "GET"},
    {"uri": "http://127.0.0.1:1/", "method": P},
    {"uri": "http://127.0.0.1:1/", "method": "GET", "headers": {"X": f"{T}\n"}},
    {"uri": "http://127.0.0.1:1/", "method": "GET", "headers": {f"X {P}": "x", "Y": T}},
    {"uri": f"http://127.0.0.1:1/{P}", "method": "GET", "headers": {"X": T}},
    {"uri": f"http://{P}.invalid/", "method": "GET"},
    {"uri": "http://127.0.0.1:1/", "method": "GET", "readTimeOut": P},
    {"service": P, "path": T, "method": "GET"},
]
INVALID_GRPC = [
    {"target": f"{P}:1", "method": "a.B/C", "metadata": {"token": T}},
    {"target": "127.0.0.1:1", "method": P},
    {"target": "127.0.0.1:1", "method": "a.B/C", "metadata": {"token": f"{T}\n", "x-bin": P}},
    {"target": "SHOP", "method": "shop.Orders/Place", "request": {"price": P, "tags": T}},
    {"target": "SHOP", "method": "shop.Orders/None", "request": {}, "metadata": {"token": T}},
]


async def test_a_call_that_can_not_be_made_tells_nobody(start_cluster: StartCluster) -> None:
    cluster = await start_cluster(1, log_level="debug")
    async with Client(cluster.endpoints) as client, GrpcServer() as shop:
        await put_all(client)
        for number, given in enumerate([*INVALID, *INVALID_GRPC]):
            kind = "HTTP" if number < len(INVALID) else "GRPC"
            given = {key: shop.target if value == "SHOP" else value for key, value in given.items()}
            await client.register({**workflow(call("call", kind, **given)), "name": f"w{number}"})
            execution = await ended(client, f"w{number}", f"w{number}", "FAILED")
            assert execution.error_code and execution.reason, execution
        shown = await seen(client)
        assert not [value for value in (*VALUES, "zqtoken", "zqhunt") if value in shown]
        await cluster.stop_node("a")
        assert found_in(cluster.directory) == []


@task(runtime_metadata=["TOKEN"])
async def leak(plain: str, ctx: TaskContext) -> dict[str, str]:
    ctx.log(f"works with {plain}")
    return {"plain": plain, "token": f"<{ctx.runtime_metadata['TOKEN']}>"}


@task(runtime_metadata=["TOKEN"])
async def break_off(plain: str, ctx: TaskContext) -> None:
    raise ValueError(f"{plain} and {ctx.runtime_metadata['TOKEN']}")


async def test_a_worker_gets_them_and_what_it_says_has_none(start_cluster: StartCluster) -> None:
    cluster = await start_cluster(3, log_level="debug")
    async with Client(cluster.endpoints) as client:
        await put_all(client)
        good, bad = Workflow("good"), Workflow("bad")
        good.step(leak, secret("PLAIN"))
        bad.step(break_off, f"{secret('PLAIN')}!")
        worker = Worker(client, [leak, break_off], handle_signals=False)
        running = asyncio.create_task(worker.run())
        try:
            done = await (await client.start(good, id="good")).wait(PATIENCE_S, tasks=True)
            assert done.tasks[0].output == {"plain": "***", "token": "<***>"}
            broken = await (await client.start(bad, id="bad")).wait(PATIENCE_S, tasks=True)
            assert "*** and ***" in broken.reason.replace("***!", "***")
        finally:
            await worker.stop(timeout_s=5)
            await running
        shown = await seen(client)
        assert "works with ***" in shown
        assert not [value for value in VALUES if value in shown]
        for name in cluster.nodes:
            await cluster.stop_node(name)
        assert found_in(cluster.directory) == []


async def test_another_key_and_a_node_without_it(start_cluster: StartCluster) -> None:
    """As deploy/README.md says it: the new key to all nodes, then rotate; then the old one may go."""
    cluster = await start_cluster(3)
    async with Client(cluster.endpoints) as client, HttpServer() as server:
        await put_all(client)
        old = cluster.secret_keys_file.read_text()
        before = {one.name: one.key_id async for one in client.secrets.list()}
        await client.register(workflow(call("http", "HTTP", 3, uri=server.uri, method="GET", headers=HEADERS)))
        cluster.secret_keys_file.write_text(new_key_line(lambda count: b"n" * count) + "\n")
        await eventually(_unreadable(client), "the nodes to have lost the key")
        run = await client.start("order", {}, id="waits")
        waiting = await eventually(_explained(client, "waits"), "explain to name the secret")
        assert "can read the secret 'TOKEN'" in waiting and before["TOKEN"] in waiting
        cluster.secret_keys_file.write_text(new_key_line(lambda count: b"n" * count) + "\n" + old)
        assert (await run.wait(PATIENCE_S)).status == "COMPLETED"
        done = await client.secrets.rotate()
        assert (done.sealed, done.total) == (4, 4)
        cluster.secret_keys_file.write_text(new_key_line(lambda count: b"n" * count) + "\n")
        leader = (await client.leader()).name
        await cluster.kill_node(leader)
        assert (await (await client.start("order", {}, id="after")).wait(PATIENCE_S)).status == "COMPLETED"
        assert {one.key_id async for one in client.secrets.list()} == {done.key_id}
        assert len(server.received) == 2


def _unreadable(client: Client) -> Any:
    async def lost() -> bool:
        return not any([one.readable async for one in client.secrets.list()])

    return lost


def _explained(client: Client, workflow_id: str) -> Any:
    async def explained() -> str:
        said = " ".join(one.waits_for for one in await client.explain(workflow_id))
        return said if "the secret" in said else ""

    return explained


async def test_what_is_restored_from_a_backup_opens_with_the_same_keys(
    start_cluster: StartCluster, tmp_path: Path
) -> None:
    """It is another cluster; the backup has no keys in it."""
    file = tmp_path / "one.backup"
    cluster = await start_cluster(1)
    async with Client(cluster.endpoints) as client:
        await put_all(client)
        await said(cluster, "cluster", "backup", file)
    await cluster.stop(timeout_s=0)
    keys = cluster.secret_keys_file.read_bytes()
    assert not any(data.encode() in file.read_bytes() for data in (*VALUES, keys.decode().strip()))
    restored = configured(tmp_path / "restored")
    restored.secret_keys_file.write_bytes(keys)
    try:
        await said(restored, "restore", file, "--config", restored.nodes["a"].config_file)
        restored.start_node("a")
        assert await restored.wait_leader() == "a"
        async with Client(restored.endpoints) as client, HttpServer() as server:
            await client.register(workflow(call("http", "HTTP", 3, uri=server.uri, method="GET", headers=HEADERS)))
            await ended(client, "order", "a")
            assert server.received[0].header("Authorization") == [f"Bearer {TOKEN}"]
    finally:
        await restored.stop(timeout_s=0)


async def test_a_node_does_not_start_with_a_broken_file_of_keys(cluster: LocalCluster) -> None:
    await cluster.stop_node("a")
    cluster.secret_keys_file.write_text("no key\n")
    cluster.start_node("a")
    await eventually(_ended(cluster), "the node to end")
    assert cluster.nodes["a"].exit_code == 2
    assert "line 1: not a key" in cluster.nodes["a"].log_tail()


def _ended(cluster: LocalCluster) -> Any:
    async def has_ended() -> bool:
        return not cluster.nodes["a"].running

    return has_ended
