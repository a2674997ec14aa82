"""One test per rule of `onStateChange`; the rule is its docstring."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from orchestrator.engine import limits
from orchestrator.engine.choices import DeadlineKind, IfExists, TerminateCompensation
from orchestrator.engine.commands import (
    CloseSession,
    CompleteTask,
    ExpireDeadline,
    PauseWorkflow,
    RetryWorkflow,
    SkipTask,
    StartWorkflow,
    TerminateWorkflow,
)
from orchestrator.engine.definitions.errors import DefinitionInvalid
from orchestrator.engine.definitions.parse import validate_workflow
from orchestrator.engine.model import Table, TaskStatus, WorkflowStatus
from tests.engine.driver import Driver, simple, workflow
from tests.requirements.elements import element, fork
from tests.requirements.listening import heard, listen

ALL = "onScheduled, onStart,onSuccess , onFailed,onCancelled"


@pytest.fixture
def driver() -> Driver:
    driver = Driver()
    listen(driver, "conductor:flow:t")
    return driver


def telling(payload: dict[str, Any] | None = None, changes: str = ALL) -> dict[str, Any]:
    return {"onStateChange": {changes: [{"type": "t", "payload": payload or {}}]}}


def begin(driver: Driver, *tasks: dict[str, Any], workers: tuple[str, ...] = ("a", "b"), **fields: Any) -> None:
    driver.register(workflow("flow", *tasks, **fields))
    if workers:
        driver.worker("s", *workers, slots=20)
    driver.start("flow")


def changes(driver: Driver) -> list[tuple[str, str, str]]:
    """(reference, change, status) of each that was told, in their order."""
    return [(told["referenceTaskName"], told["stateChange"], told["taskStatus"]) for _, told in heard(driver)]


def of(driver: Driver, reference: str) -> list[tuple[str, str]]:
    return [(change, status) for name, change, status in changes(driver) if name == reference]


# --- what is told


def test_a_change_is_an_event_of_the_workflow(driver: Driver) -> None:
    """It is named as an EVENT with the sink conductor:TYPE would name it, and has that payload, and what EVENT adds."""
    listen(driver, "conductor:flow:other")
    payload = {"of": "${workflow.input.x}", "said": "${a.output.said}", "workflowType": "mine"}
    told = [{"type": "t", "payload": payload}, {"type": "other"}]
    driver.register(workflow("flow", simple("a", onStateChange={"onSuccess": told})))
    driver.worker("s", "a")
    driver.start("flow", given=b'{"x":[1]}', correlation_id="c", task_to_domain=(("z", "eu"),))
    assert not heard(driver)
    driver.give("a", b'{"said":"yes"}')
    about = {
        "workflowInstanceId": "w",
        "workflowType": "flow",
        "workflowVersion": 1,
        "correlationId": "c",
        "taskToDomain": {"z": "eu"},
        "stateChange": "onSuccess",
        "taskId": driver.latest("a").task_id,
        "referenceTaskName": "a",
        "taskDefName": "a",
        "taskType": "SIMPLE",
        "taskStatus": "COMPLETED",
        "retryCount": 0,
        "iteration": 0,
        "reasonForIncompletion": None,
    }
    assert heard(driver) == [
        ("conductor:flow:t", {"of": [1], "said": "yes", **about}),
        ("conductor:flow:other", about),
    ]
    assert len({row.message_id for row in driver.state.resident[Table.EVENT].values()} - {""}) == 2


def test_a_task_that_completes(driver: Driver) -> None:
    """An attempt is scheduled, begins when a worker has it, and succeeds: each is told once."""
    begin(driver, simple("a", **telling()), workers=())
    assert of(driver, "a") == [("onScheduled", "SCHEDULED")]
    driver.worker("s", "a")
    driver.give("a")
    assert of(driver, "a") == [
        ("onScheduled", "SCHEDULED"), ("onStart", "IN_PROGRESS"), ("onSuccess", "COMPLETED"),
    ]


def test_only_what_is_asked_for_is_told(driver: Driver) -> None:
    """A change that no list names is told nobody."""
    begin(driver, simple("a", **telling(changes="onStart")))
    driver.give("a")
    assert of(driver, "a") == [("onStart", "IN_PROGRESS")]


def test_each_attempt_is_told_of(driver: Driver) -> None:
    """Attempts of a retry are attempts of their own; the payload sees the attempt that has changed."""
    payload = {"why": "${a.reasonForIncompletion}", "is": "${a.status}"}
    begin(driver, simple("a", retryCount=1, **telling(payload)))
    driver.fail("a", "first")
    driver.wait(60_000)
    driver.fail("a", "second")
    assert of(driver, "a") == [
        ("onScheduled", "SCHEDULED"), ("onStart", "IN_PROGRESS"), ("onFailed", "FAILED"),
    ] * 2
    assert [(told["why"], told["is"]) for _, told in heard(driver) if told["stateChange"] == "onFailed"] == [
        ("first", "FAILED"), ("second", "FAILED"),
    ]
    assert [told["retryCount"] for _, told in heard(driver)] == [0, 0, 0, 1, 1, 1]
    assert len({told["taskId"] for _, told in heard(driver)}) == 2


@pytest.mark.parametrize("policy", ["RETRY", "TIME_OUT_WF"])
@pytest.mark.parametrize("over", ["timeoutSeconds", "totalTimeoutSeconds", "responseTimeoutSeconds", ""])
def test_what_times_out_or_is_lost_has_failed(driver: Driver, over: str, policy: str) -> None:
    """TIMED_OUT is onFailed, whichever time was over; so is a lost worker's attempt."""
    driver.register_task(name="a", retryCount=0, timeoutPolicy=policy, **({over: 5} if over else {}))
    begin(driver, simple("a", **telling()))
    token = driver.latest("a").fencing_token
    if over == "responseTimeoutSeconds":
        driver.ok(ExpireDeadline(DeadlineKind.RESPONSE, token))
    elif over:
        driver.wait(5_000)
    else:
        driver.ok(CloseSession("s"))
    assert of(driver, "a") == [
        ("onScheduled", "SCHEDULED"), ("onStart", "IN_PROGRESS"), ("onFailed", "TIMED_OUT"),
    ]


