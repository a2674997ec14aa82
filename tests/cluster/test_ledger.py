"""The ledger finds what it is there to find: each kind of damage, done to what a cluster would say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from orchestrator.verify.attempts import Ran
from orchestrator_api.v1 import workflows_pb2 as pb
from orchestrator_api.v1.common_pb2 import Payload
from orchestrator_client import Execution, NotFound, TaskStatus, WorkflowStatus
from orchestrator_client.execution import read_execution
from tests.cluster.ledger import Ledger

EXECUTION = read_execution(pb.Workflow(
    workflow_id="w1", status=pb.WORKFLOW_STATUS_COMPLETED, output=Payload(inline=b'{"x": 1}'),
    tasks=[pb.Task(task_id="t1", reference="charge", name="charge", type="SIMPLE", status=pb.TASK_STATUS_COMPLETED,
                   sequence=1, idempotency_key="key", fencing_token=7)],
))
ATTEMPT = EXECUTION.tasks[0]
RAN = Ran("w1", "charge", 0, 1, "t1", 7, "key")


class Cluster:
    """Says what the test wants."""

    def __init__(self, *executions: Execution) -> None:
        self._executions = {execution.workflow_id: execution for execution in executions}

    async def get(self, workflow_id: str, *, tasks: bool) -> Execution:
        if workflow_id not in self._executions:
            raise NotFound(workflow_id)
        return self._executions[workflow_id]


def ledger(*ran: Ran) -> Ledger:
    made = Ledger()
    made.acknowledge("w1", {"x": 1})
    made.finish("w1", {"x": 1})
    made.ran = list(ran)
    return made


async def faults(made: Ledger, *executions: Execution, attempts_max: int = 1) -> str:
    client: Any = Cluster(*executions)
    with pytest.raises(AssertionError) as found:
        await made.check(client, attempts_max=attempts_max)
    return str(found.value)


async def test_what_is_right_passes() -> None:
    client: Any = Cluster(EXECUTION)
    await ledger(RAN).check(client)


async def test_a_start_that_is_lost() -> None:
    assert "w1: acknowledged, and lost" in await faults(ledger(RAN))


async def test_an_execution_that_does_not_end_well_or_comes_to_something_else() -> None:
    assert "is RUNNING" in await faults(ledger(RAN), replace(EXECUTION, status=WorkflowStatus.RUNNING))
    assert "came to {'x': 2}" in await faults(ledger(RAN), replace(EXECUTION, output={"x": 2}))


async def test_an_end_that_a_client_was_told_differently() -> None:
    made = ledger(RAN)
    made.finish("w1", {"x": 3})
    assert "a client was told {'x': 3}" in await faults(made, EXECUTION)


async def test_a_step_that_was_executed_twice() -> None:
    again = replace(RAN, fencing_token=8)
    assert "workers executed 2" in await faults(ledger(RAN, again), EXECUTION)
    assert "leases executed twice: [7]" in await faults(ledger(RAN, RAN), EXECUTION, attempts_max=2)


async def test_two_completions_of_one_step() -> None:
    second = replace(ATTEMPT, task_id="t2", fencing_token=8, sequence=2)
    both = replace(EXECUTION, tasks=[ATTEMPT, second])
    ran = (RAN, replace(RAN, task_id="t2", fencing_token=8))
    assert "2 completions were accepted" in await faults(ledger(*ran), both, attempts_max=2)


async def test_a_completion_that_no_worker_made() -> None:
    assert "no worker executed it" in await faults(ledger(), EXECUTION)
    assert "no worker executed it" in await faults(ledger(replace(RAN, fencing_token=6)), EXECUTION)


async def test_tokens_and_keys_that_do_not_do_their_work() -> None:
    lost = replace(ATTEMPT, status=TaskStatus.TIMED_OUT, sequence=1)
    done = replace(ATTEMPT, task_id="t2", sequence=2)
    doubled = replace(EXECUTION, tasks=[lost, replace(done, fencing_token=7)])
    assert "fencing tokens given to two attempts: [7]" in await faults(ledger(RAN), doubled, attempts_max=2)
    falling = replace(EXECUTION, tasks=[lost, replace(done, fencing_token=6)])
    ran = (RAN, replace(RAN, task_id="t2", fencing_token=6))
    assert "a later execution had a lower fencing token" in await faults(ledger(*ran), falling, attempts_max=2)
    rekeyed = replace(EXECUTION, tasks=[lost, replace(done, fencing_token=8, idempotency_key="other")])
    assert "different idempotency keys" in await faults(ledger(RAN), rekeyed, attempts_max=2)
    shared = replace(EXECUTION, tasks=[ATTEMPT, replace(done, fencing_token=8, reference="ship")])
    assert "steps share the idempotency keys" in await faults(ledger(RAN), shared)


def test_one_id_is_acknowledged_once() -> None:
    with pytest.raises(AssertionError, match="acknowledged twice"):
        ledger().acknowledge("w1", {})
