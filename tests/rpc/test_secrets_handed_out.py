"""Secrets and attempts: who gets a value, what happens for want of one, and that none comes back."""

from __future__ import annotations

import json
import logging
from typing import Any

import grpc
import pytest

from orchestrator.engine.commands import CompleteTask, RecordHeartbeat
from orchestrator.engine.model import TaskAttempt, TaskStatus
from orchestrator.engine.secret_commands import DeleteSecret, PutSecret
from orchestrator.rpc import handing_out
from orchestrator.rpc.handing_out import HandOut
from orchestrator.sealing.keys import KEY_BYTES
from orchestrator_api.v1 import workers_pb2 as pb
from orchestrator_api.v1 import workflows_pb2
from orchestrator_api.v1.common_pb2 import Payload
from tests.engine.driver import simple, workflow
from tests.rpc.attempts import result
from tests.rpc.bench import Bench, Stubs, Worker, until
from tests.rpc.test_secrets import failure, lines

VALUE = "hunter2-of-the-bank"
BANK = "${workflow.secrets.BANK}"


def put(bench: Bench, value: str = VALUE, name: str = "BANK") -> None:
    row = bench.driver.state.resident
    old = bench.driver.state.resident[next(table for table in row if table.name == "SECRET")].get(("default", name))
    version = 1 if old is None else old.version + 1
    sealed = bench.secrets.seal("default", name, version, value.encode())
    bench.driver.ok(PutSecret("default", name, version, *sealed))


def order(bench: Bench, **fields: Any) -> None:
    inputs = {"auth": f"Bearer {BANK}", "id": "${workflow.input.id}"}
    bench.driver.register(workflow("order", simple("pay", inputParameters=inputs, **fields), simple("ship")))


@pytest.fixture
def bench(bench: Bench) -> Bench:
    put(bench)
    order(bench)
    return bench


def first(bench: Bench) -> TaskAttempt:
    """The first attempt, whether another follows or not."""
    return bench.driver.hot("w1").tasks[1]


def given(assignment: pb.Assignment) -> Any:
    return json.loads(assignment.input.inline)


