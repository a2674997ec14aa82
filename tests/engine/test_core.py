"""The core of a step: leases, results, verdicts, retries, sessions, remembered requests."""

from __future__ import annotations

import pytest

from orchestrator.engine.choices import DeadlineKind, IfExists
from orchestrator.engine.commands import (
    CloseSession,
    CompleteTask,
    ExpireDeadline,
    ExpireSession,
    OpenClientSession,
    OpenSession,
    PollTasks,
    RecordHeartbeat,
    RegisterWorkflows,
    ReleaseTask,
    RequestIdentity,
    StartWorkflow,
    UpdateSession,
)
from orchestrator.engine.effects import Cancel, Deliver, LeaseEnded, TaskQueued
from orchestrator.engine.identifiers import ALPHABET, Identifiers, ulid_time_ms
from orchestrator.engine.limits import REQUEST_WINDOW_MS
from orchestrator.engine.model import SessionKind, Table, TaskStatus, WorkflowStatus
from orchestrator.engine.results import Code, Judged, Polled, Rejected, Started, Verdict
from tests.engine.driver import Driver, simple, workflow


@pytest.fixture
def driver() -> Driver:
    driver = Driver()
    driver.register(workflow("one", simple("a")), workflow("two", simple("a"), simple("b")))
    return driver


def ulid(time_ms: int, tail: str = "0" * 16) -> str:
    head = "".join(ALPHABET[time_ms >> shift & 31] for shift in range(45, -1, -5))
    return head + tail


def test_a_task_goes_from_ready_to_leased_to_completed(driver: Driver) -> None:
    driver.start("one")
    assert [type(effect) for effect in driver.effects][:1] == [TaskQueued]
    driver.worker("s", "a")
    assert driver.latest("a").status is TaskStatus.IN_PROGRESS
    assert driver.latest("a").worker_id == "worker-s"
    assert driver.give("a", b'{"n":1}') == Judged(Verdict.ACCEPTED)
    assert driver.header().status is WorkflowStatus.COMPLETED
    assert driver.header().output == b'{"n":1}'


def test_n_sequential_tasks_cost_n_plus_one_commands(driver: Driver) -> None:
    driver.worker("s", "a", "b")
    driver.start("two")
    driver.give("a")
    driver.give("b")
    assert driver.header().status is WorkflowStatus.COMPLETED


def test_the_session_with_most_free_slots_gets_the_next_task_and_equals_take_turns(driver: Driver) -> None:
    driver.worker("s1", "a", slots=1)
    driver.worker("s2", "a", slots=2)
    for number in range(3):
        driver.start("one", f"w{number}")
    sessions = [driver.state.leases[driver.latest("a", f"w{n}").fencing_token,].session_id for n in range(3)]
    assert sessions == ["s2", "s1", "s2"]


def test_a_higher_priority_goes_first(driver: Driver) -> None:
    driver.start("one", "low")
    driver.start("one", "high", priority=7)
    driver.worker("s", "a")
    assert driver.latest("a", "high").status is TaskStatus.IN_PROGRESS
    assert driver.latest("a", "low").status is TaskStatus.SCHEDULED
    driver.give("a", workflow_id="high")
    assert driver.latest("a", "low").status is TaskStatus.IN_PROGRESS


def test_tasks_go_to_the_domain_that_was_asked_for(driver: Driver) -> None:
    driver.worker("s", "a")
    driver.start("one", task_to_domain=(("a", "green"),))
    assert driver.latest("a").status is TaskStatus.SCHEDULED
    driver.worker("g", "a", domain="green")
    assert driver.latest("a").worker_id == "worker-g"


def test_a_repeated_result_is_accepted_again_and_does_nothing(driver: Driver) -> None:
    driver.worker("s", "a", "b")
    driver.start("two")
    first = driver.latest("a")
    assert driver.give(first) == Judged(Verdict.ACCEPTED)
    before = driver.rows()
    assert driver.give(first) == Judged(Verdict.ACCEPTED)
    assert driver.rows() == before


def test_a_result_for_nothing_is_unknown(driver: Driver) -> None:
    command = CompleteTask("default", "nope", "t", 1, TaskStatus.COMPLETED, b"{}", "", "")
    assert driver.ok(command).verdict is Verdict.UNKNOWN


