"""Scripts, queries and conditions of workflows are evaluated by the nodes, whichever of them die meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator_client import Client, WorkflowFailed
from tests.cluster.test_time import Fault, all_die, leader_dies
from tests.cluster.workload import eventually, within

RUNS = 20


def step(reference: str, type: str, given: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"name": reference, "taskReferenceName": reference, "type": type, "inputParameters": given, **fields}


def script(reference: str, expression: str, **given: Any) -> dict[str, Any]:
    return step(reference, "INLINE", {"evaluatorType": "javascript", "expression": expression, **given})


EVERYTHING = {
    "name": "everything",
    "version": 1,
    "tasks": [
        script("inline", "function e() { return $.list.get(0) + $.list.size(); } e();", list="${workflow.input.list}"),
        step("lambda", "LAMBDA", {"v": "${inline.output.result}", "scriptExpression": "return {v: $.v * 2}"}),
        step("jq", "JSON_JQ_TRANSFORM", {"v": "${lambda.output.result.v}", "queryExpression": ".v, .v + 1"}),
        step("loop", "DO_WHILE", {"n": 3}, loopCondition="if ($.loop['iteration'] < $.n) { true; } else { false; }",
             loopOver=[script("inside", "({x: $.v})", v="${jq.output.result}")]),
        step("switch", "SWITCH", {"v": "${jq.output.result}"}, evaluatorType="javascript",
             expression="$.v > 3 ? 'big' : 'small'", decisionCases={"big": [script("big", "'is big'")]}),
    ],
    "outputParameters": {
        "results": "${jq.output.resultList}", "iterations": "${loop.output.iteration}", "size": "${big.output.result}",
    },
}
ENDLESS = {"name": "endless", "version": 1, "tasks": [script("endless", "while (true) {}")]}


def expected(x: int) -> dict[str, Any]:
    return {"results": [2 * (x + 2), 2 * (x + 2) + 1], "iterations": 3, "size": "is big"}


def process(pid: int) -> tuple[str, int]:
    """Its state and its parent; a process that has ended has none, reaped or not."""
    try:
        state, parent = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[:2]
    except (FileNotFoundError, ProcessLookupError):
        return "", 0
    return ("", 0) if state == "Z" else (state, int(parent))


def evaluators(node: int) -> list[int]:
    """The child processes of a node: it has no others."""
    everybody = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
    return [pid for pid in everybody if process(pid)[1] == node]


@pytest.mark.parametrize("fault", [leader_dies, all_die])
async def test_evaluations_go_on_when_nodes_die(cluster: LocalCluster, client: Client, fault: Fault) -> None:
    await client.register(EVERYTHING)
    runs = [await client.start("everything", {"list": [x + 2, 0]}) for x in range(RUNS)]
    await fault(cluster)
    results: list[Any] = await within(asyncio.gather(*(run.result() for run in runs)), "all results")
    assert results == [expected(x + 2) for x in range(RUNS)]


async def test_a_script_that_does_not_end_holds_up_nobody(cluster: LocalCluster, client: Client) -> None:
    await client.register(EVERYTHING, ENDLESS)
    endless = [await client.start("endless", {}) for _ in range(2)]
    runs = [await client.start("everything", {"list": [x + 2, 0]}) for x in range(RUNS)]
    results: list[Any] = await within(asyncio.gather(*(run.result() for run in runs)), "all results")
    assert results == [expected(x + 2) for x in range(RUNS)]
    for run in endless:
        with pytest.raises(WorkflowFailed, match="it took longer than 4000 ms"):
            await within(run.result(), "the endless one to fail")


async def test_evaluators_end_with_their_node(cluster: LocalCluster, client: Client) -> None:
    """However it ends: also in the middle of an evaluation."""
    await client.register(ENDLESS)
    for _ in range(6):
        await client.start("endless", {})
    nodes = [node.process.pid for node in cluster.nodes.values() if node.process is not None]
    await eventually(lambda: any(evaluators(node) for node in nodes), "an evaluator")
    for name in cluster.nodes:
        cluster.pause(name)
    left = [pid for node in nodes for pid in evaluators(node)]
    assert left
    for name in cluster.nodes:
        await cluster.kill_node(name)
    await eventually(lambda: not any(process(pid)[0] for pid in left), "all evaluators to end")