def test_a_terminal_error_has_failed(driver: Driver) -> None:
    """FAILED_WITH_TERMINAL_ERROR is onFailed."""
    begin(driver, simple("a", **telling()))
    driver.give("a", b"", TaskStatus.FAILED_WITH_TERMINAL_ERROR, "no")
    assert of(driver, "a")[-1] == ("onFailed", "FAILED_WITH_TERMINAL_ERROR")


def test_what_is_terminated_was_cancelled(driver: Driver) -> None:
    """What is open when the workflow ends, or is terminated, is CANCELED: onCancelled."""
    begin(driver, *fork([simple("a", **telling())], [simple("b", **telling())], on=["a", "b"]))
    driver.ok(TerminateWorkflow("default", "w", "enough", TerminateCompensation.UNSET))
    assert of(driver, "a")[-1] == of(driver, "b")[-1] == ("onCancelled", "CANCELED")
    assert len(of(driver, "a")) == len(of(driver, "b")) == 3


def test_what_is_skipped_was_cancelled_and_never_scheduled(driver: Driver) -> None:
    """SKIPPED on an operator's word is onCancelled: nobody does it; onScheduled is not told."""
    begin(driver, simple("a"), simple("b", **telling()))
    driver.ok(SkipTask("default", "w", "b"))
    driver.give("a")
    assert driver.header().status is WorkflowStatus.COMPLETED
    assert of(driver, "b") == [("onCancelled", "SKIPPED")]


def test_the_failure_of_an_optional_task_is_told_once(driver: Driver) -> None:
    """An optional task fails, and then counts as COMPLETED_WITH_ERRORS: onFailed, and no onSuccess."""
    begin(driver, simple("a", optional=True, retryCount=0, **telling()))
    driver.fail("a")
    assert driver.latest("a").status is TaskStatus.COMPLETED_WITH_ERRORS
    assert of(driver, "a")[-1] == ("onFailed", "FAILED") and len(of(driver, "a")) == 3


