"""A workload with something of everything, and a listing of what became of it, to be compared with later releases.

What has not ended waits for something that no clock brings while tests are run: a signal, a person, the year 2099.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from orchestrator_client import Client, Task, TaskContext, TerminalError, Worker, task
from tests.cluster.workload import eventually, within

EACH = 4
LEASED = "leased"
SECRET = "zq-secret-zq"
Document = dict[str, Any]


def simple(name: str, reference: str = "", **more: Any) -> Document:
    return {"name": name, "taskReferenceName": reference or name, "type": "SIMPLE", **more}


def typed(kind: str, name: str, parameters: Document | None = None, **more: Any) -> Document:
    return {"name": name, "taskReferenceName": name, "type": kind, "inputParameters": parameters or {}, **more}


def defined(name: str, *tasks: Document, **more: Any) -> Document:
    return {"name": name, "version": 1, "schemaVersion": 2, "tasks": list(tasks), **more}


X = {"x": "${workflow.input.x}"}
FORKED = [simple("double", f"f{number}", inputParameters={"x": number}) for number in range(12)]
DEFINITIONS = [
    defined("child", simple("double", inputParameters=X), outputParameters={"twice": "${double.output.result}"}),
    defined(
        "everything",
        typed("SET_VARIABLE", "set", {"seen": "${workflow.input.x}"}),
        typed("SUB_WORKFLOW", "sub", X, subWorkflowParam={"name": "child", "version": 1}),
        typed("DO_WHILE", "loop", {"items": [1, 2, 3]}, items="${loop.input.items}",
              loopOver=[simple("double", "in_loop", inputParameters=X)]),
        typed("SWITCH", "switch", {"case": "${workflow.input.kind}"}, evaluatorType="value-param", expression="case",
              decisionCases={"even": [typed("NOOP", "even")]}, defaultCase=[typed("NOOP", "odd")]),
        typed("INLINE", "script", {**X, "evaluatorType": "javascript", "expression": "$.x * 3"}),
        typed("JSON_JQ_TRANSFORM", "query", {**X, "queryExpression": ".x + 1"}),
        typed("FORK_JOIN", "fork", forkTasks=[[simple("double", "left", inputParameters=X)],
                                              [simple("flaky", "right", inputParameters=X)]]),
        typed("JOIN", "join", joinOn=["left", "right"]),
        typed("FORK_JOIN_DYNAMIC", "fan", {"tasks": FORKED, "inputs": {}}, dynamicForkTasksParam="tasks",
              dynamicForkTasksInputParamName="inputs"),
        typed("JOIN", "fanned"),
        typed("EVENT", "tell", X, sink="conductor:told"),
        outputParameters={"script": "${script.output.result}", "seen": "${workflow.variables.seen}"},
        variables={"seen": 0},
    ),
    defined("undone", simple("double", "first", inputParameters=X,
                             compensateWith={"name": "undo", "type": "SIMPLE"}), simple("broken", inputParameters=X)),
    defined("stuck", simple("double", "first", inputParameters=X,
                            compensateWith={"name": "broken", "type": "SIMPLE"}), simple("broken", inputParameters=X)),
    defined("waits", typed("WAIT", "wait", {"signal": "go"}), simple("double", inputParameters=X)),
    defined("later", typed("WAIT", "wait", {"until": "2099-01-01 00:00 UTC"})),
    defined("human", typed("HUMAN", "person")),
    defined("queued", simple("nobody", inputParameters=X)),
    defined("retried-later", simple("much-later", inputParameters=X)),
    defined("secretive", simple("double", inputParameters={"x": 1, "password": "${workflow.secrets.PASSWORD}"})),
    defined("masked", simple("double", inputParameters=X), maskedFields=["card"]),
    defined("gated", typed("WAIT", "wait", {"signal": "go"}),
            rateLimitConfig={"concurrentExecLimit": 1, "rateLimitKey": "gate"}),
    defined("handled", typed("NOOP", "noop")),
    defined(LEASED, simple("held", inputParameters=X)),
    defined("inbox", typed("PULL_WORKFLOW_MESSAGES", "pull", {"batchSize": 2}),
            typed("WAIT", "wait", {"signal": "go"})),
]
TASK_DEFINITIONS = {
    "flaky": {"retryCount": 3, "retryDelaySeconds": 0},
    "broken": {"retryCount": 0},
    "much-later": {"retryCount": 3, "retryDelaySeconds": 500_000_000},
    "limited": {"concurrentExecLimit": 2},
}


def worked() -> list[Task[..., Any]]:
    @task
    def double(x: int, ctx: TaskContext) -> dict[str, Any]:
        ctx.log.info("doubles %s", x)
        return {"result": 2 * x}

    @task
    def flaky(x: int, ctx: TaskContext) -> dict[str, Any]:
        if ctx.attempt == 1:
            raise RuntimeError("not at the first time")
        return {"result": x}

    @task
    def broken(x: int = 0) -> None:
        raise TerminalError("never")

    @task
    def undo() -> None:
        pass

    @task(name="much-later")
    def much_later(x: int) -> None:
        raise RuntimeError("not now")

    return [double, flaky, broken, undo, much_later]


@asynccontextmanager
async def workers(client: Client) -> AsyncIterator[asyncio.Event]:
    """One that works, and one that holds what it has until the event is set."""
    released = asyncio.Event()

    @task
    async def held(x: int) -> dict[str, Any]:
        await released.wait()
        return {"result": x}

    made = [Worker(client, worked(), handle_signals=False), Worker(client, [held], handle_signals=False)]
    running = [asyncio.create_task(worker.run()) for worker in made]
    try:
        await asyncio.gather(*(within(worker.connected(), "a worker's session") for worker in made))
        yield released
    finally:
        released.set()
        await asyncio.gather(*(worker.stop(timeout_s=5) for worker in made))
        await asyncio.gather(*running)


async def fill(client: Client) -> None:
    """Everything that is to end has ended when this returns."""
    await client.set_retention(age=timedelta(0), count=0, bytes=0)
    await client.secrets.put("PASSWORD", SECRET)
    await client._register_tasks({"name": name, **fields} for name, fields in TASK_DEFINITIONS.items())
    await client.register(*DEFINITIONS)
    await client.schemas.register("Order", {"type": "object", "required": ["x"]})
    await client.schedules.put({"name": "nightly", "cronExpression": "0 0 3 1 1 ?", "paused": True,
                                "startWorkflowRequest": {"name": "handled", "input": {"by": "hand"}}})
    await client.schedules.pause("nightly", "for good")
    await client.events.put_handler({"name": "told", "event": "conductor:everything:told", "active": True,
                                     "actions": [{"action": "start_workflow",
                                                  "start_workflow": {"name": "handled", "input": {"by": "event"}}}]})
    await client.events.put_handler({"name": "published", "event": "published", "active": True,
                                     "actions": [{"action": "start_workflow",
                                                  "start_workflow": {"name": "handled", "input": {"by": "me"}}}]})
    for document in DEFINITIONS:
        for number in range(EACH):
            kind = "even" if number % 2 == 0 else "odd"
            given = {"x": number, "kind": kind, "card": "4111", "text": "ä" * 2 ** number}
            if number == 3:
                given["large"] = "l" * 6_000
            await client.start(document["name"], given, id=f"{document['name']}-{number}", priority=number,
                               correlation_id=f"of-{number}", created_by="fill",
                               idempotency_key=f"key-{document['name']}-{number}", task_to_domain={"nobody": "far"})
    await _touch(client)


async def _touch(client: Client) -> None:
    await client.signal("waits-0", "go", {"by": "fill"})
    await client.signal("waits-1", "early", {"kept": True})
    await client.pause("waits-1")
    await client.terminate("waits-2", "enough")
    await client.update_variables("later-0", {"seen": [1, None, "ü"]})
    await client.push_message("inbox-0", {"first": 1})
    await client.push_message("inbox-0", {"second": 2})
    await client.events.publish("published", {"n": 1}, message_id="once")
    await client.schedules.run("nightly")
    await client.wait("child-0", 60)
    await client.restart("child-0")
    await client.wait("everything-0", 60)
    await client.delete("masked-1", effects="keep")
    await eventually(lambda: _ended(client), "everything to end that is to end")


WAITING = {"waits", "later", "human", "queued", "retried-later", "gated", "inbox", "stuck", LEASED}


async def _ended(client: Client) -> bool:
    async for each in client.search(page_size=500):
        if not each.status.ended and each.name not in WAITING:
            return False
        if each.name == "stuck" and each.compensation.state != "STUCK":
            return False
        if each.name == "retried-later":
            [first, *_] = (await client.get(each.workflow_id, tasks=True)).tasks
            if first.status != "FAILED":
                return False
    return not [event async for event in client.events.pending()]


async def listing(client: Client) -> Document:
    """What the cluster says of everything, as JSON has it."""
    found: Document = {"executions": {}, "logs": {}}
    async for each in client.search(page_size=500):
        execution = await client.get(each.workflow_id, tasks=True)
        found["executions"][each.workflow_id] = dataclasses.asdict(execution)
        found["logs"][each.workflow_id] = dataclasses.asdict(await client.task_logs(each.workflow_id))
    found["definitions"] = [one async for one in client.workflow_definitions()]
    found["task_definitions"] = [one async for one in client.task_definitions()]
    found["schemas"] = [one async for one in client.schemas.list()]
    found["secrets"] = [dataclasses.asdict(one) async for one in client.secrets.list()]
    found["handlers"] = [one async for one in client.events.handlers()]
    found["event_runs"] = [dataclasses.asdict(one) async for one in client.events.runs()]
    found["schedule"] = dataclasses.asdict(await client.schedules.get("nightly"))
    found["schedule_runs"] = [dataclasses.asdict(one) for one in await client.schedules.runs("nightly")]
    found["retention"] = dataclasses.asdict(await client.retention())
    found["counts"] = {query: (await client.count(query=query)).count for query in (
        "status = COMPLETED", "workflowType IN (waits,later)", "correlationId = of-3")}
    return json.loads(json.dumps(found, default=str))  # type: ignore[no-any-return]  # it is what was given


def missing(old: Any, new: Any, path: str = "") -> list[str]:
    """Where the new one lacks, or has otherwise, what the old one has. What is added is no matter."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [fault for key in old for fault in (
            missing(old[key], new[key], f"{path}/{key}") if key in new else [f"{path}/{key} is gone"])]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [fault for number, (one, other) in enumerate(zip(old, new, strict=True))
                for fault in missing(one, other, f"{path}/{number}")]
    return [] if old == new else [f"{path}: {new!r}, and not {old!r}"]
