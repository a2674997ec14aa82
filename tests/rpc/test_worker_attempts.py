"""Attempts on the worker's stream: what is owed comes once, what is said of it is answered, slots are never lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import grpc
import pytest

from orchestrator.engine import commands
from orchestrator.engine.choices import DeadlineKind
from orchestrator.engine.commands import ExpireDeadline
from orchestrator.engine.effects import Deliver
from orchestrator.replication.errors import NotLeader, OutcomeUnknown
from orchestrator.rpc import room, worker_stream
from orchestrator_api.v1 import workers_pb2 as pb
from orchestrator_api.v1 import workflows_pb2
from orchestrator_api.v1.common_pb2 import BlobRef, Payload
from tests.rpc.attempts import expire, held, result
from tests.rpc.bench import Bench, Stubs, Worker, soon, until
from tests.rpc.statuses import info_of

# --- attempts out, results in


async def test_attempts_go_out_results_come_in_and_the_next_attempt_follows(bench: Bench, stubs: Stubs) -> None:
    bench.order("pay", "ship")
    worker = Worker(stubs)
    await worker.hello("pay", "ship")
    bench.start("w1", b'{"amount":3}')
    (paying,) = await worker.assigned()
    assert (paying.name, paying.workflow_id, paying.workflow_name, paying.retry_count) == ("pay", "w1", "order", 0)
    await worker.give(result(paying, b'{"ok":true}'))
    frames = {}
    for _ in range(2):
        frame = await soon("verdict and assignment", worker.call.read())
        frames[frame.WhichOneof("frame")] = frame
    (verdict,) = frames["verdicts"].verdicts.verdicts
    assert (verdict.task_id, verdict.fencing_token, verdict.verdict) == (
        paying.task_id, paying.fencing_token, pb.VERDICT_ACCEPTED
    )
    (shipping,) = frames["assignments"].assignments.assignments
    await worker.give(result(shipping))
    await worker.verdicts()
    assert bench.driver.header("w1").status.name == "COMPLETED"


async def test_results_are_judged_side_by_side_and_verdicts_travel_together(bench: Bench, stubs: Stubs) -> None:
    bench.order("pay")
    worker = Worker(stubs)
    await worker.hello(slots=50)
    for number in range(50):
        bench.start(f"w{number}")
    given = await worker.assigned(50)
    bench.gate.clear()
    await worker.give(*(result(each) for each in given))
    await until("all results to be submitted", lambda: len(bench.submitted_of(commands.CompleteTask)) == 50)
    count = len(worker.frames)
    bench.gate.set()
    verdicts = await worker.verdicts(50)
    assert {verdict.fencing_token for verdict in verdicts} == {each.fencing_token for each in given}
    assert len(worker.frames) - count < 10


async def test_a_result_said_again_has_the_same_verdict_a_late_one_does_not_count(bench: Bench, stubs: Stubs) -> None:
    bench.order("pay")
    worker = Worker(stubs)
    await worker.hello()
    bench.start("w1")
    (given,) = await worker.assigned()
    for _ in range(2):
        await worker.give(result(given))
        assert [verdict.verdict for verdict in await worker.verdicts()] == [pb.VERDICT_ACCEPTED]
    stranger = pb.Assignment(workflow_id="nobody", task_id="t", fencing_token=99)
    late = pb.Assignment(workflow_id="w1", task_id=given.task_id, fencing_token=99)
    await worker.give(result(stranger), result(late))
    found = {verdict.task_id: verdict.verdict for verdict in await worker.verdicts(2)}
    assert found == {"t": pb.VERDICT_UNKNOWN, given.task_id: pb.VERDICT_FENCED}


@pytest.mark.parametrize(
    "output",
    [Payload(inline=b"[]"), Payload(inline=b"{"), Payload(inline=b'"' + b"x" * 300_000 + b'"'),
     Payload(blob=BlobRef(store="s"))],
    ids=["array", "broken", "large", "blob"],
)
async def test_an_output_that_breaks_a_rule_fails_the_attempt_for_good_and_says_so(
    bench: Bench, stubs: Stubs, output: Payload
) -> None:
    bench.order("pay")
    worker = Worker(stubs)
    await worker.hello()
    bench.start("w1")
    (given,) = await worker.assigned()
    await worker.give(result(given, output=output))
    (verdict,) = await worker.verdicts()
    assert verdict.verdict == pb.VERDICT_INVALID and verdict.message
    attempt = bench.driver.latest("pay", "w1")
    assert attempt.status.name == "FAILED_WITH_TERMINAL_ERROR"
    assert attempt.outcome_unknown
    assert bench.driver.state.leases == {}


async def test_a_status_that_no_worker_may_report_ends_the_stream(bench: Bench, stubs: Stubs) -> None:
    worker = Worker(stubs)
    await worker.hello()
    stranger = pb.Assignment(workflow_id="w", task_id="t", fencing_token=1)
    await worker.give(result(stranger, status=workflows_pb2.TASK_STATUS_TIMED_OUT))
    assert info_of(await worker.failed()).metadata["field"] == "result.status"


@pytest.mark.parametrize(
    ("error", "reason"), [(NotLeader(None), "NOT_LEADER"), (OutcomeUnknown(), "OUTCOME_UNKNOWN")]
)
async def test_a_result_that_meets_the_end_of_the_term_ends_the_stream_so_that_the_worker_says_it_again_elsewhere(
    bench: Bench, stubs: Stubs, error: Exception, reason: str
) -> None:
    bench.order("pay")
    worker = Worker(stubs)
    await worker.hello(session_id="s")
    bench.start("w1")
    (given,) = await worker.assigned()
    bench.refuse = lambda command: error if isinstance(command, commands.CompleteTask) else None
    await worker.give(result(given))
    failure = await worker.failed()
    assert (failure.code(), info_of(failure).reason) == (grpc.StatusCode.UNAVAILABLE, reason)
    await until("the stream to be detached", lambda: bench.dispatcher.stream_count == 0)
    assert ("s",) in bench.driver.state.sessions


async def test_reading_pauses_while_too_many_results_wait(
    bench: Bench, stubs: Stubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "RESULTS_MAX", 3)
    worker = Worker(stubs)
    await worker.hello()
    bench.gate.clear()
    strangers = [pb.Assignment(workflow_id="w", task_id=f"t{number}", fencing_token=number) for number in range(10)]
    await worker.give(*(result(each) for each in strangers))
    await until("the first results to be submitted", lambda: len(bench.submitted_of(commands.CompleteTask)) == 3)
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(bench.submitted_of(commands.CompleteTask)) == 3
    bench.gate.set()
    assert {verdict.task_id for verdict in await worker.verdicts(10)} == {f"t{number}" for number in range(10)}


async def test_reading_pauses_while_the_results_that_wait_are_too_large(
    bench: Bench, stubs: Stubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "RESULT_BYTES_MAX", 1000)
    worker = Worker(stubs)
    await worker.hello()
    bench.gate.clear()
    large = b'{"a":"' + b"x" * 600 + b'"}'
    strangers = [pb.Assignment(workflow_id="w", task_id=f"t{number}", fencing_token=number) for number in range(4)]
    await worker.give(*(result(each, large) for each in strangers))
    await until("the first result to be submitted", lambda: bench.submitted_of(commands.CompleteTask))
    for _ in range(50):
        await asyncio.sleep(0)
    assert len(bench.submitted_of(commands.CompleteTask)) == 1
    bench.gate.set()
    assert len(await worker.verdicts(4)) == 4


async def test_attempts_that_are_many_and_large_come_in_frames_that_every_client_takes(
    bench: Bench, stubs: Stubs
) -> None:
    bench.order("pay", inputParameters={"all": "${workflow.input.all}"})
    bench.driver.worker("s", "pay", slots=60)
    for number in range(60):
        bench.start(f"w{number}", b'{"all":"' + b"x" * 200_000 + b'"}')
    worker = Worker(stubs)
    await worker.hello(session_id="s", slots=60)
    given = await worker.assigned(60)
    assert {len(each.input.inline) for each in given} == {200_010}
    assert max(frame.ByteSize() for frame in worker.frames) < 2 << 20


async def test_the_loop_turns_while_many_attempts_go_out_and_their_results_come_in(
    bench: Bench, stubs: Stubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, turn, sent, judged = 40, 0, [], []
    monkeypatch.setattr(worker_stream, "SLICE", 5)
    assignment = worker_stream.views.add_assignment

    def note_sent(*given: Any) -> Any:
        sent.append(turn)
        return assignment(*given)

    def note_judged(command: commands.AnyCommand) -> None:
        if isinstance(command, commands.CompleteTask):
            judged.append(turn)

    async def count_turns() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    monkeypatch.setattr(worker_stream.views, "add_assignment", note_sent)
    bench.refuse = note_judged
    bench.order("pay")
    bench.driver.worker("s", "pay", slots=count)
    for number in range(count):
        bench.start(f"w{number}")
    counting = asyncio.create_task(count_turns())
    try:
        worker = Worker(stubs)
        await worker.hello(session_id="s", slots=count)
        await worker.give(*(result(each) for each in await worker.assigned(count)))
        await worker.verdicts(count)
    finally:
        counting.cancel()
    for turns in (sent, judged):
        assert len(turns) == count
        assert max(Counter(turns).values()) <= 5


async def test_an_attempt_that_a_stream_is_given_twice_is_sent_once(bench: Bench, stubs: Stubs) -> None:
    bench.order("pay")
    worker = Worker(stubs)
    await worker.hello()
    bench.start("w1")
    # As when a stream attaches in the middle of an entry: the lease is owed, and its own effect follows.
    (lease,) = bench.driver.state.leases.values()
    effect = Deliver(lease.session_id, lease.token, lease.namespace, lease.workflow_id, lease.task_sequence)
    for _ in range(2):
        bench.perform(effect)
    await worker.assigned(1)
    bench.perform(effect)
    await worker.say(heartbeat=pb.WorkHeartbeat())
    await worker.next("alive")


async def test_the_attempt_of_a_cold_execution_is_delivered_too(bench: Bench, stubs: Stubs) -> None:
    bench.order("pay", inputParameters={"amount": "${workflow.input.amount}"})
    bench.driver.worker("s", "pay")
    bench.start("w1", b'{"amount":5}')
    bench.go_cold("w1")
    worker = Worker(stubs)
    await worker.hello(session_id="s", slots=1)
    (given,) = await worker.assigned()
    assert given.input.inline == b'{"amount":5}'
    assert bench.driver.state.execution(("default", "w1")) is None


# --- cancelling


async def test_an_attempt_that_ended_is_cancelled_and_its_slot_is_free_once_the_worker_releases_it(
    bench: Bench, stubs: Stubs
) -> None:
    bench.order("pay")
    worker = Worker(stubs)
    await worker.hello(session_id="s", slots=1)
    bench.start("w1")
    (given,) = await worker.assigned()
    expire(bench, given.fencing_token)
    (told,) = (await worker.next("cancellations")).cancellations.cancellations
    assert (told.task_id, told.fencing_token, told.fenced) == (given.task_id, given.fencing_token, True)
    bench.start("w2")
    assert bench.driver.state.sessions["s",].used == 1
    await worker.say(release=pb.WorkRelease(attempts=[held(given)]))
    (following,) = await worker.assigned()
    assert following.workflow_id == "w2"


async def test_the_slot_of_an_attempt_that_ended_before_it_was_sent_is_freed_by_the_server(
    bench: Bench, stubs: Stubs
) -> None:
    bench.order("pay")
    bench.driver.worker("s", "pay")
    bench.start("w1")
    expire(bench, bench.driver.latest("pay", "w1").fencing_token)
    bench.start("w2")
    assert bench.driver.state.sessions["s",].used == 1
    worker = Worker(stubs)
    await worker.hello(session_id="s", slots=1)
    (given,) = await worker.assigned()
    assert given.workflow_id == "w2"


async def test_the_server_does_not_free_the_slot_of_an_attempt_that_the_worker_holds(
    bench: Bench, stubs: Stubs
) -> None:
    bench.order("pay")
    first = Worker(stubs)
    await first.hello(session_id="s", slots=1)
    bench.start("w1")
    (given,) = await first.assigned()
    first.call.cancel()
    await until("the stream to be detached", lambda: bench.dispatcher.stream_count == 0)
    expire(bench, given.fencing_token)
    second = Worker(stubs)
    await second.hello(session_id="s", slots=1, held=[held(given)])
    (told,) = (await second.next("cancellations")).cancellations.cancellations
    assert told.fencing_token == given.fencing_token
    assert bench.submitted_of(commands.ReleaseTask) == []


async def test_an_attempt_of_a_workflow_that_compensates_is_delivered_with_its_cancellation_cold_or_hot(
    bench: Bench, stubs: Stubs
) -> None:
    branches = [[{"name": name, "taskReferenceName": name, "type": "SIMPLE"}] for name in ("pay", "ship")]
    done = {"name": "book", "taskReferenceName": "book", "type": "SIMPLE",
            "compensateWith": {"name": "unbook", "type": "SIMPLE"}}
    fork = {"name": "f", "taskReferenceName": "f", "type": "FORK_JOIN", "forkTasks": branches}
    join = {"name": "j", "taskReferenceName": "j", "type": "JOIN", "joinOn": ["pay", "ship"]}
    bench.driver.register({"name": "order", "version": 1, "schemaVersion": 2, "tasks": [done, fork, join]})
    for name in ("book", "pay", "ship"):
        bench.driver.register_task(name=name, ownerEmail="a@example.com", retryCount=0, timeoutSeconds=0)
    for cold in (False, True):
        session, workflow_id = f"s{cold}", f"w{cold}"
        bench.driver.worker(session, "book", "pay", "ship", slots=3)
        bench.start(workflow_id)
        bench.driver.give("book", workflow_id=workflow_id)
        bench.driver.fail("ship", workflow_id=workflow_id)
        assert bench.driver.header(workflow_id).status.name == "COMPENSATING"
        if cold:
            bench.go_cold(workflow_id)
        worker = Worker(stubs)
        await worker.hello("book", "pay", "ship", session_id=session, slots=3)
        (given,) = await worker.assigned()
        (told,) = (await worker.next("cancellations")).cancellations.cancellations
        assert (given.name, told.fencing_token, told.fenced) == ("pay", given.fencing_token, False)
        await worker.say(goodbye=pb.WorkGoodbye())
        assert await worker.ended() is grpc.StatusCode.OK


# --- signs of life


async def test_heartbeats_are_answered_and_keep_session_and_attempts_alive(bench: Bench, stubs: Stubs) -> None:
    bench.driver.register_task(name="pay", ownerEmail="a@example.com", responseTimeoutSeconds=5, timeoutSeconds=0)
    bench.order("pay")
    worker = Worker(stubs)
    await worker.hello(session_id="s")
    bench.start("w1")
    (given,) = await worker.assigned()
    beats = [
        pb.WorkHeartbeat(all_attempts=True),
        pb.WorkHeartbeat(attempts=[pb.AttemptHeartbeat(fencing_token=given.fencing_token)]),
    ]
    for beat in beats * 2:
        bench.now += 4.5
        await worker.say(heartbeat=beat)
        await worker.next("alive")
    assert bench.liveness.expired() == []
    bench.now += 5.1
    assert bench.liveness.expired() == [ExpireDeadline(DeadlineKind.RESPONSE, given.fencing_token)]


async def test_a_heartbeat_is_answered_after_what_was_leased_before_it(bench: Bench, stubs: Stubs) -> None:
    bench.order("pay")
    worker = Worker(stubs)
    await worker.hello(session_id="s")
    # Queued in the same turn in which the heartbeat comes.
    seen = bench.liveness.session_seen

    def lease_first(session_id: str) -> None:
        bench.liveness.session_seen = seen  # type: ignore[method-assign]
        bench.start("w1")
        seen(session_id)

    bench.liveness.session_seen = lease_first  # type: ignore[method-assign]
    await worker.say(heartbeat=pb.WorkHeartbeat())
    frames = [await soon("an attempt and an answer", worker.call.read()) for _ in range(2)]
    assert [frame.WhichOneof("frame") for frame in frames] == ["assignments", "alive"]


async def test_the_details_of_a_heartbeat_are_any_json_and_the_next_attempt_reads_them(
    bench: Bench, stubs: Stubs
) -> None:
    bench.driver.register_task(name="pay", ownerEmail="a@example.com", retryCount=1, retryDelaySeconds=0,
                               timeoutSeconds=0)
    bench.order("pay")
    worker = Worker(stubs)
    await worker.hello()
    bench.start("w1")
    (given,) = await worker.assigned()
    for details in (b"[1,2]", b'"' + b"x" * 70_000 + b'"', b"{"):
        beat = pb.AttemptHeartbeat(workflow_id="w1", task_id=given.task_id, fencing_token=given.fencing_token,
                                   details=Payload(inline=details))
        await worker.say(heartbeat=pb.WorkHeartbeat(attempts=[beat]))
        await worker.next("alive")
    await worker.give(result(given, status=workflows_pb2.TASK_STATUS_FAILED, output=None))
    frames = [await soon("verdict and assignment", worker.call.read()) for _ in range(2)]
    (again,) = next(frame for frame in frames if frame.HasField("assignments")).assignments.assignments
    assert again.heartbeat_details.inline == b"[1,2]"