@pytest.mark.parametrize("place", [("default", "nope"), ("nowhere", "w")])
def test_a_result_for_another_execution_ends_nobodys_lease(driver: Driver, place: tuple[str, str]) -> None:
    driver.worker("s", "a", "b")
    driver.start("two")
    attempt = driver.latest("a")
    before = driver.rows()
    command = CompleteTask(*place, attempt.task_id, attempt.fencing_token, TaskStatus.COMPLETED, b"{}", "", "")
    assert driver.ok(command).verdict is Verdict.UNKNOWN
    assert driver.rows() == before
    driver.ok(ExpireDeadline(DeadlineKind.RESPONSE, attempt.fencing_token))
    before = driver.rows()
    assert driver.ok(command).verdict is Verdict.UNKNOWN
    assert driver.rows() == before


@pytest.mark.parametrize("output", [b"[]", b"{", b'"x"', b'{"x":"' + b"y" * 300_000 + b'"}', b"\xff"])
def test_an_invalid_output_fails_the_task_for_good(driver: Driver, output: bytes) -> None:
    driver.worker("s", "a")
    driver.start("one")
    attempt = driver.latest("a")
    assert driver.give(attempt, output).verdict is Verdict.INVALID
    assert driver.latest("a").status is TaskStatus.FAILED_WITH_TERMINAL_ERROR
    assert driver.header().status is WorkflowStatus.FAILED
    assert driver.give(attempt, output).verdict is Verdict.INVALID


def test_a_timed_out_attempt_is_fenced_and_keeps_its_slot_until_it_is_released(driver: Driver) -> None:
    driver.register_task(name="a", retryCount=1, retryDelaySeconds=0)
    driver.worker("s", "a")
    driver.start("one")
    first = driver.latest("a")
    driver.ok(ExpireDeadline(DeadlineKind.RESPONSE, first.fencing_token))
    assert any(isinstance(effect, Cancel) and effect.fenced for effect in driver.effects)
    assert driver.latest("a").status is TaskStatus.SCHEDULED
    assert driver.give(first).verdict is Verdict.FENCED
    # A late result frees the slot just as a release does.
    assert driver.latest("a").status is TaskStatus.IN_PROGRESS
    second = driver.latest("a")
    assert second.fencing_token > first.fencing_token
    assert second.idempotency_key == first.idempotency_key
    assert driver.give(second).verdict is Verdict.ACCEPTED


def test_release_frees_the_slot(driver: Driver) -> None:
    driver.register_task(name="a", retryCount=0)
    driver.worker("s", "a")
    driver.start("one")
    token = driver.latest("a").fencing_token
    driver.ok(ExpireDeadline(DeadlineKind.RESPONSE, token))
    driver.start("one", "next")
    assert driver.latest("a", "next").status is TaskStatus.SCHEDULED
    driver.ok(ReleaseTask("s", token))
    assert driver.latest("a", "next").status is TaskStatus.IN_PROGRESS


def test_retries_wait_for_their_delay_and_then_the_workflow_fails(driver: Driver) -> None:
    driver.register_task(name="a", retryCount=2, retryDelaySeconds=3, retryLogic="EXPONENTIAL_BACKOFF")
    driver.worker("s", "a")
    driver.start("one")
    for delay_ms in (3_000, 6_000):
        driver.fail("a", "no luck")
        driver.wait(delay_ms - 1)
        assert driver.latest("a").status is TaskStatus.SCHEDULED
        driver.wait(1)
        assert driver.latest("a").status is TaskStatus.IN_PROGRESS
    last = driver.latest("a")
    driver.fail("a", "no luck")
    header = driver.header()
    assert header.status is WorkflowStatus.FAILED
    assert header.reason == f"Task {last.task_id} failed with status: FAILED and reason: 'no luck'"
    assert header.failed_task == "a"


