"""The worker's stream as such: who may open one, what comes after a break, and how it ends."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from orchestrator.engine import commands
from orchestrator.engine.model import WorkflowStatus
from orchestrator.rpc import worker_stream
from orchestrator_api.v1 import workers_pb2 as pb
from tests.rpc.attempts import held, result
from tests.rpc.bench import Bench, Stubs, Worker, until
from tests.rpc.statuses import info_of

# --- coming


async def test_a_worker_is_welcomed_under_the_id_it_chose(bench: Bench, stubs: Stubs) -> None:
    worker = Worker(stubs)
    welcome = await worker.hello(session_id="mine", session_timeout_ms=4000)
    assert (welcome.session_id, welcome.resumed) == ("mine", False)
    assert (welcome.session_timeout_ms, welcome.heartbeat_interval_ms) == (4000, 1000)
    assert bench.driver.state.sessions["mine",].worker_id == "w-1"


async def test_workers_that_name_no_session_get_one_each(bench: Bench, stubs: Stubs) -> None:
    welcomes = [await Worker(stubs).hello() for _ in range(3)]
    assert len({welcome.session_id for welcome in welcomes} - {""}) == 3
    assert len(bench.driver.state.sessions) == 3


async def test_a_session_is_resumed_without_a_command_if_nothing_has_changed(bench: Bench, stubs: Stubs) -> None:
    first = await Worker(stubs).hello("ship", "pay", session_id="s")
    count = len(bench.submitted)
    again = await Worker(stubs).hello("pay", "ship", session_id="s")
    assert (first.resumed, again.resumed) == (False, True)
    assert len(bench.submitted) == count


async def test_resuming_with_other_names_or_slots_changes_the_session(bench: Bench, stubs: Stubs) -> None:
    await Worker(stubs).hello("pay", session_id="s")
    await Worker(stubs).hello("pay", "ship", session_id="s", slots=5)
    session = bench.driver.state.sessions["s",]
    assert (session.task_names, session.slots) == (("pay", "ship"), 5)


@pytest.mark.parametrize("change", [{"domain": "eu"}, {"namespace": "elsewhere"}])
async def test_the_session_of_another_domain_or_namespace_is_not_resumed(
    stubs: Stubs, change: dict[str, str]
) -> None:
    await Worker(stubs).hello(session_id="s")
    worker = Worker(stubs)
    await worker.say(hello=pb.WorkHello(worker_id="w", task_names=["pay"], slots=1, session_id="s", **change))
    assert info_of(await worker.failed()).metadata["field"] == "hello.session_id"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"worker_id": ""}, "hello.worker_id"),
        ({"task_names": []}, "hello.task_names"),
        ({"task_names": ["pay", ""]}, "hello.task_names[1]"),
        ({"slots": 0}, "hello.slots"),
        ({"slots": 10_001}, "hello.slots"),
        ({"session_timeout_ms": 1_999}, "hello.session_timeout_ms"),
        ({"session_timeout_ms": 60_001}, "hello.session_timeout_ms"),
        ({"session_id": "poll:7:0:default::w"}, "hello.session_id"),
        ({"task_names": ["pay", "system/http"]}, "hello.task_names[1]"),
        ({"namespace": "$others"}, "namespace"),
        ({"namespace": "$system"}, "hello.task_names"),
        ({"namespace": "$system", "task_names": ["system/http", "pay"]}, "hello.task_names"),
        ({"namespace": "$system", "task_names": ["system/http"], "domain": "eu"}, "hello.domain"),
    ],
)
async def test_a_hello_that_breaks_a_rule_is_refused_with_the_field(
    bench: Bench, stubs: Stubs, change: dict[str, Any], field: str
) -> None:
    worker = Worker(stubs)
    await worker.say(hello=pb.WorkHello(**({"worker_id": "w", "task_names": ["pay"], "slots": 1} | change)))
    error = await worker.failed()
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert info_of(error).metadata["field"] == field
    assert bench.submitted == []


async def test_a_node_opens_a_session_that_serves_the_systems_queues(bench: Bench, stubs: Stubs) -> None:
    """And is told of what it holds in vain, as a worker is."""
    worker = Worker(stubs)
    forgotten = pb.HeldAttempt(workflow_id="w", task_id="t", fencing_token=7)
    await worker.hello("system/jq", "system/http", session_id="s", namespace="$system", held=[forgotten])
    session = bench.driver.state.sessions["s",]
    assert (session.namespace, session.task_names) == ("$system", ("system/http", "system/jq"))
    told = (await worker.next("cancellations")).cancellations.cancellations
    assert [attempt.fencing_token for attempt in told] == [7]


async def test_hello_must_come_first_and_only_once(stubs: Stubs) -> None:
    worker = Worker(stubs)
    await worker.say(heartbeat=pb.WorkHeartbeat())
    assert info_of(await worker.failed()).metadata["field"] == "hello"
    worker = Worker(stubs)
    await worker.hello()
    await worker.say(hello=pb.WorkHello())
    assert info_of(await worker.failed()).metadata["field"] == "frame"


async def test_a_stream_that_says_nothing_and_ends_is_refused(stubs: Stubs) -> None:
    worker = Worker(stubs)
    await worker.call.done_writing()
    assert (await worker.failed()).code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_elsewhere_than_at_the_leader_the_stream_fails_with_a_hint(bench: Bench, stubs: Stubs) -> None:
    bench.lose_leadership()
    worker = Worker(stubs)
    await worker.say(hello=pb.WorkHello(worker_id="w", task_names=["pay"], slots=1))
    error = await worker.failed()
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert info_of(error).reason == "NOT_LEADER"
    assert info_of(error).metadata["leader_address"] == "127.0.0.1:7402"


async def test_leadership_lost_while_the_session_is_opened_leaves_no_stream_behind(bench: Bench, stubs: Stubs) -> None:
    bench.gate.clear()
    worker = Worker(stubs)
    await worker.say(hello=pb.WorkHello(worker_id="w", task_names=["pay"], slots=1, session_id="s"))
    await until("the session to be asked for", lambda: bench.submitted)
    bench.lose_leadership()
    # The command is committed all the same, by whoever leads now.
    bench.gate.set()
    assert info_of(await worker.failed()).reason == "NOT_LEADER"
    assert bench.dispatcher.stream_count == 0


# --- reconnecting


async def test_a_worker_that_reconnects_gets_what_it_does_not_hold(bench: Bench, stubs: Stubs) -> None:
    bench.order("pay")
    first = Worker(stubs)
    await first.hello(session_id="s")
    for name in ("w1", "w2"):
        bench.start(name)
    given = await first.assigned(2)
    second = Worker(stubs)
    welcome = await second.hello(session_id="s", held=[held(given[0])])
    assert welcome.resumed
    assert await second.assigned() == [given[1]]
    assert "taken over" in (await first.next("go_away")).go_away.reason
    assert await first.ended() is grpc.StatusCode.OK
    assert second.frames[0].generation > first.frames[0].generation
    assert bench.dispatcher.stream_count == 1


async def test_attempts_that_the_session_does_not_have_are_cancelled_at_the_worker(bench: Bench, stubs: Stubs) -> None:
    bench.order("pay")
    bench.driver.worker("other", "pay")
    bench.start("w1")
    token = bench.driver.latest("pay", "w1").fencing_token
    worker = Worker(stubs)
    strangers = [
        pb.HeldAttempt(workflow_id="w0", task_id="t0", fencing_token=99),
        pb.HeldAttempt(workflow_id="w1", task_id="t1", fencing_token=token),
    ]
    await worker.hello(session_id="s", held=strangers)
    found = (await worker.next("cancellations")).cancellations.cancellations
    assert [(each.workflow_id, each.task_id, each.fencing_token, each.fenced) for each in found] == [
        ("w0", "t0", 99, True), ("w1", "t1", token, True)
    ]


async def test_frames_bear_the_term_in_which_the_node_leads_not_one_it_has_heard_of(bench: Bench, stubs: Stubs) -> None:
    worker = Worker(stubs)
    await worker.hello()
    bench.lose_leadership()
    assert bench.term == 8
    away = await worker.next("go_away")
    assert away.term == 7
    assert away.go_away.leader_address == "127.0.0.1:7402"
    assert await worker.ended() is grpc.StatusCode.OK
    await until("the stream to be detached", lambda: bench.dispatcher.stream_count == 0)


# --- leaving


async def test_no_slots_drain_a_worker(bench: Bench, stubs: Stubs) -> None:
    bench.order("pay")
    worker = Worker(stubs)
    await worker.hello(session_id="s")
    await worker.say(slots=pb.WorkSlots(slots=0))
    await until("the slots to be changed", lambda: bench.driver.state.sessions["s",].slots == 0)
    assert bench.driver.state.sessions["s",].task_names == ("pay",)
    bench.start("w1")
    assert bench.driver.state.leases == {}


async def test_results_that_came_before_a_goodbye_count(bench: Bench, stubs: Stubs) -> None:
    bench.order("pay")
    worker = Worker(stubs)
    await worker.hello(session_id="s", slots=2)
    for name in ("w1", "w2"):
        bench.start(name)
    given = await worker.assigned(2)
    await worker.give(result(given[0]))
    await worker.say(goodbye=pb.WorkGoodbye())
    (verdict,) = await worker.verdicts()
    assert verdict.verdict == pb.VERDICT_ACCEPTED
    assert await worker.ended() is grpc.StatusCode.OK
    assert bench.driver.header("w1").status.name == "COMPLETED"
    assert bench.driver.state.sessions == {}
    # What it still held is ready again at once.
    assert bench.driver.latest("pay", "w2").ready


async def test_a_worker_that_half_closes_gets_its_verdicts_and_its_session_lives_on(bench: Bench, stubs: Stubs) -> None:
    bench.order("pay")
    worker = Worker(stubs)
    await worker.hello(session_id="s")
    bench.start("w1")
    (given,) = await worker.assigned()
    bench.gate.clear()
    await worker.give(result(given))
    await worker.call.done_writing()
    await until("the result to be submitted", lambda: bench.submitted_of(commands.CompleteTask))
    bench.gate.set()
    (verdict,) = await worker.verdicts()
    assert verdict.verdict == pb.VERDICT_ACCEPTED
    assert await worker.ended() is grpc.StatusCode.OK
    assert ("s",) in bench.driver.state.sessions and bench.dispatcher.stream_count == 0


async def test_the_end_of_the_session_sends_the_worker_away(bench: Bench, stubs: Stubs) -> None:
    worker = Worker(stubs)
    await worker.hello(session_id="s")
    bench.apply(commands.ExpireSession("s"))
    assert "session has ended" in (await worker.next("go_away")).go_away.reason
    assert await worker.ended() is grpc.StatusCode.OK


async def test_a_connection_that_breaks_off_leaves_nothing_behind(bench: Bench, stubs: Stubs) -> None:
    bench.order("pay")
    workers = [Worker(stubs) for _ in range(5)]
    for number, worker in enumerate(workers):
        await worker.hello(session_id=f"s{number}", slots=1)
    for number in range(5):
        bench.start(f"w{number}")
    bench.gate.clear()
    for worker in workers:
        (given,) = await worker.assigned()
        await worker.give(result(given))
    await until("the results to be submitted", lambda: len(bench.submitted_of(commands.CompleteTask)) == 5)
    for worker in workers:
        worker.call.cancel()
    # The fixture waits until no task of the calls is left.
    await until("the streams to be detached", lambda: bench.dispatcher.stream_count == 0)


async def test_an_unexpected_error_is_internal_and_logged(
    bench: Bench, stubs: Stubs, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(stubs)
    await worker.hello()
    bench.refuse = lambda command: ZeroDivisionError("boom")
    stranger = pb.Assignment(workflow_id="w", task_id="t", fencing_token=1)
    await worker.give(result(stranger))
    error = await worker.failed()
    assert error.code() is grpc.StatusCode.INTERNAL
    assert "boom" in (error.details() or "")
    assert any(record.exc_info and "unexpectedly" in record.message for record in caplog.records)


async def test_a_verdict_goes_with_the_next_attempt_or_alone_soon_after(
    bench: Bench, stubs: Stubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_stream, "VERDICTS_AFTER_SECONDS", 60)
    bench.order("pay")
    worker = Worker(stubs)
    await worker.hello()
    bench.start("v")
    (first,) = await worker.assigned()
    await worker.give(result(first))
    await until("the result", lambda: bench.driver.header("v").status is WorkflowStatus.COMPLETED)
    bench.start("w")
    frame = (await worker.next("assignments")).assignments
    assert [verdict.task_id for verdict in frame.verdicts] == [first.task_id]
    monkeypatch.setattr(worker_stream, "VERDICTS_AFTER_SECONDS", 0.001)
    await worker.give(result(frame.assignments[0]))
    assert [verdict.verdict for verdict in await worker.verdicts()] == [pb.VERDICT_ACCEPTED]
