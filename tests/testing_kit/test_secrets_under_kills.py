"""Secrets when the leader is killed between any two log entries: put once, given to who names them, written nowhere."""

from __future__ import annotations

import json
from typing import Any

from orchestrator.testing import Cluster, every_leader_kill, http_answer
from orchestrator_client import TaskContext, Workflow, secret, task

OLD, NEW = "hunter2-of-the-bank", "hunter3-of-the-bank"
PAIR = json.dumps({"user": "ann-of-the-shop", "port": 17})


@task(runtime_metadata=["PAIR"])
async def pay(auth: str, data: str, port: int, ctx: TaskContext) -> dict[str, Any]:
    return {
        "right": [auth in (f"Bearer {OLD}", f"Bearer {NEW}"), port == 17, ctx.runtime_metadata == {"PAIR": PAIR}],
        "data": data,
        "said": f"used {auth}",
    }


flow = Workflow("paying", input=dict[str, str])
paid = flow.step(pay, f"Bearer {secret('BANK')}", flow.input["data"], secret("PAIR").port)
flow.returns(right=paid["right"], data=paid["data"], said=paid["said"])

CALL = {
    "name": "calling", "version": 1, "schemaVersion": 2,
    "tasks": [
        {
            "name": "call", "taskReferenceName": "call", "type": "HTTP",
            "taskDefinition": {"name": "call", "retryCount": 3, "retryDelaySeconds": 1},
            "inputParameters": {
                "uri": "https://bank.example/pay?key=${workflow.secrets.BANK}&of=${workflow.input.of}",
                "method": "POST",
                "headers": {"Authorization": "Bearer ${workflow.secrets.BANK}"},
                "body": {"user": "${workflow.secrets.PAIR.user}"},
            },
        }
    ],
}


def written(cluster: Cluster) -> bytes:
    """All that is on the disks of all nodes: journals, databases, snapshots."""
    disks = [cluster._machine(node).disk for node in cluster.nodes]
    return b"".join(disk.contents(path) or b"" for disk in disks for path in disk.files(""))


@every_leader_kill(nodes=3, seed=11)
async def test_secrets_are_kept_and_given_and_written_nowhere(cluster: Cluster) -> None:
    asked: list[dict[str, Any]] = []

    def bank(request: dict[str, Any]) -> Any:
        asked.append(request)
        return http_answer({"echo": request}, 503 if len(asked) == 1 else 200)

    cluster.serve(pay)
    cluster.stub("system/http", bank)
    client = cluster.client
    assert [await client.secrets.put("BANK", value) for value in (OLD, NEW)] == [1, 2]
    assert await client.secrets.put("PAIR", PAIR) == 1
    literal = "${workflow.secrets.BANK}"
    result = await (await client.start(flow, {"data": literal}, id="w")).result()
    assert (result.right, result.data, result.said) == ([True, True, True], literal, "used Bearer ***")
    await client.register(CALL)
    call = await (await client.start("calling", {"of": "${workflow.secrets.PAIR}"}, id="c")).wait(tasks=True)
    assert call.status == "COMPLETED"
    assert {request["headers"]["Authorization"] for request in asked} == {f"Bearer {NEW}"}
    assert {request["uri"] for request in asked} == {
        f"https://bank.example/pay?key={NEW}&of=${{workflow.secrets.PAIR}}"
    }
    assert {request["body"]["user"] for request in asked} == {"ann-of-the-shop"}
    assert [one.name async for one in client.secrets.list()] == ["BANK", "PAIR"]
    shown = f"{await client.get('w', tasks=True)!r} {call!r} {await client.conductor.get('c')!r}"
    await cluster.advance(seconds=5)
    everything = shown.encode() + written(cluster)
    assert b"Bearer ${workflow.secrets.BANK}" in everything and b"***" in everything
    for value in (b"hunter2", b"hunter3", b"ann-of-the-shop"):
        assert value not in everything