def test_heartbeat_details_reach_the_next_attempt(driver: Driver) -> None:
    from orchestrator.engine import queries

    driver.register_task(name="a", retryCount=1, retryDelaySeconds=0)
    driver.worker("s", "a")
    driver.start("one")
    first = driver.latest("a")
    beat = RecordHeartbeat("default", "w", first.task_id, first.fencing_token, b'{"at":7}')
    assert driver.ok(beat).verdict is Verdict.ACCEPTED
    driver.fail("a")
    view = queries.assignment_view(driver.state, driver.hot(), driver.latest("a").fencing_token)
    assert view is not None
    assert view.heartbeat_details == b'{"at":7}'
    assert driver.ok(beat).verdict is Verdict.FENCED


def test_polling_leases_and_leaves_no_free_slot(driver: Driver) -> None:
    for number in range(3):
        driver.start("one", f"w{number}")
    assert driver.ok(PollTasks("p", "default", "", "poller", ("a",), 2)) == Polled((1, 2))
    assert [type(effect) for effect in driver.effects].count(Deliver) == 2
    session = driver.state.sessions["p",]
    assert (session.slots, session.used) == (2, 2)
    driver.give("a", workflow_id="w0")
    assert driver.latest("a", "w2").status is TaskStatus.SCHEDULED
    driver.give("a", workflow_id="w1")
    assert ("p",) not in driver.state.sessions
    assert driver.ok(PollTasks("p", "default", "", "poller", ("a",), 9)) == Polled((3,))


def test_a_polled_attempt_always_has_a_response_timeout(driver: Driver) -> None:
    driver.register_task(name="a", responseTimeoutSeconds=0)
    driver.start("one")
    (token,) = driver.ok(PollTasks("p", "default", "", "poller", ("a",), 1)).tokens
    assert driver.state.leases[token,].response_timeout_ms == 3_600_000


def test_nothing_is_kept_of_a_poller_that_never_answers(driver: Driver) -> None:
    driver.start("one")
    (token,) = driver.ok(PollTasks("p", "default", "", "poller", ("a",), 1)).tokens
    attempt = driver.latest("a")
    driver.ok(ExpireDeadline(DeadlineKind.RESPONSE, token))
    assert driver.hot().tasks[attempt.sequence].status is TaskStatus.TIMED_OUT
    assert (driver.state.leases, driver.state.sessions) == ({}, {})
    assert driver.give(attempt).verdict is Verdict.FENCED


def test_slots_can_be_changed_and_a_drained_session_gets_nothing(driver: Driver) -> None:
    driver.worker("s", "a", slots=2)
    driver.ok(UpdateSession("s", (), 0))
    driver.start("one")
    assert driver.latest("a").status is TaskStatus.SCHEDULED
    driver.ok(UpdateSession("s", (), 1))
    assert driver.latest("a").status is TaskStatus.IN_PROGRESS


def test_opening_a_session_again_answers_the_one_that_exists(driver: Driver) -> None:
    driver.worker("s", "a")
    again = driver.ok(OpenSession("s", SessionKind.STREAM, "default", "", "other", ("b",), 9, 1))
    assert again.existing


def test_a_lost_session_frees_nothing_that_exists_and_requeues_its_tasks(driver: Driver) -> None:
    driver.worker("s", "a")
    driver.start("one")
    lost = driver.latest("a")
    driver.worker("t", "a")
    driver.ok(ExpireSession("s"))
    assert any(isinstance(effect, LeaseEnded) for effect in driver.effects)
    assert driver.latest("a").worker_id == "worker-t"
    assert driver.give(lost).verdict is Verdict.FENCED
    assert driver.do(CloseSession("s")).reason == "WORKER_SESSION_NOT_FOUND"


def test_a_workflow_id_is_taken_once(driver: Driver) -> None:
    driver.start("one")
    assert driver.start("one").code is Code.ALREADY_EXISTS
    again = StartWorkflow("default", "one", 0, "w", IfExists.RETURN, b"{}")
    assert driver.do(again) == Started("w", existing=True)
    other = StartWorkflow("default", "two", 0, "w", IfExists.RETURN, b"{}")
    assert driver.do(other).code is Code.INVALID_ARGUMENT


def test_a_start_without_an_id_makes_one(driver: Driver) -> None:
    result = driver.do(StartWorkflow("default", "one", 0, "", IfExists.FAIL, b"{}"))
    assert ulid_time_ms(result.workflow_id) == driver.now_ms