async def test_a_worker_gets_the_value_and_nobody_else(
    bench: Bench, stubs: Stubs, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    worker = Worker(stubs)
    await worker.hello("pay", "ship")
    bench.start("w1", json.dumps({"id": BANK}).encode())
    (paying,) = await worker.assigned()
    assert given(paying) == {"auth": f"Bearer {VALUE}", "id": BANK}
    assert not paying.secret_values
    shown = await stubs.workflows.GetWorkflow(workflows_pb2.GetWorkflowRequest(workflow_id="w1", include_tasks=True))
    assert json.loads(shown.workflow.tasks[0].input.inline)["auth"] == f"Bearer {BANK}"
    bench.driver.flush()
    for written in (repr(shown), repr(bench.submitted), repr(bench.driver.database), caplog.text):
        assert VALUE not in written


async def test_a_poller_gets_it_too(bench: Bench, stubs: Stubs) -> None:
    bench.start("w1", b'{"id":1}')
    polled = await stubs.workers.PollTasks(pb.PollTasksRequest(worker_id="p", task_names=["pay"]))
    assert [given(each)["auth"] for each in polled.assignments] == [f"Bearer {VALUE}"]


async def test_each_attempt_gets_the_value_of_its_time(bench: Bench, stubs: Stubs) -> None:
    order(bench, taskDefinition={"name": "pay", "retryDelaySeconds": 0})
    worker = Worker(stubs)
    await worker.hello("pay")
    bench.start("w1")
    (first,) = await worker.assigned()
    put(bench, "another-value")
    failed = result(first, status=workflows_pb2.TASK_STATUS_FAILED, reason="x")
    await worker.give(failed)
    (second,) = await worker.assigned()
    assert given(second)["auth"] == "Bearer another-value"


async def test_secrets_come_before_variables_where_runtime_metadata_names_them(bench: Bench, stubs: Stubs) -> None:
    bench.environment |= {"TASK_BANK": "of the environment", "TASK_OTHER": "other"}
    bench.driver.register_task(name="pay", runtimeMetadata=["BANK", "OTHER"])
    worker = Worker(stubs)
    await worker.hello("pay")
    bench.start("w1")
    (paying,) = await worker.assigned()
    assert dict(paying.runtime_metadata) == {"BANK": VALUE, "OTHER": "other"}


async def test_a_variable_of_the_environment_is_given_and_is_no_secret(bench: Bench, stubs: Stubs) -> None:
    bench.environment["TASK_REGION"] = "eu-central-1"
    inputs = {"at": "${workflow.env.REGION}", "of": "${workflow.input.of}"}
    bench.driver.register(workflow("order", simple("pay", inputParameters=inputs)))
    worker = Worker(stubs)
    await worker.hello("pay")
    bench.start("w1", json.dumps({"of": "${workflow.env.REGION}"}).encode())
    (paying,) = await worker.assigned()
    assert given(paying) == {"at": "eu-central-1", "of": "${workflow.env.REGION}"}
    assert json.loads(first(bench).input)["at"] == "${workflow.env.REGION}"  # type: ignore[arg-type]
    await worker.give(result(paying, output=Payload(inline=b'{"at":"eu-central-1"}')))
    await until("the result", lambda: first(bench).status is TaskStatus.COMPLETED)
    assert first(bench).output == b'{"at":"eu-central-1"}'


async def test_a_task_whose_variable_is_missing_fails(bench: Bench, stubs: Stubs) -> None:
    bench.driver.register(workflow("order", simple("pay", inputParameters={"at": "${workflow.env.REGION}"})))
    worker = Worker(stubs)
    await worker.hello("pay")
    bench.start("w1")
    await until("the attempt to fail", lambda: first(bench).status is TaskStatus.FAILED)
    assert first(bench).error_code == "ENVIRONMENT_MISSING" and "'REGION'" in first(bench).reason


# --- for want of a value


async def test_a_task_whose_secret_is_missing_fails_and_says_which(bench: Bench, stubs: Stubs) -> None:
    bench.driver.ok(DeleteSecret("default", "BANK"))
    worker = Worker(stubs)
    await worker.hello("pay", "ship", slots=1)
    bench.start("w1")
    await until("the attempt to fail", lambda: first(bench).status is TaskStatus.FAILED)
    attempt = first(bench)
    assert (attempt.error_code, attempt.outcome_unknown) == ("SECRET_MISSING", False)
    assert attempt.reason == "there is no secret 'BANK' in the namespace 'default'"
    # It has left the slot, and is tried again by its own policy.
    put(bench)
    bench.driver.wait(60_000)
    for effect in bench.driver.effects:
        bench.perform(effect)
    (paying,) = await worker.assigned()
    assert given(paying)["auth"] == f"Bearer {VALUE}"


async def test_a_poller_is_not_given_what_has_failed(bench: Bench, stubs: Stubs) -> None:
    bench.driver.ok(DeleteSecret("default", "BANK"))
    bench.start("w1")
    polled = await stubs.workers.PollTasks(pb.PollTasksRequest(worker_id="p", task_names=["pay"]))
    assert not polled.assignments
    assert first(bench).error_code == "SECRET_MISSING"


@pytest.mark.parametrize(
    ("value", "error_code", "why"),
    [
        ("no json", "SECRET_INVALID", "'BANK' is not JSON"),
        ('{"a":1}', "SECRET_INVALID", "'BANK' has no '.key'"),
    ],
)
async def test_a_secret_that_does_not_fit_fails_for_good(
    bench: Bench, stubs: Stubs, value: str, error_code: str, why: str
) -> None:
    put(bench, value)
    bench.driver.register(workflow("order", simple("pay", inputParameters={"k": "${workflow.secrets.BANK.key}"})))
    worker = Worker(stubs)
    await worker.hello("pay")
    bench.start("w1")
    failed = TaskStatus.FAILED_WITH_TERMINAL_ERROR
    await until("the attempt to fail", lambda: first(bench).status is failed)
    attempt = first(bench)
    assert attempt.error_code == error_code and why in attempt.reason and value not in attempt.reason


async def test_an_input_that_grows_beyond_its_limit_fails(bench: Bench, stubs: Stubs) -> None:
    put(bench, "x" * 16_384)
    bench.driver.register(workflow("order", simple("pay", inputParameters={"k": BANK * 20})))
    worker = Worker(stubs)
    await worker.hello("pay")
    bench.start("w1")
    failed = TaskStatus.FAILED_WITH_TERMINAL_ERROR
    await until("the attempt to fail", lambda: first(bench).status is failed)
    assert first(bench).error_code == "LIMIT_EXCEEDED"


async def lose_the_key(bench: Bench) -> None:
    await bench.change_keys(lines(b"x" * KEY_BYTES))


async def find_the_key(bench: Bench) -> None:
    await bench.change_keys(lines(b"k" * KEY_BYTES))


@pytest.fixture
def soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handing_out, "AGAIN_SECONDS", 0.01)


