"""Waiting for the end of an execution, or for the task at which it is blocked, over the wire."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import msgspec
import pytest

from orchestrator.engine.choices import IfExists
from orchestrator.engine.commands import StartWorkflow, UpdateTask
from orchestrator.engine.model import TaskStatus
from orchestrator.rpc import awaiting, showing
from orchestrator_api.v1 import workflows_pb2 as pb
from orchestrator_api.v1.common_pb2 import Payload
from orchestrator_api.v1.common_pb2 import RequestIdentity as WireIdentity
from tests.engine.driver import simple, workflow
from tests.rpc.bench import Bench, Stubs, soon, until
from tests.rpc.statuses import info_of

REQUEST_ID = "01HF7YAT00ABCDEFGHJKMNPQRS"
STRATEGIES = {
    name: pb.ReturnStrategy.Value(f"RETURN_STRATEGY_{name}")
    for name in ("TARGET_WORKFLOW", "BLOCKING_WORKFLOW", "BLOCKING_TASK", "BLOCKING_TASK_INPUT")
}


def one(reference: str, kind: str, **fields: Any) -> dict[str, Any]:
    return {"name": reference, "taskReferenceName": reference, "type": kind, **fields}


def sub(reference: str, name: str) -> dict[str, Any]:
    return one(reference, "SUB_WORKFLOW", subWorkflowParam={"name": name})


WAITS = one("go", "WAIT", inputParameters={"what": "yes?"})


@pytest.fixture
def families(bench: Bench) -> Bench:
    """outer runs inner, which runs innermost: there is the task that waits."""
    bench.driver.worker("s", "a", "b", slots=10)
    bench.driver.register(
        workflow("innermost", simple("a"), WAITS, simple("b")),
        workflow("inner", sub("deeper", "innermost")),
        workflow("outer", sub("deep", "inner"), outputParameters={"done": True}),
        workflow("waits", simple("a"), WAITS),
    )
    return bench


def give(bench: Bench, reference: str, workflow_id: str) -> None:
    """As a worker does, with what the node does about it."""
    bench.driver.give(reference, workflow_id=workflow_id)
    for effect in bench.driver.effects:
        bench.perform(effect)


def child(bench: Bench, workflow_id: str, reference: str) -> str:
    return bench.driver.latest(reference, workflow_id).child


def execute(stubs: Stubs, name: str, workflow_id: str = "w", **fields: Any) -> Any:
    start = pb.StartWorkflowRequest(name=name, workflow_id=workflow_id)
    return stubs.workflows.ExecuteWorkflow(pb.ExecuteWorkflowRequest(start=start, **fields))


def ended(bench: Bench, workflow_id: str = "w") -> bool:
    return bench.driver.header(workflow_id).ended_ms > 0


async def began(bench: Bench, workflow_id: str = "w") -> None:
    await until("the start", lambda: bench.driver.state.is_known(("default", workflow_id)))


# --- until when


async def test_the_end_of_an_execution_is_answered(families: Bench, stubs: Stubs) -> None:
    families.driver.register(workflow("short", simple("a"), outputParameters={"n": "${a.output.n}"}))
    call = asyncio.ensure_future(execute(stubs, "short"))
    await began(families)
    families.driver.give("a", b'{"n":1}')
    for effect in families.driver.effects:
        families.perform(effect)
    answer = (await soon("the end", call)).awaited
    assert (answer.target_workflow_id, answer.workflow_id, answer.timed_out) == ("w", "w", False)
    assert answer.target_status == answer.workflow.status == pb.WORKFLOW_STATUS_COMPLETED
    assert answer.workflow.output.inline == b'{"n":1}'
    assert [task.reference for task in answer.workflow.tasks] == ["a"]


async def test_a_wait_without_a_time_blocks(families: Bench, stubs: Stubs) -> None:
    call = asyncio.ensure_future(execute(stubs, "waits"))
    await began(families)
    give(families, "a", "w")
    answer = (await soon("the wait", call)).awaited
    assert (answer.target_status, answer.timed_out) == (pb.WORKFLOW_STATUS_RUNNING, False)
    assert [task.reference for task in answer.workflow.tasks] == ["a", "go"]


async def test_a_human_blocks(families: Bench, stubs: Stubs) -> None:
    families.driver.register(workflow("asks", one("ask", "HUMAN")))
    answer = (await soon("it", execute(stubs, "asks", return_strategy=STRATEGIES["BLOCKING_TASK"]))).awaited
    assert (answer.task.reference, answer.task.type) == ("ask", "HUMAN")


async def test_a_task_whose_output_is_being_looked_at_does_not_block_any_more(families: Bench, stubs: Stubs) -> None:
    """Somebody has answered: whether the answer keeps its schema is not for them to say."""
    schema = {"type": "object", "required": ["by"]}
    asks = one("ask", "HUMAN", taskDefinition={"name": "ask", "outputSchema": {
        "name": "answer", "version": 1, "type": "JSON", "data": schema}, "enforceSchema": True})
    families.driver.register(workflow("asks", asks))
    families.apply(_start("asks"))
    answer = (await soon("the answer", signal(stubs, wait_ms=50))).awaited
    assert answer.timed_out
    assert families.driver.latest("ask").is_looked_at
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await soon("the refusal", signal(stubs))
    assert info_of(refused.value).reason == "TASK_NOT_FOUND"


async def test_a_wait_with_a_time_does_not_block(families: Bench, stubs: Stubs) -> None:
    later = one("later", "WAIT", inputParameters={"duration": "1 hours"})
    families.driver.register(workflow("later", later))
    answer = (await soon("the time to be over", execute(stubs, "later", wait_ms=50))).awaited
    assert answer.timed_out
    assert answer.workflow.tasks[0].status == pb.TASK_STATUS_IN_PROGRESS


async def test_the_end_of_one_of_several_tasks_is_enough(families: Bench, stubs: Stubs) -> None:
    """Of the execution itself, or of a sub-workflow."""
    for number, (name, workflow_ids) in enumerate((("waits", ()), ("outer", ("deep", "deeper")))):
        strategy = STRATEGIES["BLOCKING_TASK"]
        top = f"w{number}"
        call = asyncio.ensure_future(
            execute(stubs, name, top, wait_until_tasks=["never", "a"], return_strategy=strategy)
        )
        await began(families, top)
        where = top
        for reference in workflow_ids:
            where = child(families, where, reference)
        give(families, "a", where)
        answer = (await soon("the end of a", call)).awaited
        assert (answer.task.reference, answer.task.status) == ("a", pb.TASK_STATUS_COMPLETED)
        assert (answer.target_workflow_id, answer.workflow_id) == (top, where)


async def test_a_task_that_is_tried_again_has_not_ended(families: Bench, stubs: Stubs) -> None:
    families.driver.register(workflow("tries", simple("a", retryCount=1)))
    call = asyncio.ensure_future(
        execute(stubs, "tries", wait_until_tasks=["a"], return_strategy=STRATEGIES["BLOCKING_TASK"])
    )
    await began(families)
    families.driver.fail("a", "once")
    families.driver.wait(100_000)
    for effect in families.driver.effects:
        families.perform(effect)
    assert not call.done()
    families.driver.fail("a", "twice")
    for effect in families.driver.effects:
        families.perform(effect)
    answer = (await soon("the last attempt", call)).awaited
    # It has ended the workflow, too: then there is no task at which it is blocked.
    assert answer.target_status == pb.WORKFLOW_STATUS_FAILED and not answer.HasField("task")


async def test_when_the_time_is_over_the_state_so_far_is_answered(families: Bench, stubs: Stubs) -> None:
    for name, strategy in STRATEGIES.items():
        answer = (await soon("it", execute(stubs, "outer", name, wait_ms=30, return_strategy=strategy))).awaited
        assert (answer.timed_out, answer.target_workflow_id) == (True, name)
        assert answer.target_status == pb.WORKFLOW_STATUS_RUNNING
        assert answer.HasField("workflow") == name.endswith("WORKFLOW")
        assert not answer.HasField("task")


# --- what is answered


async def blocked_deep_down(bench: Bench, stubs: Stubs, strategy: str, view: Any = pb.VIEW_NATIVE) -> tuple[Any, str]:
    call = asyncio.ensure_future(execute(stubs, "outer", return_strategy=STRATEGIES[strategy], view=view))
    await began(bench)
    innermost = child(bench, child(bench, "w", "deep"), "deeper")
    give(bench, "a", innermost)
    answer = (await soon("what blocks", call)).awaited
    assert (answer.target_workflow_id, answer.target_status) == ("w", pb.WORKFLOW_STATUS_RUNNING)
    assert not answer.timed_out
    return answer, innermost


async def test_target_workflow_is_what_was_started(families: Bench, stubs: Stubs) -> None:
    answer, _ = await blocked_deep_down(families, stubs, "TARGET_WORKFLOW")
    assert (answer.workflow_id, answer.workflow.workflow_id, answer.workflow.name) == ("w", "w", "outer")
    assert not answer.HasField("task")


async def test_blocking_workflow_is_the_one_that_has_the_task(families: Bench, stubs: Stubs) -> None:
    answer, innermost = await blocked_deep_down(families, stubs, "BLOCKING_WORKFLOW")
    assert answer.workflow_id == answer.workflow.workflow_id == innermost
    assert answer.workflow.name == "innermost"


@pytest.mark.parametrize("strategy", ["BLOCKING_TASK", "BLOCKING_TASK_INPUT"])
async def test_blocking_task_is_the_task_with_its_input(families: Bench, stubs: Stubs, strategy: str) -> None:
    answer, innermost = await blocked_deep_down(families, stubs, strategy)
    assert (answer.workflow_id, answer.task.reference) == (innermost, "go")
    assert answer.task.input.inline == b'{"what":"yes?"}'
    assert not answer.HasField("workflow")


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_conductors_answers_say_the_same(families: Bench, stubs: Stubs, strategy: str) -> None:
    answer, innermost = await blocked_deep_down(families, stubs, strategy, pb.VIEW_CONDUCTOR)
    assert not answer.HasField("workflow") and not answer.HasField("task")
    shown = msgspec.json.decode(answer.conductor_json)
    assert (shown["responseType"], shown["targetWorkflowId"]) == (strategy, "w")
    assert (shown["targetWorkflowStatus"], shown["signalTimeout"]) == ("RUNNING", False)
    assert shown["workflowId"] == ("w" if strategy == "TARGET_WORKFLOW" else innermost)
    if "TASK" in strategy:
        assert (shown["referenceTaskName"], shown["taskType"], shown["status"]) == ("go", "WAIT", "IN_PROGRESS")
        assert shown["input"] == {"what": "yes?"}
    else:
        assert (shown["status"], shown["variables"]) == ("RUNNING", {})
        assert [task["referenceTaskName"] for task in shown["tasks"]][-1] == (
            "deep" if strategy == "TARGET_WORKFLOW" else "go"
        )


async def test_conductors_answer_names_the_request_and_may_have_no_task(families: Bench, stubs: Stubs) -> None:
    start = pb.StartWorkflowRequest(name="outer", workflow_id="w", request=WireIdentity(request_id=REQUEST_ID))
    request = pb.ExecuteWorkflowRequest(
        start=start, wait_ms=30, return_strategy=STRATEGIES["BLOCKING_TASK"], view=pb.VIEW_CONDUCTOR
    )
    answer = (await soon("it", stubs.workflows.ExecuteWorkflow(request))).awaited
    assert msgspec.json.decode(answer.conductor_json) == {
        "responseType": "BLOCKING_TASK", "targetWorkflowId": "w", "targetWorkflowStatus": "RUNNING",
        "requestId": REQUEST_ID, "signalTimeout": True,
    }


@pytest.mark.parametrize("view", [pb.VIEW_NATIVE, pb.VIEW_CONDUCTOR])
async def test_an_execution_that_is_too_large_is_answered_without_its_tasks(
    families: Bench, stubs: Stubs, monkeypatch: pytest.MonkeyPatch, view: Any
) -> None:
    """It has started: that would not be said by a refusal."""
    names = [f"a{number}" for number in range(8)]
    families.driver.worker("t", *names)
    large = {"x": "y" * 300}
    families.driver.register(workflow("large", *(simple(name, inputParameters=large) for name in names)))
    call = asyncio.ensure_future(execute(stubs, "large", wait_ms=2_000, wait_until_tasks=["a7"], view=view))
    await began(families)
    for name in names:
        give(families, name, "w")
    monkeypatch.setattr(showing, "ANSWER_BYTES_MAX", 8_000 if view == pb.VIEW_CONDUCTOR else 2_500)
    answer = (await soon("the end", call)).awaited
    assert answer.tasks_left_out and answer.target_status == pb.WORKFLOW_STATUS_COMPLETED
    if view == pb.VIEW_CONDUCTOR:
        assert msgspec.json.decode(answer.conductor_json)["tasks"] == []
    else:
        assert not answer.workflow.tasks


# --- signals


def signal(stubs: Stubs, workflow_id: str = "w", **fields: Any) -> Any:
    given: dict[str, Any] = {"status": pb.TASK_STATUS_COMPLETED, "output": Payload(inline=b'{"by":"me"}')}
    return stubs.workflows.SignalTask(pb.SignalTaskRequest(workflow_id=workflow_id, **given | fields))


async def test_a_signal_reaches_the_task_that_waits_in_a_sub_workflow(families: Bench, stubs: Stubs) -> None:
    families.apply(_start("outer"))
    innermost = child(families, child(families, "w", "deep"), "deeper")
    give(families, "a", innermost)
    assert not (await soon("the signal", signal(stubs))).HasField("awaited")
    waited = families.driver.latest("go", innermost)
    assert waited.status is TaskStatus.COMPLETED
    assert families.driver.hot(innermost).load(waited.output) == b'{"by":"me"}'


async def test_a_signal_may_wait_for_what_comes_next(families: Bench, stubs: Stubs) -> None:
    families.apply(_start("outer"))
    innermost = child(families, child(families, "w", "deep"), "deeper")
    give(families, "a", innermost)
    call = asyncio.ensure_future(signal(stubs, wait_ms=60_000, return_strategy=STRATEGIES["TARGET_WORKFLOW"]))
    await until("the signal", lambda: families.driver.latest("go", innermost).status is TaskStatus.COMPLETED)
    give(families, "b", innermost)
    answer = (await soon("the end", call)).awaited
    assert (answer.workflow.workflow_id, answer.target_status) == ("w", pb.WORKFLOW_STATUS_COMPLETED)
    assert answer.workflow.output.inline == b'{"done":true}'


async def test_its_own_tasks_are_signalled_first_and_timed_waits_too(families: Bench, stubs: Stubs) -> None:
    later = one("later", "WAIT", inputParameters={"duration": "1 hours"})
    fork = one("f", "FORK_JOIN", forkTasks=[[sub("deep", "waits")], [later]])
    families.driver.register(workflow("both", fork, one("j", "JOIN", joinOn=["deep", "later"])))
    families.apply(_start("both"))
    inner = child(families, "w", "deep")
    give(families, "a", inner)
    await soon("the first", signal(stubs))
    assert families.driver.latest("later").status is TaskStatus.COMPLETED
    assert families.driver.latest("go", inner).status is TaskStatus.IN_PROGRESS
    await soon("the second", signal(stubs))
    assert families.driver.latest("go", inner).status is TaskStatus.COMPLETED


async def test_a_signal_that_comes_twice_counts_once(families: Bench, stubs: Stubs) -> None:
    """Though the task that it was for has ended, and the workflow waits at another one."""
    families.driver.register(workflow("twice", WAITS, WAITS | {"taskReferenceName": "again"}))
    families.apply(_start("twice"))
    for _ in range(2):
        await soon("the signal", signal(stubs, request=WireIdentity(request_id=REQUEST_ID)))
        assert families.driver.latest("again").status is TaskStatus.IN_PROGRESS
    await soon("another one", signal(stubs))
    assert ended(families)
    await soon("the first once more", signal(stubs, request=WireIdentity(request_id=REQUEST_ID)))


async def test_what_does_not_wait_is_not_signalled(families: Bench, stubs: Stubs) -> None:
    families.apply(_start("waits"))
    for workflow_id, code, reason in (
        ("w", grpc.StatusCode.NOT_FOUND, "TASK_NOT_FOUND"),
        ("nobody", grpc.StatusCode.NOT_FOUND, "WORKFLOW_NOT_FOUND"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await soon("the refusal", signal(stubs, workflow_id))
        assert (refused.value.code(), info_of(refused.value).reason) == (code, reason)


# --- the leader


@pytest.mark.parametrize("what", ["execute", "await", "signal"])
async def test_whoever_waits_learns_that_the_node_leads_no_longer(
    families: Bench, stubs: Stubs, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """What has been done is not to be done again elsewhere: its outcome is unknown to this node."""
    monkeypatch.setattr(awaiting, "LEADERSHIP_CHECK_SECONDS", 0.01)
    if what == "execute":
        call = execute(stubs, "outer", wait_ms=60_000)
    else:
        families.driver.register(workflow("twice", WAITS, simple("a")))
        families.apply(_start("twice"))
        if what == "await":
            families.apply(UpdateTask("default", "w", "go", TaskStatus.COMPLETED, b"{}"))
            call = stubs.workflows.AwaitWorkflow(pb.AwaitWorkflowRequest(workflow_id="w", wait_ms=60_000))
        else:
            call = signal(stubs, wait_ms=60_000)
    waiting = asyncio.ensure_future(call)
    await until("the waiter", lambda: bool(families.notifier._watchers))
    families.lose_leadership()
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await soon("the failure", waiting)
    expected = "NOT_LEADER" if what == "await" else "OUTCOME_UNKNOWN"
    assert (failed.value.code(), info_of(failed.value).reason) == (grpc.StatusCode.UNAVAILABLE, expected)


async def test_waiting_goes_on_for_an_execution_that_was_started_before(families: Bench, stubs: Stubs) -> None:
    families.apply(_start("waits"))
    call = asyncio.ensure_future(stubs.workflows.AwaitWorkflow(pb.AwaitWorkflowRequest(workflow_id="w")))
    await until("the waiter", lambda: bool(families.notifier._watchers))
    give(families, "a", "w")
    assert (await soon("the wait", call)).awaited.workflow.tasks[-1].reference == "go"


async def test_a_cold_sub_workflow_is_looked_at_and_nobody_is_watched_afterwards(families: Bench, stubs: Stubs) -> None:
    families.apply(_start("outer"))
    innermost = child(families, child(families, "w", "deep"), "deeper")
    give(families, "a", innermost)
    families.go_cold(innermost)
    request = pb.AwaitWorkflowRequest(workflow_id="w", return_strategy=STRATEGIES["BLOCKING_TASK"])
    answer = (await soon("the wait", stubs.workflows.AwaitWorkflow(request))).awaited
    assert (answer.workflow_id, answer.task.reference) == (innermost, "go")
    assert not families.notifier._watchers


async def test_what_breaks_a_rule_is_refused_before_anything_is_started(families: Bench, stubs: Stubs) -> None:
    for fields, field in (
        ({"wait_ms": 300_001}, "wait_ms"),
        ({"wait_until_tasks": ["x"] * 101}, "wait_until_tasks"),
        ({"wait_until_tasks": [""]}, "wait_until_tasks[0]"),
        ({"return_strategy": 9}, "return_strategy"),
        ({"consistency": 9}, "consistency"),
        ({"view": 9}, "view"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await soon("the refusal", execute(stubs, "waits", **fields))
        assert info_of(refused.value).metadata["field"] == field
    assert not families.submitted


def _start(name: str) -> Any:
    return StartWorkflow("default", name, 0, "w", IfExists.FAIL, b"{}")


async def test_sub_workflows_that_have_ended_are_watched_no_longer(families: Bench, stubs: Stubs) -> None:
    families.driver.register(workflow("short", simple("a")), workflow("both", sub("first", "short"), simple("b")))
    families.apply(_start("both"))
    call = asyncio.ensure_future(stubs.workflows.AwaitWorkflow(pb.AwaitWorkflowRequest(workflow_id="w")))
    await until("two to be watched", lambda: len(families.notifier._watchers) == 2)
    give(families, "a", child(families, "w", "first"))
    await until("one to be watched", lambda: len(families.notifier._watchers) == 1)
    give(families, "b", "w")
    assert (await soon("the end", call)).awaited.target_status == pb.WORKFLOW_STATUS_COMPLETED


async def test_only_so_many_sub_workflows_are_looked_at(
    families: Bench, stubs: Stubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What blocks in another one is not seen, and that is said as a wait whose time is over."""
    families.driver.register(workflow("asks", WAITS))
    branches = [[sub("first", "outer")], [sub("second", "asks")]]
    join = one("j", "JOIN", joinOn=["first", "second"])
    families.driver.register(workflow("many", one("f", "FORK_JOIN", forkTasks=branches), join))
    families.apply(_start("many"))
    for most, is_seen in ((4, False), (5, True)):
        monkeypatch.setattr(awaiting, "EXECUTIONS_MAX", most)
        request = pb.AwaitWorkflowRequest(workflow_id="w", wait_ms=100)
        answer = (await soon("the answer", stubs.workflows.AwaitWorkflow(request))).awaited
        assert answer.timed_out is not is_seen
