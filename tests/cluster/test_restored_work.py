"""What becomes of work that was under way at a backup: each thing in the table of deploy/README.md, after a restore."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_api.v1.common_pb2 import ClientSession, RequestIdentity
from orchestrator_api.v1.workflows_pb2 import StartWorkflowResponse
from orchestrator_client import Client, Execution, Workflow
from tests.cluster.conftest import StartCluster
from tests.cluster.directories import configured, said
from tests.cluster.ledger import Ledger
from tests.cluster.nodes import pinned
from tests.cluster.test_retrying_client import now_ms, ulid, until_answered, waiter
from tests.cluster.workload import PATIENCE_S, Gate, Number, eventually, within, working

# Longer than anybody waits here: the session ends because it is of the old cluster, not because it is missed.
SESSION_TIMEOUT_MS = 60_000
EVERY_SECOND = {
    "name": "beat", "cronExpression": "* * * * * *", "runCatchupScheduleInstances": True,
    "startWorkflowRequest": {"name": "note"},
}
PAUSE = {
    "name": "pause", "version": 1, "schemaVersion": 2,
    "tasks": [{"name": "w", "taskReferenceName": "w", "type": "WAIT", "inputParameters": {"duration": "6 seconds"}}],
}


async def test_work_that_was_under_way_goes_on_after_a_restore(
    start_cluster: StartCluster, ledger: Ledger, chance: random.Random, tmp_path: Path
) -> None:
    cluster = await start_cluster(1)
    file = tmp_path / "one.backup"
    gate = Gate(ledger)
    async with Client(cluster.endpoints) as client:
        before = await _begun(cluster, client, gate, chance, file)
        # What was due at the backup is over there, long before the other cluster begins.
        await client.wait(before["due"], PATIENCE_S)
        newest = (await client.schedules.runs("beat"))[0].scheduled_time
        await eventually(lambda: _beats_after(client, newest), "the schedule to run again")
    await cluster.stop(timeout_s=0)

    restored = configured(tmp_path / "restored", 1)
    try:
        await said(restored, "restore", file, "--config", restored.nodes["a"].config_file)
        restored.start_node("a")
        await restored.wait_leader()
        async with Client(restored.endpoints) as client:
            await _requests_are_remembered(restored, before, chance, await now_ms(client))
            due = await within(client.wait(before["due"], PATIENCE_S, tasks=True), "the timer that was due to fire")
            assert str(due.status) == "COMPLETED" and len(due.tasks) == 1
            await _lease_is_handed_on(client, gate, ledger)
            await _no_time_is_left_out(client)
    finally:
        await restored.stop(timeout_s=0)


async def _begun(
    cluster: LocalCluster, client: Client, gate: Gate, chance: random.Random, file: Path
) -> dict[str, Any]:
    """Everything is under way, and then the backup is made."""
    note = Workflow("note")
    note.set_variables(noted=True)
    await client.register(note, waiter, gate.workflow)
    await client.register(PAUSE)
    request = RequestIdentity(request_id=ulid(await now_ms(client), chance))
    async with pinned(cluster, "a") as node:
        session = await node.open_session()
        in_session = RequestIdentity(session=ClientSession(id=session, sequence=1, lowest_unacknowledged=1))
        answers = [await node.start("waiter", request=each) for each in (request, in_session)]
    assert [type(answer) for answer in answers] == [StartWorkflowResponse] * 2, answers
    async with working(client, [gate.task], session_timeout_ms=SESSION_TIMEOUT_MS):
        await client.start(gate.workflow, Number(1), id="held")
        await within(gate.entered.acquire(), "the worker to have the task")
        await client.schedules.put(EVERY_SECOND)
        await eventually(lambda: client.schedules.runs("beat"), "the schedule to run")
        due = await eventually(lambda: _backed_up(cluster, client, file), "a backup of a timer that has yet to fire")
        gate.open.set()
        await client.wait("held", PATIENCE_S)
    gate.open.clear()
    return {"due": due, "request": request, "session": session, "in_session": in_session, "answers": answers}


async def _backed_up(cluster: LocalCluster, client: Client, file: Path) -> str:
    """The workflow whose timer is still to fire in the backup; "" if making that took too long."""
    run = await client.start("pause", {}, register=False)
    made = await said(cluster, "cluster", "backup", "--overwrite", file)
    assert made["schedules"] == 1
    return run.workflow_id if str((await run.get()).status) == "RUNNING" else ""


async def _beats_after(client: Client, newest: datetime) -> bool:
    return (await client.schedules.runs("beat"))[0].scheduled_time > newest


async def _requests_are_remembered(
    restored: LocalCluster, before: dict[str, Any], chance: random.Random, time_ms: int
) -> None:
    """The same request has the same answer; a new one is another one, also in the old session."""
    async def answer_to(request: RequestIdentity) -> str:
        answer = await until_answered(restored, lambda node: node.start("waiter", request=request))
        assert isinstance(answer, StartWorkflowResponse), answer
        return answer.workflow_id

    known = [answer.workflow_id for answer in before["answers"]]
    assert [await answer_to(before["request"]), await answer_to(before["in_session"])] == known
    session = ClientSession(id=before["session"], sequence=2, lowest_unacknowledged=1)
    new = [
        await answer_to(RequestIdentity(request_id=ulid(time_ms, chance))),
        await answer_to(RequestIdentity(session=session)),
    ]
    assert len({*known, *new}) == 4


async def _lease_is_handed_on(client: Client, gate: Gate, ledger: Ledger) -> None:
    """Its worker has no session here: another worker has the attempt at once, under the same key."""
    assert [ran.workflow_id for ran in ledger.ran] == ["held"]
    async with working(client, [gate.task]):
        in_time_s = SESSION_TIMEOUT_MS / 2_000
        await within(gate.entered.acquire(), "another worker to have the task", in_time_s)
        gate.open.set()
        held = await within(client.wait("held", PATIENCE_S), "the workflow to end")
    assert (str(held.status), held.output) == ("COMPLETED", {"x": 1})
    first, second = ledger.ran
    assert first.idempotency_key == second.idempotency_key
    assert first.task_id != second.task_id and first.fencing_token < second.fencing_token


async def _no_time_is_left_out(client: Client) -> None:
    """Each second since the backup has its run, and none has two."""
    await client.schedules.pause("beat")
    found = [execution.workflow_id async for execution in client.search(name="note", page_size=1_000)]
    notes: list[Execution] = [await client.get(workflow_id) for workflow_id in found]
    times = sorted({_scheduled_ms(execution) for execution in notes})
    assert len(times) == len(notes) > 3
    assert times == list(range(times[0], times[-1] + 1, int(timedelta(seconds=1).total_seconds() * 1000)))


def _scheduled_ms(execution: Execution) -> int:
    return int(execution.input["_scheduledTime"])
