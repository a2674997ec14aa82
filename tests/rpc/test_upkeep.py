"""Deleting, keeping, updating and logging, over the wire."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from orchestrator.engine import choices, commands, limits
from orchestrator.engine.model import TaskStatus
from orchestrator_api.v1 import cluster_pb2, workers_pb2
from orchestrator_api.v1 import workflows_pb2 as pb
from orchestrator_api.v1.common_pb2 import PageRequest, Payload, RequestIdentity
from tests.rpc.bench import Bench, Stubs, Worker, soon, until
from tests.rpc.statuses import info_of
from tests.rpc.test_workflows import failure, field_refused, finish


@pytest.fixture(autouse=True)
def order(bench: Bench) -> None:
    bench.order("pay", "ship")


# --- deleting


async def test_a_deleted_execution_is_not_found_any_more(bench: Bench, stubs: Stubs) -> None:
    bench.start()
    finish(bench)
    bench.driver.now_ms += 1
    await stubs.workflows.DeleteWorkflow(pb.DeleteWorkflowRequest(workflow_id="w"))
    for call in (stubs.workflows.GetWorkflow(pb.GetWorkflowRequest(workflow_id="w")),
                 stubs.workflows.WaitWorkflow(pb.WaitWorkflowRequest(workflow_id="w")),
                 stubs.workflows.GetTaskLogs(pb.GetTaskLogsRequest(workflow_id="w"))):
        assert (await failure(call)).code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("taken", [True, False])
async def test_nor_is_it_read_from_a_database_that_does_not_know_yet(
    bench: Bench, stubs: Stubs, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while its rows are still going."""
    bench.start()
    finish(bench)
    bench.go_cold()
    bench.driver.now_ms += 1
    if not taken:
        monkeypatch.setattr(limits, "ROWS_REMOVED_PER_STEP", 1)
        bench.driver.index += 1
        bench.driver.machine.begin_entry(bench.driver.index, 1, bench.driver.now_ms)
        bench.driver.heat(("default", "w"))
        bench.driver.machine.apply(commands.DeleteWorkflow("default", "w", choices.DeleteEffects.KEEP))
        bench.driver.machine.end_entry(b"")
        bench.go_cold()
    else:
        bench.apply(commands.DeleteWorkflow("default", "w", choices.DeleteEffects.KEEP))
    error = await failure(stubs.workflows.GetWorkflow(pb.GetWorkflowRequest(workflow_id="w")))
    assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_who_watches_it_is_told(bench: Bench, stubs: Stubs) -> None:
    bench.start()
    watch = stubs.workflows.WatchWorkflow(pb.WatchWorkflowRequest(workflow_id="w"))
    await soon("the execution", watch.read())
    bench.driver.now_ms += 1
    bench.driver.entry(
        commands.TerminateWorkflow("default", "w", "", choices.TerminateCompensation.SKIP),
        commands.DeleteWorkflow("default", "w", choices.DeleteEffects.KEEP),
    )
    for effect in bench.driver.effects:
        bench.perform(effect)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await soon("the end", watch.read())
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_steps_that_were_not_undone_are_named(bench: Bench, stubs: Stubs) -> None:
    bench.order("pay", compensateWith={"name": "undo", "type": "SIMPLE"})
    bench.start()
    bench.apply(commands.PollTasks("p", "default", "", "w", ("pay",), 1))
    bench.apply(commands.TerminateWorkflow("default", "w", "", choices.TerminateCompensation.SKIP))
    bench.driver.now_ms += 1
    error = await failure(stubs.workflows.DeleteWorkflow(pb.DeleteWorkflowRequest(workflow_id="w")))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert (info_of(error).reason, info_of(error).metadata["steps"]) == ("STEPS_NOT_UNDONE", "pay")
    await stubs.workflows.DeleteWorkflow(
        pb.DeleteWorkflowRequest(workflow_id="w", effects=pb.DELETE_EFFECTS_COMPENSATE_FIRST)
    )
    assert bench.driver.header().delete_when_ended
    assert await field_refused(
        stubs.workflows.DeleteWorkflow(pb.DeleteWorkflowRequest(workflow_id="w", effects=9))
    ) == "effects"


# --- keeping


