"""What nodes execute themselves: calls are answered by the test, scripts are evaluated as on any node."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from orchestrator.integrations.work import Outcome
from orchestrator.testing import Cluster, every_leader_kill, http_answer
from orchestrator_client import TerminalError, WorkflowFailed


def workflow(*tasks: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "calls",
        "version": 1,
        "schemaVersion": 2,
        "tasks": [{"taskReferenceName": task["name"], **task} for task in tasks],
        "outputParameters": {task["name"]: f"${{{task['name']}.output}}" for task in tasks},
    }


PAYS = workflow(
    {
        "name": "pay",
        "type": "HTTP",
        "inputParameters": {
            "http_request": {"uri": "https://pay.example/charges", "method": "POST", "body": "${workflow.input.order}"}
        },
        "taskDefinition": {"name": "pay", "retryCount": 3, "retryDelaySeconds": 1},
    }
)
COMPUTES = workflow(
    {
        "name": "sum",
        "type": "INLINE",
        "inputParameters": {"a": "${workflow.input.a}", "evaluatorType": "javascript", "expression": "$.a + 1"},
    },
    {"name": "query", "type": "JSON_JQ_TRANSFORM", "inputParameters": {"x": [1, 2], "queryExpression": ".x | add"}},
)


async def test_a_call_is_answered_by_the_test(cluster: Cluster) -> None:
    calls = cluster.stub("system/http", lambda request: http_answer({"receipt": 17}, 201))
    run = await cluster.client.start(PAYS, {"order": {"id": 1}})
    response = (await run.wait()).output["pay"]["response"]
    assert (response["statusCode"], response["body"]) == (201, {"receipt": 17})
    [call] = calls.all
    assert call.input["uri"] == "https://pay.example/charges"
    assert call.input["body"] == {"id": 1}
    assert (call.attempt, call.state, calls.effects) == (1, "COMPLETED", [call.name])


async def test_a_handler_may_fail_wait_and_say_that_it_is_final(cluster: Cluster) -> None:
    answers: list[Any] = [http_answer("busy", 503), OSError("no route"), {"response": {"body": "paid"}}]

    async def pay(request: dict[str, Any]) -> Any:
        await asyncio.sleep(3600)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    calls = cluster.stub("system/http", pay)
    began = cluster.now
    run = await cluster.client.start(PAYS, {"order": 1})
    assert (await run.wait()).output["pay"] == {"response": {"body": "paid"}}
    assert [call.attempt for call in calls.all] == [1, 2, 3]
    assert len({call.key for call in calls.all}) == 1
    assert timedelta(hours=3) < cluster.now - began < timedelta(hours=3, minutes=1)

    def never(request: dict[str, Any]) -> Outcome:
        raise TerminalError("DECLINED", "no money")

    cluster.stub("system/http", never)
    with pytest.raises(WorkflowFailed, match="DECLINED: no money"):
        await (await cluster.client.start(PAYS, {"order": 1})).result()


async def test_a_call_that_nothing_stands_in_for_says_what_to_do(cluster: Cluster) -> None:
    with pytest.raises(WorkflowFailed, match=r"cluster\.stub\('system/http', handler\) would"):
        await (await cluster.client.start(PAYS, {"order": 1})).result()
    with pytest.raises(ValueError, match="no kind of call; there are system/http, system/grpc"):
        cluster.stub("http", lambda request: {})


async def test_scripts_and_queries_are_evaluated(cluster: Cluster) -> None:
    began = cluster.now
    execution = await (await cluster.client.start(COMPUTES, {"a": 41})).wait()
    assert execution.output["sum"]["result"] == 42
    assert execution.output["query"]["result"] == 3
    assert cluster.now - began < timedelta(seconds=5)


@every_leader_kill(at_most=12, seed=5)
async def test_calls_and_scripts_survive_kills(cluster: Cluster) -> None:
    calls = cluster.stub("system/http", lambda request: http_answer({"receipt": 17}))
    paid = await cluster.client.start(PAYS, {"order": 1}, id="pays")
    computed = await cluster.client.start(COMPUTES, {"a": 1}, id="computes")
    assert (await paid.wait()).status == (await computed.wait()).status == "COMPLETED"
    assert len(calls.effects) == 1
