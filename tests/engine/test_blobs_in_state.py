"""Values outside the log: who uses them, when they may go, and that nothing is lost that somebody refers to."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest

from orchestrator.engine import behaviour, commands, limits
from orchestrator.engine.blob_commands import BlobsDeleted, DeleteBlobs, HeldBlob, HoldBlobs
from orchestrator.engine.blob_rows import BlobRow, BlobState
from orchestrator.engine.blobs import BlobRef, marker_of
from orchestrator.engine.choices import DeleteEffects, IfExists, PurgeRule, TerminateCompensation
from orchestrator.engine.model import Table, TaskStatus, WorkflowStatus
from orchestrator.engine.results import BlobsHeld, Code, Done, Judged, Rejected, Started, Verdict
from tests.engine.driver import Driver, simple, workflow

ONE = ("default", "w")


def ref(content: str) -> BlobRef:
    data = content.encode()
    return BlobRef("shared", hashlib.sha256(data).hexdigest(), len(data))


def marker(content: str) -> bytes:
    return marker_of(ref(content))


def big(content: str) -> bytes:
    """A payload whose field `big` is outside."""
    return b'{"n":1,"big":%b}' % marker(content)


def held(*contents: str) -> HoldBlobs:
    refs = [ref(content) for content in contents]
    return HoldBlobs(tuple(HeldBlob(one.store, one.sha256, one.size) for one in refs))


def row(driver: Driver, content: str) -> BlobRow | None:
    number = driver.state.blobs.number_of("shared", ref(content).sha256)
    return driver.state.resident[Table.BLOB].get((number,))


def state_of(driver: Driver, content: str) -> tuple[BlobState, int] | None:
    found = row(driver, content)
    return None if found is None else (found.state, found.uses)


LIVE, DELETING = BlobState.LIVE, BlobState.DELETING


@pytest.fixture
def driver() -> Driver:
    driver = Driver(level=behaviour.STREAMS)
    driver.register(
        workflow("one", simple("a", inputParameters={"given": "${workflow.input.big}"}), timeoutSeconds=0),
        workflow("two", simple("a"), simple("b", inputParameters={"given": "${a.output.big}"})),
    )
    driver.worker("s", "a", "b", "c", "undo_a", slots=9)
    return driver


def begin(driver: Driver, content: str = "x", name: str = "one", workflow_id: str = "w") -> Any:
    driver.ok(held(content))
    return driver.start(name, workflow_id, big(content))


def delete(driver: Driver, workflow_id: str = "w") -> None:
    driver.now_ms += 1
    if driver.header(workflow_id).status is WorkflowStatus.RUNNING:
        driver.ok(commands.TerminateWorkflow("default", workflow_id, "", TerminateCompensation.SKIP))
    driver.ok(commands.DeleteWorkflow("default", workflow_id, DeleteEffects.KEEP))


def collect(driver: Driver) -> None:
    """As the collector does it."""
    driver.ok(DeleteBlobs(tuple(driver.state.blobs.unused_numbers())))
    driver.ok(BlobsDeleted(tuple(driver.state.blobs.doomed_numbers())))


def test_commands_and_rows_come_with_the_level() -> None:
    assert {behaviour.level_needed(one) for one in (held("x"), DeleteBlobs((1,)), BlobsDeleted((1,)))} == {2}
    driver = Driver()
    driver.register(workflow("one", simple("a", inputParameters={"given": "${workflow.input.big.store}"})))
    assert driver.start("one", given=b'{"big":{"store":1,"$blob":2}}') == Started("w", False)
    assert driver.start("one", "w2", given=big("x")) == Started("w2", False)
    assert not driver.header("w2").blobs
    assert all(table is not Table.BLOB for table, _ in driver.rows())


def test_a_use_begins_with_the_payload_and_ends_with_the_execution(driver: Driver) -> None:
    begin(driver)
    assert state_of(driver, "x") == (LIVE, 1)
    assert driver.header().blobs == (1,)
    # It is handed on whole, and used once.
    assert b'"given":' + marker("x") in driver.hot().load(driver.latest("a").input)
    driver.ok(held("y"))
    driver.give("a", big("y"))
    assert driver.header().status is WorkflowStatus.COMPLETED
    assert driver.hot().load(driver.header().output) == big("y")
    assert driver.header().blobs == (1, 2)
    other = driver.restart()
    assert other.header().blobs == (1, 2)
    assert (other.state.blobs.live, other.state.blobs.unused) == (2, 0)
    delete(driver)
    assert (state_of(driver, "x"), state_of(driver, "y")) == ((LIVE, 0), (LIVE, 0))


def test_what_is_shared_stays_until_the_last_is_gone(driver: Driver) -> None:
    begin(driver)
    begin(driver, workflow_id="w2")
    assert state_of(driver, "x") == (LIVE, 2)
    delete(driver)
    driver.wait(2 * limits.BLOB_UNUSED_MS)
    collect(driver)
    assert state_of(driver, "x") == (LIVE, 1)
    delete(driver, "w2")
    collect(driver)
    assert state_of(driver, "x") == (LIVE, 0), "it is unused for a moment only"
    driver.wait(limits.BLOB_UNUSED_MS)
    collect(driver)
    assert row(driver, "x") is None


def test_what_is_held_is_kept_for_a_while_and_can_be_held_again(driver: Driver) -> None:
    driver.ok(held("x"))
    driver.wait(limits.BLOB_UNUSED_MS - 1)
    collect(driver)
    assert driver.do(held("x")) == BlobsHeld()
    driver.wait(limits.BLOB_UNUSED_MS - 1)
    collect(driver)
    assert state_of(driver, "x") == (LIVE, 0)
    driver.wait(1)
    driver.ok(DeleteBlobs((1,)))
    assert state_of(driver, "x") == (DELETING, 0)
    assert driver.do(held("y", "x")) == BlobsHeld((1,))
    driver.ok(BlobsDeleted((1,)))
    assert row(driver, "x") is None
    assert driver.do(held("x")) == BlobsHeld()
    assert row(driver, "x").number == 3


def refused(driver: Driver, command: Any) -> tuple[Code, str]:
    result = driver.do(command)
    assert isinstance(result, Rejected), result
    return result.code, result.reason


GONE = (Code.RESOURCE_EXHAUSTED, "BLOB_BEING_DELETED")


def test_nothing_can_refer_to_what_is_being_deleted(driver: Driver) -> None:
    begin(driver, "kept")
    attempt = driver.latest("a")
    driver.ok(held("x"))
    driver.wait(limits.BLOB_UNUSED_MS)
    driver.ok(DeleteBlobs((2,)))
    wanted = [
        commands.StartWorkflow("default", "one", 0, "w2", IfExists.FAIL, big("x")),
        commands.CompleteTask(
            *ONE, attempt.task_id, attempt.fencing_token, TaskStatus.COMPLETED, big("x"), "", ""
        ),
        commands.SignalWorkflow(*ONE, "s", big("x")),
        commands.PushMessage(*ONE, big("x")),
        commands.UpdateVariables(*ONE, big("x")),
        commands.UpdateTask(*ONE, "a", TaskStatus.COMPLETED, big("x")),
        commands.SkipTask(*ONE, "z", big("x")),
    ]
    assert [refused(driver, command) for command in wanted] == [GONE] * len(wanted)
    driver.ok(BlobsDeleted((2,)))
    assert row(driver, "x") is None
    assert [refused(driver, command) for command in wanted] == [GONE] * len(wanted)
    driver.ok(commands.TerminateWorkflow(*ONE, "", TerminateCompensation.SKIP))
    for field in ("workflow_input", "task_input"):
        again = commands.RerunWorkflow(*ONE, task_id=attempt.task_id, **{field: big("x")})
        assert refused(driver, again) == GONE
    # It is put once more, and said again.
    driver.ok(held("x"))
    assert driver.do(wanted[0]) == Started("w2", False)


def test_a_refusal_for_that_is_not_remembered(driver: Driver) -> None:
    request = commands.RequestIdentity("01HF7YAT00" + "0" * 16)
    command = commands.StartWorkflow("default", "one", 0, "w2", IfExists.FAIL, big("x"))
    assert isinstance(driver.entry((command, request))[0], Rejected)
    driver.ok(held("x"))
    assert driver.entry((command, request))[0] == Started("w2", False)


def only(driver: Driver, command: Any) -> None:
    """The command, and nothing of what it sends."""
    driver.index += 1
    driver.machine.begin_entry(driver.index, 1, driver.now_ms)
    result = driver.machine.apply(command).result
    assert not isinstance(result, Rejected), result
    driver.machine.end_entry(b"")


def test_what_is_under_way_keeps_what_it_refers_to(driver: Driver) -> None:
    given = {"startWorkflow": {"name": "one", "workflowId": "late", "input": {"big": "${workflow.input.big}"}}}
    go = {"name": "go", "taskReferenceName": "go", "type": "START_WORKFLOW", "inputParameters": given}
    driver.register(workflow("parent", go))
    driver.ok(held("x"))
    only(driver, commands.StartWorkflow("default", "parent", 0, "w", IfExists.FAIL, big("x")))
    (sent,) = (number for (number,) in driver.state.messages)
    driver.verify()
    # As if the execution that has sent it had gone since, and an hour.
    header = driver.header()
    driver.hot().execution = msgspec.structs.replace(header, blobs=())
    kept = row(driver, "x")
    assert kept is not None
    gone = msgspec.structs.replace(kept, uses=0, behind=sent + 1, changed_ms=driver.now_ms)
    driver.state.write(Table.BLOB, (1,), gone)
    driver.now_ms += limits.BLOB_UNUSED_MS
    only(driver, DeleteBlobs((1,)))
    assert state_of(driver, "x") == (LIVE, 0)
    driver.check = False  # of the sender is left what should have gone
    driver.ok(commands.Continue())
    assert driver.header("late").blobs == (1,)
    assert state_of(driver, "x") == (LIVE, 1)


def test_what_is_under_way_since_then_keeps_nothing(driver: Driver) -> None:
    begin(driver)
    delete(driver)
    wait = {"name": "p", "taskReferenceName": "p", "type": "SUB_WORKFLOW", "subWorkflowParam": {"name": "one"}}
    driver.register(workflow("parent", wait))
    driver.now_ms += limits.BLOB_UNUSED_MS
    only(driver, commands.StartWorkflow("default", "parent", 0, "w2", IfExists.FAIL, b"{}"))
    assert driver.state.messages
    only(driver, DeleteBlobs((1,)))
    assert state_of(driver, "x") == (DELETING, 0)


@pytest.mark.parametrize(
    ("expression", "shown"),
    [
        ("${workflow.input.big.inner}", "${workflow.input.big.inner}"),
        ("${workflow.input.big.length()}", "${workflow.input.big.length()}"),
        ("${workflow.input..inner}", "${workflow.input..inner}"),
        ("${workflow.input.list[*].inner}", "${workflow.input.list.*.inner}"),
        ("text with ${workflow.input.big}", "${workflow.input.big}"),
        ("${workflow.input.list[0].x.${workflow.input.big}}", "${workflow.input.big}"),
    ],
)
def test_a_path_into_it_fails_the_task_and_says_which(driver: Driver, expression: str, shown: str) -> None:
    driver.register(workflow("into", simple("a", inputParameters={"x": expression})))
    driver.ok(held("x"))
    given = b'{"big":%b,"list":[%b]}' % (marker("x"), marker("x"))
    assert driver.start("into", given=given) == Started("w", False)
    failed = driver.latest("a")
    assert failed.status is TaskStatus.FAILED_WITH_TERMINAL_ERROR
    assert (failed.error_code, failed.input) == ("LIMIT_EXCEEDED", b"{}")
    expected = f"{shown} looks into a value that is kept outside the log"
    assert failed.reason.startswith(expected)


@pytest.mark.parametrize("expression", ["${workflow.input.big}", "${workflow.input}", "${workflow.input.list[*]}",
                                        "${workflow.input.list.length()}", "${workflow.input.n}"])
def test_what_does_not_look_inside_goes_on(driver: Driver, expression: str) -> None:
    driver.register(workflow("whole", simple("a", inputParameters={"x": expression})))
    driver.ok(held("x"))
    driver.start("whole", given=b'{"n":1,"big":%b,"list":[%b]}' % (marker("x"), marker("x")))
    assert driver.latest("a").status is TaskStatus.IN_PROGRESS


OPERATORS: dict[str, dict[str, Any]] = {
    "SWITCH": {"evaluatorType": "value-param", "expression": "x", "decisionCases": {"1": [simple("a")]}},
    "WAIT": {"inputParameters": {"duration": "${workflow.input.big}"}},
    "EVENT": {"sink": "conductor:e"},
    "DYNAMIC": {"dynamicTaskNameParam": "x"},
    "START_WORKFLOW": {"inputParameters": {"startWorkflow": {"name": "one", "input": "${workflow.input.big}"}}},
    "FORK_JOIN_DYNAMIC": {
        "inputParameters": {"tasks": "${workflow.input.big}", "inputs": {}},
        "dynamicForkTasksParam": "tasks", "dynamicForkTasksInputParamName": "inputs",
    },
    "TERMINATE": {"inputParameters": {"terminationStatus": "COMPLETED", "workflowOutput": "${workflow.input.big}"}},
}


@pytest.mark.parametrize("kind", OPERATORS)
def test_an_operator_that_would_look_inside_fails(driver: Driver, kind: str) -> None:
    task = {"name": "t", "taskReferenceName": "t", "type": kind, "inputParameters": {"x": "${workflow.input.big}"}}
    tasks = [{**task, **OPERATORS[kind]}]
    if kind == "FORK_JOIN_DYNAMIC":
        tasks.append({"name": "j", "taskReferenceName": "j", "type": "JOIN"})
    driver.register(workflow("operated", *tasks))
    begin(driver, name="operated")
    failed = driver.latest("t")
    assert failed.status in (TaskStatus.FAILED, TaskStatus.FAILED_WITH_TERMINAL_ERROR)
    assert "kept outside the log" in failed.reason
    assert driver.header().status is WorkflowStatus.FAILED
    assert not driver.state.resident[Table.EVENT]


@pytest.mark.parametrize("key", ["${workflow.input.big.customer}", "${workflow.input.big}", "c ${workflow.input.big}"])
def test_a_rate_limit_whose_key_is_outside_lets_nothing_begin(driver: Driver, key: str) -> None:
    limit = {"rateLimitKey": key, "concurrentExecLimit": 1}
    driver.register(workflow("limited", simple("a"), rateLimitConfig=limit))
    driver.ok(held("x"))
    start = commands.StartWorkflow("default", "limited", 0, "w", IfExists.FAIL, big("x"))
    assert refused(driver, start) == (Code.INVALID_ARGUMENT, "INPUT_INVALID")
    inside = {"rateLimitKey": "${workflow.input.n}", "concurrentExecLimit": 1}
    driver.register(workflow("other", simple("a"), rateLimitConfig=inside))
    assert begin(driver, name="other") == Started("w", False)
    assert driver.header().group_key == "1"


def test_a_marker_that_something_was_merged_with_is_none(driver: Driver) -> None:
    driver.ok(held("x"))
    broken = b'{"big":' + marker("x")[:-1] + b',"more":1}}'
    assert refused(driver, commands.StartWorkflow("default", "one", 0, "w", IfExists.FAIL, broken)) == (
        Code.INVALID_ARGUMENT, "PAYLOAD_INVALID")
    # Neither can a whole payload be outside.
    whole = commands.StartWorkflow("default", "one", 0, "w", IfExists.FAIL, marker("x"))
    assert refused(driver, whole) == (Code.INVALID_ARGUMENT, "INPUT_INVALID")


def test_what_a_task_announces_goes_without_it(driver: Driver) -> None:
    told = {"onSuccess": [{"type": "done", "payload": {"all": "${a.output}"}}]}
    driver.register(workflow("tells", simple("a", onStateChange=told)))
    handler = {"name": "h", "event": "conductor:tells:done", "active": True, "condition": "true", "actions": [
        {"action": "start_workflow", "start_workflow": {"name": "one"}}]}
    driver.ok(commands.PutEventHandler("default", msgspec.json.encode(handler)))
    driver.start("tells")
    driver.ok(held("x"))
    driver.give("a", big("x"))
    (event,) = driver.state.resident[Table.EVENT].values()
    assert b'"payloadOmitted":true' in event.payload
    assert b"$blob" not in event.payload


def test_an_event_that_unfolds_to_a_marker_does_nothing(driver: Driver) -> None:
    begin(driver)
    action = {"action": "update_workflow_variables", "expandInlineJSON": True,
              "update_workflow_variables": {"workflowId": "w", "variables": {"a": "${v}"}}}
    handler = {"name": "h", "event": "e", "active": True, "actions": [action]}
    driver.ok(commands.PutEventHandler("default", msgspec.json.encode(handler)))
    payload = msgspec.json.encode({"v": '{"stolen":' + marker("x").decode() + "}"})
    driver.ok(commands.PublishEvent("default", "e", "", payload))
    (run,) = driver.state.resident[Table.EVENT_RUN].values()
    assert "reserved" in run.reason
    assert driver.header().variables == b"{}"


def test_a_child_has_what_its_parent_gives_it_and_gives_it_back(driver: Driver) -> None:
    given = {"big": "${workflow.input.big}"}
    call = {"name": "p", "taskReferenceName": "p", "type": "SUB_WORKFLOW", "subWorkflowParam": {"name": "one"}}
    driver.register(workflow("parent", {**call, "inputParameters": given}, timeoutSeconds=0))
    begin(driver, name="parent")
    child = driver.latest("p").child
    assert state_of(driver, "x") == (LIVE, 2)
    driver.ok(held("y"))
    driver.give("a", big("y"), workflow_id=child)
    assert driver.header().status is WorkflowStatus.COMPLETED
    assert state_of(driver, "y") == (LIVE, 2)
    delete(driver)
    assert driver.is_gone(child)
    assert (state_of(driver, "x"), state_of(driver, "y")) == ((LIVE, 0), (LIVE, 0))


@pytest.mark.parametrize("again", ["restart", "rerun", "retry"])
def test_another_run_has_all_that_the_first_had(driver: Driver, again: str) -> None:
    begin(driver, name="two")
    driver.ok(held("y"))
    driver.give("a", big("y"))
    driver.give("b", status=TaskStatus.FAILED_WITH_TERMINAL_ERROR)
    assert driver.header().status is WorkflowStatus.FAILED
    driver.wait(2 * limits.BLOB_UNUSED_MS)
    collect(driver)
    driver.ok({
        "restart": commands.RestartWorkflow(*ONE),
        "rerun": commands.RerunWorkflow(*ONE, task_id=driver.latest("b").task_id),
        "retry": commands.RetryWorkflow(*ONE),
    }[again])
    assert (state_of(driver, "x"), state_of(driver, "y")) == ((LIVE, 1), (LIVE, 1))
    if again != "restart":
        assert driver.hot().load(driver.latest("b").input) == b'{"given":%b}' % marker("y")
    delete(driver)
    driver.wait(limits.BLOB_UNUSED_MS)
    collect(driver)
    assert row(driver, "x") is row(driver, "y") is None


def test_what_a_rerun_brings_is_kept_while_steps_are_undone_first(driver: Driver) -> None:
    driver.register(workflow("saga", simple("a", "undo_a"), simple("b")))
    driver.start("saga")
    driver.give("a")
    task_id = driver.latest("a").task_id
    driver.ok(commands.TerminateWorkflow(*ONE, "", TerminateCompensation.SKIP))
    driver.ok(held("x"))
    rerun = commands.RerunWorkflow(*ONE, task_input=big("x"), task_id=task_id, effects=DeleteEffects.COMPENSATE_FIRST)
    driver.ok(rerun)
    assert driver.header().status is WorkflowStatus.COMPENSATING
    driver.wait(2 * limits.BLOB_UNUSED_MS)
    collect(driver)
    driver.give(driver.undoing("a"))
    assert driver.hot().load(driver.latest("a").input) == big("x")


def test_what_is_purged_ends_its_uses(driver: Driver) -> None:
    begin(driver)
    driver.give("a")
    ended = driver.header().ended_ms
    driver.wait(8 * 24 * 3_600_000)
    item = commands.PurgeItem(*ONE, ended, PurgeRule.AGE)
    driver.ok(commands.PurgeExecutions((item,)))
    assert driver.is_gone("w")
    assert state_of(driver, "x") == (LIVE, 0)


def test_a_cold_execution_uses_what_it_uses(driver: Driver) -> None:
    begin(driver)
    driver.flush()
    assert driver.state.evict(ONE)
    driver.check = False  # counts of uses are checked where all are in memory
    driver.wait(2 * limits.BLOB_UNUSED_MS)
    collect(driver)
    assert state_of(driver, "x") == (LIVE, 1)
    driver.check = True
    driver.hot()
    delete(driver)
    assert state_of(driver, "x") == (LIVE, 0)


def test_limits(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "BLOBS", 2)
    monkeypatch.setattr(limits, "EXECUTION_BLOBS", 1)
    driver.ok(held("x", "y"))
    assert refused(driver, held("x", "z")) == (Code.RESOURCE_EXHAUSTED, "BLOBS_FULL")
    given = b'{"a":%b,"b":%b}' % (marker("x"), marker("y"))
    assert refused(driver, commands.StartWorkflow("default", "one", 0, "w", IfExists.FAIL, given)) == (
        Code.INVALID_ARGUMENT, "INPUT_INVALID")
    driver.start("two", given=big("x"))
    answer = driver.give("a", big("y"))
    assert answer == Judged(Verdict.INVALID, "an execution refers to at most 1 values outside the log")
    for bad in (HeldBlob("a/b", "0" * 64, 1), HeldBlob("s", "0" * 63, 1), HeldBlob("s", "0" * 64, -1)):
        assert refused(driver, HoldBlobs((bad,)))[0] is Code.INVALID_ARGUMENT
    assert driver.do(DeleteBlobs((99,))) == driver.do(BlobsDeleted((99, 1))) == Done()


FORKS: dict[str, dict[str, Any]] = {
    "pair": {
        "dynamicForkTasksParam": "tasks", "dynamicForkTasksInputParamName": "inputs",
        "inputParameters": {
            "tasks": [{"name": "a", "taskReferenceName": "d", "type": "SIMPLE"}],
            "inputs": {"d": "${workflow.input.big}"},
        },
    },
    "spread": {"inputParameters": {"forkTaskName": "a", "forkTaskInputs": ["${workflow.input.big}"]}},
}


@pytest.mark.parametrize("form", FORKS)
def test_what_is_forked_with_a_value_for_its_whole_input_fails_and_says_why(driver: Driver, form: str) -> None:
    fork = {"name": "f", "taskReferenceName": "f", "type": "FORK_JOIN_DYNAMIC", **FORKS[form]}
    driver.register(workflow("forks", fork, {"name": "j", "taskReferenceName": "j", "type": "JOIN"}))
    begin(driver, name="forks")
    failed = [one for one in driver.hot().tasks.values() if "can only be passed on whole, in a field" in one.reason]
    assert [one.name for one in failed] == ["a"] and not failed[0].fencing_token
    assert driver.header().status is WorkflowStatus.FAILED
