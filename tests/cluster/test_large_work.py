"""One execution of thousands of tasks, and one operation on a thousand executions, while leaders are killed."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_api.v1 import workflows_pb2 as pb
from orchestrator_client import Client, TaskContext, Workflow, task
from tests.cluster.ledger import Ledger
from tests.cluster.nodes import check_same_content, metric
from tests.cluster.test_retrying_client import now_ms, ulid
from tests.cluster.workload import eventually, within, working

BRANCHES, KILLS, SLOTS = 2_000, 3, 16
LARGE_S = 300.0
FAN_OUT = {
    "name": "fan-out", "version": 1, "schemaVersion": 2,
    "tasks": [
        {
            "name": "fork", "taskReferenceName": "fork", "type": "FORK_JOIN_DYNAMIC",
            "inputParameters": {"forkTaskName": "branch", "forkTaskInputs": "${workflow.input.items}"},
        },
        {"name": "join", "taskReferenceName": "join", "type": "JOIN"},
    ],
    "outputParameters": {"joined": "${join.output}"},
}

EXECUTIONS = 1_000
STARTS_AT_ONCE = 64
UNKNOWN = tuple(f"nobody-{number}" for number in range(5))
OPERATIONS = {
    "PAUSE": pb.WORKFLOW_OPERATION_PAUSE,
    "RESUME": pb.WORKFLOW_OPERATION_RESUME,
    "TERMINATE": pb.WORKFLOW_OPERATION_TERMINATE,
    "RETRY": pb.WORKFLOW_OPERATION_RETRY,
    "RESTART": pb.WORKFLOW_OPERATION_RESTART,
}
# Each operation, what the executions are after it, and what it says of them when it is asked for another time.
STORY = (
    ("PAUSE", "PAUSED", ""),
    ("RESUME", "RUNNING", "WORKFLOW_NOT_PAUSED"),
    ("TERMINATE", "TERMINATED", ""),
    ("RETRY", "RUNNING", "WORKFLOW_RUNNING"),
    ("TERMINATE", "TERMINATED", ""),
    ("RESTART", "RUNNING", "WORKFLOW_RUNNING"),
)

waits = Workflow("waits")
waits.wait(signal="go")


async def replace_leader(cluster: LocalCluster) -> None:
    leader = await cluster.wait_leader()
    await cluster.kill_node(leader)
    await cluster.wait_leader(other_than=leader)
    cluster.start_node(leader)
    await cluster.wait_ready()


async def test_leaders_die_in_the_middle_of_a_fan_out(cluster: LocalCluster, client: Client, ledger: Ledger) -> None:
    """Each branch is executed and counted once, and the JOIN has all of them."""
    turns = asyncio.Semaphore(0)

    @task(name="branch")
    async def branch(n: int, ctx: TaskContext) -> dict[str, int]:
        ledger.runs(ctx)
        await turns.acquire()
        return {"n": n}

    async with working(client, [branch], slots=SLOTS):
        run = await client.start(FAN_OUT, {"items": [{"n": n} for n in range(BRANCHES)]}, id="fan-out")
        ledger.acknowledge("fan-out", {"joined": {f"_branch_{n}": {"n": n} for n in range(BRANCHES)}})
        for number in range(KILLS):
            for _ in range(BRANCHES // (KILLS + 1)):
                turns.release()
            goal = SLOTS + number * BRANCHES // (KILLS + 1)
            await eventually(lambda least=goal: len(ledger.ran) > least, "some more branches to be executed")
            await replace_leader(cluster)
        assert len(ledger.ran) < BRANCHES
        for _ in range(BRANCHES):
            turns.release()
        ended = await run.wait(LARGE_S, tasks=True)
    assert Counter(task.status for task in ended.tasks) == {"COMPLETED": BRANCHES + 2}
    assert len(ledger.ran) == BRANCHES
    await ledger.check(client)
    await check_same_content(cluster)


async def operate(client: Client, operation: str, ids: list[str], request_id: str) -> tuple[set[str], dict[str, str]]:
    """(ids of those to which it was done, reason of each of the others)"""
    request = pb.OperateWorkflowsRequest(
        request_id=request_id, operation=OPERATIONS[operation], workflow_ids=ids,
        compensation=pb.TERMINATE_COMPENSATION_SKIP,
    )
    reply = await client.connection.call(lambda node: node.workflows.OperateWorkflows, request)
    return set(reply.succeeded), {failed.workflow_id: failed.reason for failed in reply.failed}


async def start_all(client: Client) -> list[str]:
    await client.register(waits)
    gate = asyncio.Semaphore(STARTS_AT_ONCE)

    async def start(workflow_id: str) -> None:
        async with gate:
            await client.start(waits, id=workflow_id, register=False)

    ids = [f"w-{number}" for number in range(EXECUTIONS - len(UNKNOWN))]
    await asyncio.gather(*map(start, ids))
    return ids


async def in_the_middle(cluster: LocalCluster, operating: asyncio.Task[Any], node: str, begun: float) -> bool:
    """Returns when the leader has applied some of the operation's entries; whether there is more to come."""

    async def some() -> bool:
        return operating.done() or await metric(cluster.nodes[node], "orchestrator_applied_index") > begun + 1

    await eventually(some, "the operation to begin")
    return not operating.done()


async def test_leaders_die_in_the_middle_of_operations_on_many(
    cluster: LocalCluster, client: Client, chance: Any
) -> None:
    """Each id has a true answer, and whoever asks again under the same id has the same."""
    known = await start_all(client)
    ids = [*known, *UNKNOWN]
    missing = dict.fromkeys(UNKNOWN, "WORKFLOW_NOT_FOUND")
    interrupted = 0
    for operation, status, another_time in STORY:
        request_id = ulid(await now_ms(client), chance)
        leader = await cluster.wait_leader()
        begun = await metric(cluster.nodes[leader], "orchestrator_applied_index")
        operating = asyncio.create_task(operate(client, operation, ids, request_id))
        interrupted += await in_the_middle(cluster, operating, leader, begun)
        await replace_leader(cluster)
        answer = await within(operating, f"the answer to {operation}", LARGE_S)
        assert answer == (set(known), missing), operation
        assert await operate(client, operation, ids, request_id) == answer
        assert Counter([str(found.status) async for found in client.search()]) == {status: len(known)}, operation
        done, failed = await operate(client, operation, ids, ulid(await now_ms(client), chance))
        if another_time:
            assert (done, failed) == (set(), {**dict.fromkeys(known, another_time), **missing})
        else:
            assert (done, failed) == answer
    assert {(await client.get(workflow_id)).run for workflow_id in known[:10]} == {2}
    print(f"{interrupted} of {len(STORY)} operations were interrupted")
    assert interrupted
    await check_same_content(cluster)