async def test_a_task_waits_while_this_node_can_not_read_its_secret(
    bench: Bench, stubs: Stubs, soon_again: None, caplog: pytest.LogCaptureFixture
) -> None:
    await lose_the_key(bench)
    worker = Worker(stubs)
    await worker.hello("pay", "ship", slots=2)
    bench.start("w1")
    await until("the warning", lambda: "can't read the secret 'BANK'" in caplog.text)
    assert first(bench).status is TaskStatus.IN_PROGRESS
    assert not bench.submitted_of(CompleteTask)
    await find_the_key(bench)
    (paying,) = await worker.assigned()
    assert given(paying)["auth"] == f"Bearer {VALUE}"


async def test_a_poller_is_told_and_the_task_waits(bench: Bench, stubs: Stubs) -> None:
    await lose_the_key(bench)
    bench.start("w1")
    request = pb.PollTasksRequest(worker_id="p", task_names=["pay"])
    code, info, message = await failure(stubs.workers.PollTasks(request))
    assert (code, info.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "SECRET_UNREADABLE")
    assert "'BANK'" in message
    assert (first(bench).status, first(bench).retry_count) == (TaskStatus.SCHEDULED, 0)
    await find_the_key(bench)
    assert not (await stubs.workers.PollTasks(request)).assignments
    bench.driver.wait(5_000)
    assert len((await stubs.workers.PollTasks(request)).assignments) == 1


async def test_what_is_not_wanted_any_more_does_not_wait(bench: Bench, stubs: Stubs, soon_again: None) -> None:
    await lose_the_key(bench)
    worker = Worker(stubs)
    await worker.hello("pay")
    bench.start("w1")
    await until("the attempt to be leased", lambda: first(bench).fencing_token)
    await stubs.workflows.TerminateWorkflow(workflows_pb2.TerminateWorkflowRequest(workflow_id="w1", reason="enough"))
    await until("the slot to be free", lambda: not bench.driver.state.leases)


# --- what a worker reports


async def test_a_value_does_not_come_back(bench: Bench, stubs: Stubs) -> None:
    worker = Worker(stubs)
    await worker.hello("pay")
    bench.start("w1")
    (paying,) = await worker.assigned()
    where = {"workflow_id": "w1", "task_id": paying.task_id, "fencing_token": paying.fencing_token}
    details = Payload(inline=json.dumps({"at": VALUE}).encode())
    await worker.say(heartbeat=pb.WorkHeartbeat(attempts=[pb.AttemptHeartbeat(**where, details=details)]))
    await worker.say(logs=pb.WorkLogs(attempts=[pb.AttemptLogs(**where, lines=[pb.LogLine(text=f"used {VALUE}")])]))
    await worker.give(
        result(
            paying,
            status=workflows_pb2.TASK_STATUS_FAILED,
            output=Payload(inline=json.dumps({"sent": [f"Bearer {VALUE}"], "n": 1}).encode()),
            reason=f"the bank says no to {VALUE}",
            logs=[pb.LogLine(text=f"again {VALUE}")],
        )
    )
    await until("the result", lambda: first(bench).status is TaskStatus.FAILED)
    attempt = first(bench)
    assert attempt.reason == "the bank says no to ***"
    assert attempt.output == b'{"sent":["Bearer ***"],"n":1}'
    bench.driver.flush()
    written = repr(bench.submitted) + repr(bench.driver.database)
    assert VALUE not in written and written.count("used ***") and written.count("again ***")


async def test_a_value_does_not_come_back_from_runtime_metadata_and_variables_may(bench: Bench, stubs: Stubs) -> None:
    bench.environment["TASK_URL"] = "https://bank.example"
    bench.driver.register(workflow("order", simple("pay")))
    bench.driver.register_task(name="pay", runtimeMetadata=["BANK", "URL"])
    worker = Worker(stubs)
    await worker.hello("pay")
    bench.start("w1")
    (paying,) = await worker.assigned()
    said = {"key": VALUE, "url": "https://bank.example/1"}
    await worker.give(result(paying, output=Payload(inline=json.dumps(said).encode())))
    await until("the result", lambda: first(bench).status is TaskStatus.COMPLETED)
    assert first(bench).output == b'{"key":"***","url":"https://bank.example/1"}'