async def test_the_policy_is_shown_and_changed_in_parts(bench: Bench, stubs: Stubs) -> None:
    shown = (await stubs.cluster.GetRetention(cluster_pb2.GetRetentionRequest())).policy
    assert (shown.age_ms, shown.count, shown.bytes) == (7 * 86_400_000, 0, 10 << 30)
    reply = await stubs.cluster.SetRetention(cluster_pb2.SetRetentionRequest(count=9, bytes=0))
    assert (reply.policy.age_ms, reply.policy.count, reply.policy.bytes) == (7 * 86_400_000, 9, 0)
    assert (await stubs.cluster.GetRetention(cluster_pb2.GetRetentionRequest())).policy == reply.policy
    request = cluster_pb2.SetRetentionRequest(age_ms=limits.RETENTION + 1)
    assert await field_refused(stubs.cluster.SetRetention(request)) == "age_ms"


# --- updating


async def test_variables_and_tasks_are_updated(bench: Bench, stubs: Stubs) -> None:
    bench.start()
    variables = Payload(inline=b'{"v":1}')
    await stubs.workflows.UpdateVariables(pb.UpdateVariablesRequest(workflow_id="w", variables=variables))
    await stubs.workflows.UpdateTask(
        pb.UpdateTaskRequest(
            workflow_id="w", reference="pay", status=pb.TASK_STATUS_COMPLETED, output=Payload(inline=b'{"by":"hand"}')
        )
    )
    request = pb.GetWorkflowRequest(workflow_id="w", include_tasks=True)
    found = (await stubs.workflows.GetWorkflow(request)).workflow
    assert (found.variables.inline, found.tasks[0].output.inline) == (b'{"v":1}', b'{"by":"hand"}')
    assert bench.driver.latest("ship").status is TaskStatus.SCHEDULED


async def test_an_update_takes_effect_once(bench: Bench, stubs: Stubs) -> None:
    bench.start()
    identity = RequestIdentity(request_id="01HF7YAT00" + "A" * 16)
    request = pb.UpdateTaskRequest(
        request=identity, workflow_id="w", reference="pay", status=pb.TASK_STATUS_FAILED, reason="x"
    )
    for _ in range(2):
        await stubs.workflows.UpdateTask(request)
    assert bench.driver.latest("pay").retry_count == 1


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("reference", {"status": pb.TASK_STATUS_COMPLETED}),
        ("status", {"reference": "pay"}),
        ("status", {"reference": "pay", "status": pb.TASK_STATUS_CANCELED}),
        ("output", {"reference": "pay", "status": pb.TASK_STATUS_COMPLETED, "output": Payload(inline=b"[]")}),
        ("workflow_id", {"reference": "pay", "status": pb.TASK_STATUS_COMPLETED, "workflow_id": ""}),
    ],
)
async def test_what_is_wrong_with_an_update_is_named(stubs: Stubs, field: str, fields: Any) -> None:
    request = pb.UpdateTaskRequest(**{"workflow_id": "w"} | fields)
    assert await field_refused(stubs.workflows.UpdateTask(request)) == field


# --- logging


def lines(*texts: str) -> list[workers_pb2.LogLine]:
    return [workers_pb2.LogLine(time_ms=1_000 + at, text=text) for at, text in enumerate(texts)]


async def logged(stubs: Stubs, **fields: Any) -> list[str]:
    reply = await stubs.workflows.GetTaskLogs(pb.GetTaskLogsRequest(workflow_id="w", **fields))
    return [line.text for line in reply.lines]


async def test_a_worker_logs_on_its_stream_and_with_its_result(bench: Bench, stubs: Stubs) -> None:
    bench.start()
    worker = Worker(stubs)
    await worker.hello("pay", "ship")
    [given] = await worker.assigned()
    named = {"workflow_id": "w", "task_id": given.task_id, "fencing_token": given.fencing_token}
    attempt = workers_pb2.AttemptLogs(**named, lines=lines("one", "two"))
    await worker.say(logs=workers_pb2.WorkLogs(attempts=[attempt]))
    await until("the lines are there", lambda: bench.driver.header().log_lines == 2)
    result = workers_pb2.TaskResult(**named, status=pb.TASK_STATUS_COMPLETED, logs=lines("three"))
    await worker.give(result)
    await worker.verdicts()
    assert await logged(stubs) == ["one", "two", "three"]
    # What is no word of who holds the attempt is no operator's word either.
    late = workers_pb2.AttemptLogs(workflow_id="w", task_id=given.task_id, lines=lines("late"))
    await worker.say(logs=workers_pb2.WorkLogs(attempts=[late, attempt]))
    await worker.say(goodbye=workers_pb2.WorkGoodbye())
    await until("the goodbye", lambda: not bench.driver.state.sessions)
    assert await logged(stubs) == ["one", "two", "three"]