def test_what_ends_at_once_never_began(driver: Driver) -> None:
    """An operator that is done in the step in which its turn comes is scheduled and succeeds: onStart is not told."""
    begin(driver, element("SET_VARIABLE", "v", {"n": 1}, **telling({"n": "${workflow.variables.n}"})))
    assert of(driver, "v") == [("onScheduled", "SCHEDULED"), ("onSuccess", "COMPLETED")]


def test_what_waits_begins_when_it_waits(driver: Driver) -> None:
    """A JOIN, a WAIT or a sub-workflow begins when it is IN_PROGRESS."""
    begin(driver, *fork([simple("a")], [simple("b")], on=["a", "b"], **telling()))
    assert of(driver, "j") == [("onScheduled", "SCHEDULED"), ("onStart", "IN_PROGRESS")]
    driver.give("a")
    driver.give("b")
    assert of(driver, "j")[2:] == [("onSuccess", "COMPLETED")]


def test_what_is_opened_again_begins_and_ends_again(driver: Driver) -> None:
    """A JOIN that an operator's retry opens in place has one more onStart, and one more end."""
    begin(driver, *fork([simple("a")], [simple("b", retryCount=0)], on=["a", "b"], **telling()))
    driver.give("a")
    driver.fail("b")
    driver.ok(RetryWorkflow("default", "w"))
    driver.give("b")
    assert driver.header().status is WorkflowStatus.COMPLETED
    told = [change for change, _ in of(driver, "j")]
    assert told == ["onScheduled", "onStart", "onCancelled", "onStart", "onSuccess"]


def test_who_is_asked_again_has_not_begun_again(driver: Driver) -> None:
    """A worker that is not done lets go: the attempt was scheduled once, and has begun once."""
    begin(driver, simple("a", **telling()))
    attempt = driver.latest("a")
    again = CompleteTask(
        "default", "w", attempt.task_id, attempt.fencing_token, TaskStatus.IN_PROGRESS, b"{}", "", "", callback_ms=1_000
    )
    driver.ok(again)
    driver.wait(1_000)
    driver.give("a")
    assert [change for change, _ in of(driver, "a")] == ["onScheduled", "onStart", "onSuccess"]


def test_a_loop_tells_each_iteration(driver: Driver) -> None:
    """Each iteration has attempts of its own, be they forgotten in the step that made them."""
    body = [element("SET_VARIABLE", "v", {"n": 1}, **telling())]
    items = list(range(40))
    begin(driver, element("DO_WHILE", "l", {"keepLastN": 1}, items=items, loopOver=body))
    assert driver.header().status is WorkflowStatus.COMPLETED
    told = [(told["referenceTaskName"], told["iteration"], told["stateChange"]) for _, told in heard(driver)]
    expected = [(f"v__{n}", n, change) for n in range(1, 41) for change in ("onScheduled", "onSuccess")]
    assert told == expected


def test_a_compensation_tells_of_itself(driver: Driver) -> None:
    """compensateWith has its own onStateChange, which sees the step; that of the step does not hold for it."""
    undo = {"name": "undo", "type": "SIMPLE", **telling({"did": "${step.output.x}"})}
    begin(driver, {**simple("a"), "compensateWith": undo}, simple("b", retryCount=0), workers=("a", "b", "undo"))
    driver.give("a", b'{"x":7}')
    driver.fail("b")
    driver.give(driver.undoing("a"))
    assert [(told["taskDefName"], told["stateChange"], told["did"]) for _, told in heard(driver)] == [
        ("undo", "onScheduled", 7), ("undo", "onStart", 7), ("undo", "onSuccess", 7),
    ]