def test_an_inline_definition_runs_without_being_registered(driver: Driver) -> None:
    import msgspec

    document = msgspec.json.encode(workflow("inline", simple("a")))
    assert isinstance(driver.start("", document=document), Started)
    assert driver.header().name == "inline"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"name": "nope"}, "WORKFLOW_DEFINITION_NOT_FOUND"),
        ({"workflow_id": "x" * 201}, "WORKFLOW_ID_TOO_LONG"),
        ({"input": b"[]"}, "INPUT_INVALID"),
        ({"priority": 100}, "PRIORITY_INVALID"),
        ({"document": b"{}"}, "DEFINITION_INVALID"),
    ],
)
def test_starts_that_are_refused(driver: Driver, fields: dict[str, object], reason: str) -> None:
    known = {"name": "one", "version": 0, "workflow_id": "w", "if_exists": IfExists.FAIL, "input": b"{}"}
    before = driver.rows()
    result = driver.do(StartWorkflow(namespace="default", **{**known, **fields}))  # type: ignore[arg-type]  # mixed
    assert isinstance(result, Rejected)
    assert result.reason == reason
    assert driver.rows() == before


def test_definitions_are_overwritten_only_on_request(driver: Driver) -> None:
    import msgspec

    same = msgspec.json.encode(workflow("one", simple("a")))
    other = msgspec.json.encode(workflow("one", simple("z")))
    driver.ok(RegisterWorkflows("default", (same,), False))
    assert driver.do(RegisterWorkflows("default", (other,), False)).code is Code.ALREADY_EXISTS
    driver.start("one", "before")
    driver.ok(RegisterWorkflows("default", (other,), True))
    driver.start("one", "after")
    # What runs keeps the definition it began with.
    assert driver.latest("a", "before").name == "a"
    assert driver.latest("z", "after").name == "z"


# --- remembered requests


def test_a_plain_request_takes_effect_once(driver: Driver) -> None:
    identity = RequestIdentity(request_id=ulid(driver.now_ms))
    start = StartWorkflow("default", "one", 0, "", IfExists.FAIL, b"{}")
    first = driver.do(start, identity)
    assert driver.do(start, identity) == first
    assert driver.state.meta.live_executions == 1


def test_a_plain_request_outside_its_window_is_never_executed(driver: Driver) -> None:
    start = StartWorkflow("default", "one", 0, "", IfExists.FAIL, b"{}")
    for time_ms in (driver.now_ms - REQUEST_WINDOW_MS - 1, driver.now_ms + REQUEST_WINDOW_MS + 1):
        result = driver.do(start, RequestIdentity(request_id=ulid(time_ms)))
        assert (result.code, result.reason) == (Code.FAILED_PRECONDITION, "REQUEST_EXPIRED")
    assert driver.do(start, RequestIdentity(request_id="x")).reason == "REQUEST_ID_INVALID"
    assert driver.state.meta.live_executions == 0


def test_remembered_requests_are_dropped_after_the_window_a_few_at_a_time(driver: Driver) -> None:
    start = StartWorkflow("default", "one", 0, "", IfExists.FAIL, b"{}")
    tails = [f"{number:016d}" for number in range(100)]
    driver.entry(*[(start, RequestIdentity(request_id=ulid(driver.now_ms, tail))) for tail in tails])
    driver.now_ms += REQUEST_WINDOW_MS + 1
    counts = []
    for _ in range(3):
        driver.entry()
        counts.append(len(driver.state.resident[Table.REQUEST]))
    assert counts == [36, 0, 0]


def test_requests_are_dropped_as_fast_as_they_come(driver: Driver) -> None:
    start = StartWorkflow("default", "no such", 0, "", IfExists.FAIL, b"{}")
    for entry in range(30):
        names = [ulid(driver.now_ms, f"{entry * 100 + number:016d}") for number in range(100)]
        driver.entry(*[(start, RequestIdentity(request_id=name)) for name in names])
        driver.now_ms += REQUEST_WINDOW_MS // 4
    assert len(driver.state.resident[Table.REQUEST]) <= 600