async def test_pages_and_filters_of_a_log(bench: Bench, stubs: Stubs) -> None:
    bench.start()
    for name in ("pay", "ship"):
        bench.apply(commands.PollTasks("p", "default", "", "w", (name,), 1))
        attempt = bench.driver.latest(name)
        for at in range(3):
            given = workers_pb2.AttemptLogs(
                workflow_id="w", task_id=attempt.task_id, fencing_token=attempt.fencing_token,
                lines=lines(f"{name}{at}a", f"{name}{at}b"),
            )
            reply = await stubs.workers.AddTaskLogs(workers_pb2.AddTaskLogsRequest(logs=given))
            assert reply.verdict.verdict == workers_pb2.VERDICT_ACCEPTED
        bench.driver.give(name)
    everything = await logged(stubs)
    assert everything[:3] == ["pay0a", "pay0b", "pay1a"] and len(everything) == 12
    token, found = "", []
    for _ in range(3):
        request = pb.GetTaskLogsRequest(workflow_id="w", page=PageRequest(size=5, token=token))
        reply = await stubs.workflows.GetTaskLogs(request)
        found += [line.text for line in reply.lines]
        token = reply.next_token
    assert (found, token) == (everything, "")
    assert await logged(stubs, reference="ship") == everything[6:]
    assert await logged(stubs, task_id=bench.driver.latest("pay").task_id) == everything[:6]
    assert await field_refused(
        stubs.workflows.GetTaskLogs(pb.GetTaskLogsRequest(workflow_id="w", page=PageRequest(token="x")))
    ) == "page.token"
    bench.go_cold()
    assert await logged(stubs) == everything


async def test_what_is_too_much_is_cut_and_told(bench: Bench, stubs: Stubs) -> None:
    bench.start()
    bench.apply(commands.PollTasks("p", "default", "", "w", ("pay",), 1))
    attempt = bench.driver.latest("pay")
    named = {"workflow_id": "w", "task_id": attempt.task_id, "fencing_token": attempt.fencing_token}
    for texts in (["x" * 9_000] * 40, [str(number) for number in range(1_001)]):
        given = workers_pb2.AttemptLogs(**named, lines=lines(*texts))
        await stubs.workers.AddTaskLogs(workers_pb2.AddTaskLogsRequest(logs=given))
    reply = await stubs.workflows.GetTaskLogs(pb.GetTaskLogsRequest(workflow_id="w", page=PageRequest(size=1000)))
    assert [line.text for line in reply.lines] == [str(number) for number in range(1, 1_001)]
    assert reply.lines_dropped == 32
    unknown = workers_pb2.AttemptLogs(workflow_id="w", task_id="none", lines=lines("x"))
    verdict = (await stubs.workers.AddTaskLogs(workers_pb2.AddTaskLogsRequest(logs=unknown))).verdict
    assert verdict.verdict == workers_pb2.VERDICT_UNKNOWN


# --- running again


async def test_what_has_ended_is_restarted_and_rerun(bench: Bench, stubs: Stubs) -> None:
    bench.start()
    finish(bench)
    await stubs.workflows.RestartWorkflow(pb.RestartWorkflowRequest(workflow_id="w"))
    shown = (await stubs.workflows.GetWorkflow(pb.GetWorkflowRequest(workflow_id="w", include_tasks=True))).workflow
    assert (shown.status, shown.run) == (pb.WORKFLOW_STATUS_RUNNING, 2)
    error = await failure(stubs.workflows.RerunWorkflow(pb.RerunWorkflowRequest(workflow_id="w", task_id="x")))
    assert info_of(error).reason == "WORKFLOW_RUNNING"