def test_what_undoes_a_sub_workflow_is_no_attempt_of_its_step(driver: Driver) -> None:
    """The compensation of a sub-workflow is its own steps' undoing, and has nothing to tell."""
    driver.register(workflow("inner", simple("x", "undo_x")))
    sub = element("SUB_WORKFLOW", "sub", {}, subWorkflowParam={"name": "inner"}, **telling())
    begin(driver, sub, simple("b", retryCount=0), workers=("x", "b", "undo_x"))
    child = driver.latest("sub").child
    driver.give("x", workflow_id=child)
    driver.fail("b")
    driver.give(driver.undoing("x", child), workflow_id=child)
    assert driver.header().status is WorkflowStatus.FAILED
    assert [change for change, _ in of(driver, "sub")] == ["onScheduled", "onStart", "onSuccess"]
    assert len(heard(driver)) == 3


@pytest.mark.parametrize("known", [False, True])
def test_tasks_of_a_dynamic_fork_tell_too(driver: Driver, known: bool) -> None:
    """Tasks that are only known at run time announce as others do, also where the definition announces nothing."""
    forked = [{**simple("a"), **telling()}]
    given = {"tasks": forked, "inputs": {}}
    params = {"dynamicForkTasksParam": "tasks", "dynamicForkTasksInputParamName": "inputs"}
    first = [element("NOOP", "n", onStateChange={"onSuccess": [{"type": "unheard"}]})] if known else []
    begin(driver, *first, element("FORK_JOIN_DYNAMIC", "f", given, **params), element("JOIN", "j"))
    driver.give("a")
    assert driver.header().status is WorkflowStatus.COMPLETED
    assert [change for change, _ in of(driver, "a")] == ["onScheduled", "onStart", "onSuccess"]


def test_a_dynamic_task_tells_what_it_has_become(driver: Driver) -> None:
    """The announcements of a DYNAMIC are those of the task that it is."""
    dynamic = element("DYNAMIC", "d", {"which": "a"}, dynamicTaskNameParam="which", **telling())
    driver.register_task(name="a")
    begin(driver, dynamic)
    driver.give("d")
    assert of(driver, "d") == [
        ("onScheduled", "SCHEDULED"), ("onStart", "IN_PROGRESS"), ("onSuccess", "COMPLETED"),
    ]


# --- once, and never lost


def test_a_restored_replica_tells_the_same(driver: Driver) -> None:
    """The step of the change tells it, on every replica alike: a new leader tells nothing again, and misses none."""
    begin(driver, simple("a", **telling()), simple("b", **telling()))
    driver.give("a")
    other = driver.restart()
    assert heard(other) == heard(driver)
    for replica in (driver, other):
        replica.give("b")
    assert heard(other) == heard(driver)
    assert [change for change, _ in of(other, "b")] == ["onScheduled", "onStart", "onSuccess"]
    assert other.rows() == driver.rows()


def test_a_paused_workflow_tells_what_happens(driver: Driver) -> None:
    """Results that come while it is paused change the task, and are told."""
    begin(driver, simple("a", **telling()))
    driver.ok(PauseWorkflow("default", "w"))
    driver.give("a")
    assert of(driver, "a")[-1] == ("onSuccess", "COMPLETED")