async def test_a_poller_reports_no_value(bench: Bench, stubs: Stubs) -> None:
    bench.start("w1")
    polled = await stubs.workers.PollTasks(pb.PollTasksRequest(worker_id="p", task_names=["pay"]))
    paying = polled.assignments[0]
    where = {"workflow_id": "w1", "task_id": paying.task_id, "fencing_token": paying.fencing_token}
    logs = pb.AttemptLogs(**where, lines=[pb.LogLine(text=f"used {VALUE}")])
    await stubs.workers.AddTaskLogs(pb.AddTaskLogsRequest(logs=logs))
    done = result(paying, output=Payload(inline=json.dumps({"key": VALUE}).encode()))
    await stubs.workers.CompleteTask(pb.CompleteTaskRequest(result=done))
    assert first(bench).output == b'{"key":"***"}'
    assert VALUE not in repr(bench.submitted)


async def test_another_leader_does_not_take_it_back_either(bench: Bench, stubs: Stubs) -> None:
    worker = Worker(stubs)
    await worker.hello("pay", session_id="s")
    bench.start("w1")
    (paying,) = await worker.assigned()
    worker.call.cancel()
    # What was remembered is gone with the leader that handed it out.
    backend = bench.server_backend
    object.__setattr__(backend, "hand_out", HandOut(lambda: bench.driver.state, bench.secrets))
    bench.go_cold("w1")
    held = pb.HeldAttempt(workflow_id="w1", task_id=paying.task_id, fencing_token=paying.fencing_token)
    again = Worker(stubs)
    await again.hello("pay", session_id="s", held=[held])
    await again.give(result(paying, output=Payload(inline=json.dumps({"key": VALUE}).encode())))
    await again.verdicts()
    assert first(bench).output == b'{"key":"***"}'


async def test_what_is_said_again_when_it_counts_no_more_is_not_written(bench: Bench, stubs: Stubs) -> None:
    worker = Worker(stubs)
    await worker.hello("pay", session_id="s")
    bench.start("w1")
    (paying,) = await worker.assigned()
    said = result(paying, output=Payload(inline=json.dumps({"key": VALUE}).encode()), reason=VALUE)
    await worker.give(said)
    await worker.verdicts()
    await worker.give(said)
    where = {"workflow_id": "w1", "task_id": paying.task_id, "fencing_token": paying.fencing_token}
    await worker.say(logs=pb.WorkLogs(attempts=[pb.AttemptLogs(**where, lines=[pb.LogLine(text=f"used {VALUE}")])]))
    details = Payload(inline=json.dumps({"at": VALUE}).encode())
    await worker.say(heartbeat=pb.WorkHeartbeat(attempts=[pb.AttemptHeartbeat(**where, details=details)]))
    (verdict,) = await worker.verdicts()
    assert verdict.verdict == pb.VERDICT_ACCEPTED
    await stubs.workers.CompleteTask(pb.CompleteTaskRequest(result=said))
    await stubs.workers.AddTaskLogs(pb.AddTaskLogsRequest(logs=pb.AttemptLogs(**where, lines=[pb.LogLine(text=VALUE)])))
    await until("the heartbeat", lambda: bench.submitted_of(RecordHeartbeat))
    assert VALUE not in repr(bench.submitted)


async def test_what_was_given_is_forgotten_with_the_answer(bench: Bench, stubs: Stubs) -> None:
    worker = Worker(stubs)
    await worker.hello("pay")
    bench.start("w1")
    (paying,) = await worker.assigned()
    hand_out = bench.server_backend.hand_out
    assert hand_out.is_remembered(paying.fencing_token)
    await worker.give(result(paying))
    await worker.verdicts()
    assert not hand_out.is_remembered(paying.fencing_token)


async def test_what_workers_took_with_them_is_not_remembered_without_end(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from orchestrator.engine import queries

    monkeypatch.setattr(handing_out, "_REMEMBERED_MIN", 2)
    hand_out = bench.backend().hand_out
    bench.driver.worker("s", "pay", slots=9)
    for number in range(9):
        bench.start(f"w{number}")
        hot = bench.driver.hot(f"w{number}")
        view = queries.assignment_view(bench.driver.state, hot, bench.driver.latest("pay", f"w{number}").fencing_token)
        assert view is not None and hand_out.given(view) is not None
        bench.driver.give("pay", workflow_id=f"w{number}")
    assert len(hand_out._masks) <= 2