async def test_a_rerun_takes_other_inputs(bench: Bench, stubs: Stubs) -> None:
    bench.start()
    finish(bench)
    request = pb.RerunWorkflowRequest(workflow_id="w", workflow_input=Payload(inline=b'{"k":2}'), correlation_id="c")
    await stubs.workflows.RerunWorkflow(request)
    shown = (await stubs.workflows.GetWorkflow(pb.GetWorkflowRequest(workflow_id="w"))).workflow
    assert (shown.input.inline, shown.correlation_id) == (b'{"k":2}', "c")
    request.workflow_input.inline = b"[]"
    error = await failure(stubs.workflows.RerunWorkflow(request))
    assert info_of(error).metadata["field"] == "workflow_input"


async def test_a_task_is_skipped(bench: Bench, stubs: Stubs) -> None:
    bench.start()
    await stubs.workflows.SkipTask(pb.SkipTaskRequest(workflow_id="w", reference="ship"))
    error = await failure(stubs.workflows.SkipTask(pb.SkipTaskRequest(workflow_id="w", reference="ship")))
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TASK_BEGUN")


async def test_what_is_waited_for_is_explained(bench: Bench, stubs: Stubs) -> None:
    bench.start()
    reply = await stubs.workflows.ExplainWorkflow(pb.ExplainWorkflowRequest(workflow_id="w"))
    [waiting] = reply.waiting
    assert (waiting.reference, waiting.waits_for) == ("pay", "a worker for 'pay': none is connected")
    finish(bench)
    reply = await stubs.workflows.ExplainWorkflow(pb.ExplainWorkflowRequest(workflow_id="w"))
    assert not reply.waiting


async def test_where_the_time_went_is_told(bench: Bench, stubs: Stubs) -> None:
    bench.start()
    bench.driver.wait(2_000)
    request = pb.GetWorkflowTimingRequest(workflow_id="w")
    running = await stubs.workflows.GetWorkflowTiming(request)
    assert [(share.kind, share.milliseconds) for share in running.shares] == [(pb.TIME_KIND_QUEUE, 2_000)]
    [one] = running.attempts
    assert (one.reference, one.attempt, one.HasField("leased"), one.HasField("ended")) == ("pay", 1, False, False)
    finish(bench)
    bench.driver.wait(60_000)
    ended = await stubs.workflows.GetWorkflowTiming(request)
    assert ended.until.ToMilliseconds() - ended.began.ToMilliseconds() == 2_000
    assert ended.attempts[0].leased.ToMilliseconds() == ended.attempts[0].ended.ToMilliseconds()
    error = await failure(stubs.workflows.GetWorkflowTiming(pb.GetWorkflowTimingRequest(workflow_id="no")))
    assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_a_migration_is_tried_dry(bench: Bench, stubs: Stubs) -> None:
    bench.start()
    dry = pb.MigrateWorkflowRequest(workflow_id="w", dry_run=True)
    assert not (await stubs.workflows.MigrateWorkflow(dry)).obstacles
    dry.version = 9
    assert (await failure(stubs.workflows.MigrateWorkflow(dry))).code() is grpc.StatusCode.NOT_FOUND
    finish(bench)
    error = await failure(stubs.workflows.MigrateWorkflow(pb.MigrateWorkflowRequest(workflow_id="w", version=9)))
    assert error.code() is grpc.StatusCode.NOT_FOUND


async def test_messages_are_pushed_into_the_queue(bench: Bench, stubs: Stubs) -> None:
    bench.start()
    request = pb.PushMessageRequest(workflow_id="w", payload=Payload(inline=b'{"n":1}'))
    first, second = [await stubs.workflows.PushMessage(request) for _ in range(2)]
    assert first.message_id and first.message_id != second.message_id
    request.payload.inline = b"[]"
    error = await failure(stubs.workflows.PushMessage(request))
    assert (error.code(), info_of(error).metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "payload")
    finish(bench)
    request.payload.inline = b"{}"
    error = await failure(stubs.workflows.PushMessage(request))
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.FAILED_PRECONDITION, "WORKFLOW_ENDED")
    request.workflow_id = "nobody"
    assert (await failure(stubs.workflows.PushMessage(request))).code() is grpc.StatusCode.NOT_FOUND