def test_what_has_happened_is_told_however_many_events_wait(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limits of waiting events refuse those that are published; nobody refuses what has happened.

    Without room for its payload it only says whom it is about.
    """
    monkeypatch.setattr(limits, "EVENTS", 1)
    begin(driver, simple("a", **telling({"x": 1})))
    monkeypatch.setattr(limits, "EVENT_BYTES", 1)
    driver.give("a")
    (_, first), (_, second), (_, third) = heard(driver)
    assert first["x"] == second["x"] == 1
    assert "x" not in third and third["payloadOmitted"] is True and third["stateChange"] == "onSuccess"


def test_a_payload_that_is_too_large_is_left_out(driver: Driver) -> None:
    """More than a payload may have is not told; that it has happened is."""
    begin(driver, simple("a", **telling({"all": "${a.output}", "again": "${a.output}"}, "onSuccess")))
    driver.give("a", b'{"x":"' + b"x" * 200_000 + b'"}')
    [(_, told)] = heard(driver)
    assert "all" not in told and told["payloadOmitted"] is True and told["taskStatus"] == "COMPLETED"


def test_a_step_stays_small_however_much_it_tells() -> None:
    """Each event counts as a transition: a step that tells much leaves the rest to later ones."""
    driver = Driver()
    types = [f"t{number}" for number in range(10)]
    listen(driver, *(f"conductor:flow:{kind}" for kind in types))
    told = {"onStateChange": {"onScheduled,onSuccess": [{"type": kind} for kind in types]}}
    tasks = [element("NOOP", f"n{number}", **told) for number in range(40)]
    driver.register(workflow("flow", *tasks))
    driver.index += 1
    driver.machine.begin_entry(driver.index, 1, driver.now_ms)
    driver.machine.apply(StartWorkflow("default", "flow", 0, "w", IfExists.FAIL, b"{}"))
    assert limits.TRANSITIONS_PER_STEP < len(heard(driver)) + 40 < 2 * limits.TRANSITIONS_PER_STEP
    while driver.machine.next_message() is not None:
        driver.machine.apply_message()
    assert driver.header().status is WorkflowStatus.COMPLETED
    assert len(heard(driver)) == 40 * 2 * 10


def test_nothing_is_written_where_nobody_listens(driver: Driver) -> None:
    """An event without a handler is nothing; a workflow whose tasks announce nothing is not even asked."""
    quiet = Driver()
    begin(quiet, simple("a", **telling()))
    quiet.give("a")
    assert not quiet.state.resident[Table.EVENT] and quiet.header().tells
    begin(driver, simple("a"))
    assert not driver.header().tells


# --- what is refused


@pytest.mark.parametrize(
    ("value", "path", "message"),
    [
        ([], "onStateChange", "it must be an object"),
        ({"onDone": []}, "onStateChange.onDone", "'onDone' is none of onScheduled, onStart"),
        ({"onStart,on": []}, "onStateChange.onStart,on", "'on' is none of"),
        ({"onStart,": []}, "onStateChange.onStart,", "'' is none of"),
        ({"onStart": {}}, "onStateChange.onStart", "it must be a list of events"),
        ({"onStart": ["x"]}, "onStateChange.onStart[0]", "it must be an object"),
        ({"onStart": [{"type": "x", "sinks": "y"}]}, "onStateChange.onStart[0].sinks", "there is no such field"),
        ({"onStart": [{"payload": {}}]}, "onStateChange.onStart[0].type", "it must be a non-empty string"),
        ({"onStart": [{"type": "x", "payload": 1}]}, "onStateChange.onStart[0].payload", "it must be an object"),
        (
            {"onStart": [{"type": "x", "payload": {"k": "${nobody.output}"}}]},
            "onStateChange.onStart[0].payload.k",
            "nobody",
        ),
        ({"onStart": [{"type": "x"}] * 11}, "onStateChange.onStart", "a change may be told by 10 events"),
        ({"onStart,onStart": [{"type": "x"}] * 6}, "onStateChange.onStart,onStart", "told by 10 events"),
        ({"onStart": [{"type": "x" * 187}]}, "onStateChange.onStart[0].type", "has 202 characters"),
    ],
)
def test_what_breaks_a_rule_is_refused_at_its_path(value: Any, path: str, message: str) -> None:
    """Unknown changes, and what is no event, are errors at registration that say where and why."""
    document = workflow("flow", simple("a", onStateChange=value))
    with pytest.raises(DefinitionInvalid) as refused:
        validate_workflow(msgspec.json.encode(document))
    assert refused.value.path == f"tasks[0].{path}"
    assert message in refused.value.message


def test_a_dynamic_fork_is_refused_for_events_that_nobody_could_raise(driver: Driver) -> None:
    """The name of an event has at most 200 characters, in tasks that come at run time, too."""
    forked = [simple("a", onStateChange={"onStart": [{"type": "x" * 187}]})]
    params = {"dynamicForkTasksParam": "tasks", "dynamicForkTasksInputParamName": "inputs"}
    given = {"tasks": forked, "inputs": {}}
    begin(driver, element("FORK_JOIN_DYNAMIC", "f", given, **params), element("JOIN", "j"))
    assert driver.header().status is WorkflowStatus.FAILED
    assert "may have 200" in driver.header().reason