def test_a_client_session_remembers_what_is_not_acknowledged(driver: Driver) -> None:
    session = driver.ok(OpenClientSession("default")).session_id
    start = StartWorkflow("default", "one", 0, "", IfExists.FAIL, b"{}")
    first = driver.do(start, RequestIdentity(session_id=session, sequence=1, lowest_unacknowledged=1))
    refused = driver.start("nope")
    refused_too = driver.do(
        StartWorkflow("default", "nope", 0, "w", IfExists.FAIL, b"{}"),
        RequestIdentity(session_id=session, sequence=2, lowest_unacknowledged=1),
    )
    assert refused == refused_too
    assert driver.do(start, RequestIdentity(session_id=session, sequence=1, lowest_unacknowledged=1)) == first
    # A remembered refusal is the answer, even if it would be done by now.
    driver.register(workflow("nope", simple("a")))
    again = RequestIdentity(session_id=session, sequence=2, lowest_unacknowledged=2)
    assert driver.do(StartWorkflow("default", "nope", 0, "w", IfExists.FAIL, b"{}"), again) == refused
    driver.do(start, RequestIdentity(session_id=session, sequence=3, lowest_unacknowledged=3))
    forgotten = driver.do(start, RequestIdentity(session_id=session, sequence=1, lowest_unacknowledged=3))
    assert forgotten.reason == "SESSION_SEQUENCE_FORGOTTEN"


def test_a_client_session_has_a_bound(driver: Driver) -> None:
    driver.check = False
    session = driver.ok(OpenClientSession("default")).session_id
    start = StartWorkflow("default", "nope", 0, "w", IfExists.FAIL, b"{}")
    driver.entry(*[(start, RequestIdentity(session_id=session, sequence=n)) for n in range(1, 1025)])
    assert driver.do(start, RequestIdentity(session_id=session, sequence=1025)).code is Code.RESOURCE_EXHAUSTED
    assert driver.do(start, RequestIdentity(session_id=session, sequence=1025, lowest_unacknowledged=2)).code == 5


def test_an_idle_client_session_ends_an_hour_after_its_last_use(driver: Driver) -> None:
    session = driver.ok(OpenClientSession("default")).session_id
    start = StartWorkflow("default", "nope", 0, "w", IfExists.FAIL, b"{}")
    driver.wait(3_000_000)
    assert driver.do(start, RequestIdentity(session_id=session, sequence=1)).code is Code.NOT_FOUND
    driver.wait(3_599_999)
    assert (session,) in driver.state.resident[Table.CLIENT_SESSION]
    driver.wait(1)
    result = driver.do(start, RequestIdentity(session_id=session, sequence=2))
    assert (result.code, result.reason) == (Code.FAILED_PRECONDITION, "SESSION_EXPIRED")


# --- ids


def test_ids_are_sortable_and_never_the_same_in_another_epoch() -> None:
    made = []
    for cluster, epoch in (("c", 1), ("c", 2), ("d", 1)):
        ids = Identifiers(cluster, epoch)
        for index, time_ms in ((1, 5), (2, 5), (3, 10)):
            ids.begin(index, time_ms)
            made.extend((ids.make(), ids.make()))
    assert len(set(made)) == len(made)
    assert all(len(one) == 26 for one in made)
    assert [ulid_time_ms(one) for one in made[:6]] == [5, 5, 5, 5, 10, 10]
    assert ulid_time_ms("8" + "0" * 25) is None


def test_log_time_never_goes_back(driver: Driver) -> None:
    driver.now_ms -= 5_000
    driver.start("one")
    assert driver.header().created_ms == driver.now_ms + 5_000


def test_an_existing_execution_is_answered_whatever_became_of_its_definition(driver: Driver) -> None:
    import msgspec

    document = msgspec.json.encode(workflow("inline", simple("a")))
    assert isinstance(driver.start("", document=document), Started)
    again = StartWorkflow("default", "inline", 0, "w", IfExists.RETURN, b"{}")
    assert driver.do(again) == Started("w", existing=True)
    again = StartWorkflow("default", "", 0, "w", IfExists.RETURN, b"{}", document=document)
    assert driver.do(again) == Started("w", existing=True)
    other = msgspec.json.encode(workflow("other", simple("a")))
    again = StartWorkflow("default", "", 0, "w", IfExists.RETURN, b"{}", document=other)
    assert driver.do(again).reason == "WORKFLOW_ID_OF_ANOTHER"
