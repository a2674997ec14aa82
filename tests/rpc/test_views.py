"""Rows as messages: every name has its number, nothing is left out, absent stays absent."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.engine import queries
from orchestrator.engine.model import CompensationState, TaskStatus, WorkflowStatus
from orchestrator.engine.results import Verdict
from orchestrator.engine.secret_commands import PutSecret
from orchestrator.rpc import views
from orchestrator.rpc.handing_out import HandOut
from orchestrator.rpc.runtime_metadata import Environment
from orchestrator_api.v1 import workers_pb2, workflows_pb2
from tests.engine.driver import Driver, simple, workflow
from tests.rpc.bench import Bench, nothing


def test_every_status_is_that_of_the_same_name_and_number() -> None:
    for rows, messages, prefix in (
        (TaskStatus, workflows_pb2.TaskStatus, "TASK_STATUS"),
        (WorkflowStatus, workflows_pb2.WorkflowStatus, "WORKFLOW_STATUS"),
        (CompensationState, workflows_pb2.CompensationState, "COMPENSATION_STATE"),
        (Verdict, workers_pb2.Verdict, "VERDICT"),
    ):
        expected = {f"{prefix}_{each.name}": int(each) for each in rows} | {f"{prefix}_UNSPECIFIED": 0}
        assert dict(messages.items()) == expected


@pytest.mark.parametrize("time_ms", [1, 999, 1000, 1_750_000_000_123])
def test_times_keep_their_milliseconds(time_ms: int) -> None:
    made = views.timestamp(time_ms)
    assert made is not None and made.ToMilliseconds() == time_ms


def test_never_and_nothing_are_absent() -> None:
    assert views.timestamp(0) is None
    assert views.payload(b"") is None


@pytest.fixture
def driver() -> Driver:
    made = Driver()
    made.register_task(name="book", ownerEmail="a@example.com", retryCount=0, timeoutSeconds=0)
    made.register_task(name="pay", ownerEmail="a@example.com", retryCount=0, timeoutSeconds=30)
    made.register(
        workflow("order", simple("book", undo="unbook", inputParameters={"seat": "${workflow.input.seat}"}),
                 simple("pay", undo="refund"))
    )
    made.worker("s", "book", "pay", "unbook", "refund", slots=5)
    made.start("order", "w", b'{"seat":"4A","big":"' + b"x" * 9000 + b'"}', correlation_id="c", priority=3)
    return made


def view(driver: Driver) -> workflows_pb2.Workflow:
    return views.workflow(driver.state, driver.hot(), include_tasks=True)


def test_an_execution_under_way(driver: Driver) -> None:
    made = view(driver)
    assert (made.workflow_id, made.namespace, made.name, made.version) == ("w", "default", "order", 1)
    assert (made.correlation_id, made.priority, made.run) == ("c", 3, 1)
    assert len(made.input.inline) > 9000 and not made.HasField("output") and not made.HasField("end_time")
    assert made.compensation.state == workflows_pb2.COMPENSATION_STATE_NONE
    (book,) = made.tasks
    assert (book.reference, book.type, book.sequence, book.worker_id) == ("book", "SIMPLE", 1, "worker-s")
    assert book.input.inline == b'{"seat":"4A"}'
    assert book.fencing_token and book.idempotency_key and book.HasField("start_time")


def test_what_a_worker_is_handed(driver: Driver) -> None:
    driver.give("book", b'{"booking":7}')
    token = driver.latest("pay").fencing_token
    made = views.assignment(driver.state, driver.hot(), token, nothing(driver))
    assert made is not None
    assert (made.name, made.workflow_name, made.correlation_id, made.timeout_ms) == ("pay", "order", "c", 30_000)
    assert not made.HasField("compensation") and not made.HasField("heartbeat_details")
    assert views.assignment(driver.state, driver.hot(), token + 99, nothing(driver)) is None


def test_a_compensation_says_what_it_undoes(driver: Driver) -> None:
    driver.give("book", b'{"booking":7}')
    driver.fail("pay", "no money")
    made = view(driver)
    assert (made.status, made.failed_task) == (workflows_pb2.WORKFLOW_STATUS_COMPENSATING, "pay")
    assert [step.reference for step in made.compensation.left] == ["book"]
    undoing = driver.undoing("book")
    given = views.assignment(driver.state, driver.hot(), undoing.fencing_token, nothing(driver))
    assert given is not None
    undone = given.compensation
    assert (undone.reference, undone.step_name, undone.outcome_unknown) == ("book", "book", False)
    assert undone.step_input.inline == b'{"seat":"4A"}' and undone.step_output.inline == b'{"booking":7}'
    assert undone.step_idempotency_key == driver.latest("book").idempotency_key != given.idempotency_key
    driver.give(undoing)
    ended = view(driver)
    assert (ended.status, ended.reason != "") == (workflows_pb2.WORKFLOW_STATUS_FAILED, True)
    assert ended.compensation.state == workflows_pb2.COMPENSATION_STATE_COMPLETE
    assert [step.reference for step in ended.compensation.done] == ["book"] and not ended.compensation.left
    assert [task.compensates for task in ended.tasks] == ["", "", "book"]
    assert ended.HasField("end_time")


def test_a_summary_has_no_payloads_and_no_tasks(driver: Driver) -> None:
    made = views.summary(driver.header())
    assert not made.tasks and not made.HasField("input") and not made.definition_json
    assert made.workflow_id == "w" and made.HasField("start_time")


def test_an_attempt_is_handed_out_with_all_that_its_view_has(monkeypatch: pytest.MonkeyPatch) -> None:
    step = queries.StepView("pay", "pay", 1, b"{}", b"{}", False, "k")
    view = queries.AssignmentView(
        namespace="n", workflow_id="w", workflow_name="order", correlation_id="c", task_id="t", fencing_token=1,
        idempotency_key="i", name="a", reference="r", iteration=1, retry_count=1, timeout_ms=1,
        input=b'{"k":"${workflow.secrets.A}"}', secrets=(5,),
        response_timeout_ms=1, heartbeat_details=b"{}", scheduled_ms=1_001, compensation=step, kind="k",
        parameters=b"{}", queue="q", runtime_metadata=("KEY",), trace="00-a-b-01",
    )
    monkeypatch.setattr(queries, "assignment_view", lambda *given: view)
    held: Any = SimpleNamespace(execution=SimpleNamespace(blobs=()))
    frame = workers_pb2.WorkAssignments()
    bench = Bench()
    bench.driver.ok(PutSecret("n", "A", 1, *bench.secrets.seal("n", "A", 1, b"hunter2")))
    hand_out = HandOut(lambda: bench.driver.state, bench.secrets, Environment({"X_KEY": "v" * 9_000}, "X_"))
    assert views.add_assignment(frame.assignments, held, held, 1, hand_out) > 9_000
    assert frame.assignments[0] == views.assignment(held, held, 1, hand_out)
    assert frame.assignments[0].input.inline == b'{"k":"hunter2"}'
    told = {field.name for field, _ in frame.assignments[0].ListFields()}
    assert told == set(workers_pb2.Assignment.DESCRIPTOR.fields_by_name)
