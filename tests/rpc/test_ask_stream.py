"""The stream of asks: many at once, each for itself, and what becomes of them when the stream or the leadership ends.
"""

from __future__ import annotations

import asyncio

import grpc
import pytest

from orchestrator.engine import choices, commands
from orchestrator.integrations.work import Ended, Outcome
from orchestrator.replication.errors import LostLeadership, NotLeader, OutcomeUnknown, Overloaded
from orchestrator.rpc import ask_stream
from orchestrator_api.v1 import asks_pb2 as pb
from orchestrator_api.v1 import workflows_pb2
from orchestrator_api.v1.common_pb2 import ClientSession, Payload, RequestIdentity
from orchestrator_api.v1.workflows_pb2 import StartWorkflowRequest, WaitWorkflowRequest
from tests.rpc.asking import Asker, refusal
from tests.rpc.bench import Bench, Stubs, soon, until
from tests.rpc.statuses import info_of, retry_after_ms

RUNNING, COMPLETED = workflows_pb2.WORKFLOW_STATUS_RUNNING, workflows_pb2.WORKFLOW_STATUS_COMPLETED
TERMINATED = workflows_pb2.WORKFLOW_STATUS_TERMINATED


@pytest.fixture(autouse=True)
def order(bench: Bench) -> None:
    bench.order("pay")


@pytest.fixture
async def asker(stubs: Stubs) -> Asker:
    made = Asker(stubs)
    await made.hello()
    return made


def start(workflow_id: str = "w", **fields: object) -> StartWorkflowRequest:
    return StartWorkflowRequest(name="order", workflow_id=workflow_id, **fields)  # type: ignore[arg-type]


def finish(bench: Bench, workflow_id: str = "w", output: bytes = b'{"paid":true}') -> None:
    bench.driver.worker("s", "pay")
    attempt = bench.driver.latest("pay", workflow_id)
    status = commands.TaskStatus.COMPLETED
    bench.apply(
        commands.CompleteTask("default", workflow_id, attempt.task_id, attempt.fencing_token, status, output, "", "")
    )


def terminate(bench: Bench, workflow_id: str = "w") -> None:
    bench.apply(commands.TerminateWorkflow("default", workflow_id, "enough", choices.TerminateCompensation.SKIP))


async def waits(bench: Bench, count: int) -> None:
    """Returns once so many executions are watched; besides the leadership."""
    await until("the waits", lambda: len(bench.notifier._watchers) == count + 1, deadline_s=60)


# --- asking


async def test_what_is_asked_in_one_frame_is_answered_each_for_itself(asker: Asker) -> None:
    numbers = await asker.start(start("a"), start("b", priority=100), start("a"), start("c"))
    answers = await asker.answers(4)
    assert [answers[number].WhichOneof("answer") for number in numbers] == ["started", "refused", "refused", "started"]
    assert info_of(refusal(answers[numbers[1]])).metadata["field"] == "priority"
    assert info_of(refusal(answers[numbers[2]])).reason == "WORKFLOW_ALREADY_EXISTS"
    await asker.done()


async def test_an_outcome_is_the_end_alone_if_that_comes_soon(bench: Bench, asker: Asker) -> None:
    number = await asker.outcome(start(input=Payload(inline=b'{"a":1}')), output_only=True)
    await waits(bench, 1)
    finish(bench)
    workflow = (await asker.answer(number)).workflow
    assert (workflow.workflow_id, workflow.status) == ("w", COMPLETED)
    assert not workflow.HasField("input") and not workflow.HasField("start_time")
    await asker.done()
    assert bench.notifier._watchers == {}


async def test_of_what_did_not_end_well_everything_is_answered(bench: Bench, asker: Asker) -> None:
    number = await asker.outcome(start(input=Payload(inline=b'{"a":1}')), output_only=True)
    await waits(bench, 1)
    terminate(bench)
    workflow = (await asker.answer(number)).workflow
    assert (workflow.status, workflow.reason, workflow.input.inline) == (TERMINATED, "enough", b'{"a":1}')


async def test_that_it_has_started_is_told_of_an_outcome_that_takes_a_while(
    bench: Bench, asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ask_stream, "STARTED_AFTER_SECONDS", 0.01)
    number = await asker.outcome(start(), include_tasks=True)
    assert (await asker.answer(number)).started.workflow_id == "w"
    terminate(bench)
    workflow = (await asker.answer(number)).workflow
    assert workflow.status == TERMINATED and len(workflow.tasks) == 1


async def test_an_outcome_whose_time_is_over_is_answered_as_it_is(bench: Bench, asker: Asker) -> None:
    number = await asker.outcome(start(), wait_ms=20, output_only=True)
    assert (await asker.answer(number)).workflow.status == RUNNING
    await asker.done()
    assert bench.notifier._watchers == {}


async def test_an_outcome_of_what_ends_when_it_starts(bench: Bench, asker: Asker) -> None:
    noop = b'{"name":"n","tasks":[{"name":"n","taskReferenceName":"n","type":"NOOP"}]}'
    number = await asker.outcome(StartWorkflowRequest(definition_json=noop))
    assert (await asker.answer(number)).workflow.status == COMPLETED


async def test_an_outcome_of_what_had_ended_long_ago(bench: Bench, asker: Asker) -> None:
    bench.start("w")
    terminate(bench)
    bench.go_cold()
    number = await asker.outcome(start(if_exists=workflows_pb2.IF_EXISTS_RETURN), output_only=True)
    assert (await asker.answer(number)).workflow.status == TERMINATED


async def test_a_start_whose_input_is_looked_at_holds_up_no_other(bench: Bench, asker: Asker) -> None:
    schema = {"name": "s", "version": 1, "type": "JSON", "data": {"type": "object", "required": ["a"]}}
    document = {
        "name": "order", "version": 2, "inputSchema": schema, "enforceSchema": True,
        "tasks": [{"name": "pay", "taskReferenceName": "pay", "type": "SIMPLE"}],
    }
    bench.driver.register(document)
    looked = asyncio.Event()

    async def evaluate(work: object) -> Outcome:
        await looked.wait()
        return Outcome(ended=Ended.FAILED_WITH_TERMINAL_ERROR, reason="no a", error_code="SCHEMA_VIOLATION")

    bench.evaluate = evaluate
    first, second = await asker.start(start("a"), start("b", version=1))
    assert (await asker.answer(second)).started.workflow_id == "b"
    looked.set()
    assert info_of(refusal(await asker.answer(first))).reason == "SCHEMA_VIOLATION"
    await asker.done()


async def test_ten_thousand_at_once(bench: Bench, asker: Asker) -> None:
    names = [f"w{number}" for number in range(1_000)]
    await asker.ask(*(pb.Ask(outcome=pb.AskOutcome(start=start(name), output_only=True)) for name in names))
    await waits(bench, len(names))
    for _ in range(9):
        await asker.wait(*(WaitWorkflowRequest(workflow_id=name) for name in names))
    watched = bench.notifier._watchers
    await until("all", lambda: sum(map(len, watched.values())) == 10_001, deadline_s=60)
    for name in names:
        terminate(bench, name)
    found: dict[int, pb.Answer] = {}
    while len(found) < 10_000:
        # That some have started may have been told before.
        frame = await soon("answers", asker.call.read())
        found |= {each.number: each for each in frame.answers.answers if each.HasField("workflow")}
    assert {answer.workflow.workflow_id for answer in found.values()} == set(names)
    await asker.done()
    assert watched == {}


async def test_more_than_there_is_room_for_are_refused(
    bench: Bench, asker: Asker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ask_stream, "ASKS_MAX", 2)
    bench.start("w")
    numbers = await asker.wait(*(WaitWorkflowRequest(workflow_id="w") for _ in range(3)))
    error = refusal(await asker.answer(numbers[2]))
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
    assert retry_after_ms(error) == 100
    terminate(bench)
    assert set(await asker.answers(2)) == set(numbers[:2])


# --- refusals


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (Overloaded("full"), grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED"),
        (NotLeader("n2"), grpc.StatusCode.UNAVAILABLE, "NOT_LEADER"),
        (OutcomeUnknown(), grpc.StatusCode.UNAVAILABLE, "OUTCOME_UNKNOWN"),
    ],
    ids=["overloaded", "not leader", "unknown"],
)
@pytest.mark.parametrize("kind", ["start", "outcome"])
async def test_what_replication_refuses_is_the_answer_to_the_ask(
    bench: Bench, asker: Asker, kind: str, error: Exception, code: grpc.StatusCode, reason: str
) -> None:
    bench.refuse = lambda command: error
    if kind == "start":
        (number,) = await asker.start(start())
    else:
        number = await asker.outcome(start())
    found = refusal(await asker.answer(number))
    assert (found.code(), info_of(found).reason) == (code, reason)
    await asker.done()


async def test_a_repeated_start_takes_effect_once(bench: Bench, stubs: Stubs, asker: Asker) -> None:
    session = (await stubs.workflows.OpenClientSession(workflows_pb2.OpenClientSessionRequest())).session_id
    identity = RequestIdentity(session=ClientSession(id=session, sequence=1, lowest_unacknowledged=1))
    again = Asker(stubs)
    await again.hello()
    started = []
    for each in (asker, asker, again):
        (number,) = await each.start(start("", request=identity))
        started.append((await each.answer(number)).started.workflow_id)
    assert len(set(started)) == 1


async def test_waiting_for_nobody_is_refused(bench: Bench, asker: Asker) -> None:
    unnamed, nobody = await asker.wait(WaitWorkflowRequest(), WaitWorkflowRequest(workflow_id="nobody"))
    answers = await asker.answers(2)
    assert info_of(refusal(answers[unnamed])).metadata["field"] == "workflow_id"
    assert info_of(refusal(answers[nobody])).reason == "WORKFLOW_NOT_FOUND"


async def test_waiting_for_what_is_deleted_meanwhile_is_refused(bench: Bench, asker: Asker) -> None:
    bench.start("w")
    (number,) = await asker.wait(WaitWorkflowRequest(workflow_id="w"))
    await waits(bench, 1)
    bench.is_leading = False  # so that nobody is told before both are done
    terminate(bench)
    bench.driver.now_ms += 1
    bench.apply(commands.DeleteWorkflow("default", "w", choices.DeleteEffects.KEEP))
    bench.is_leading = True
    bench.notifier.wake_all()
    assert info_of(refusal(await asker.answer(number))).reason == "WORKFLOW_NOT_FOUND"


@pytest.mark.parametrize("error", [NotLeader("n2"), LostLeadership("lost")], ids=["not leader", "lost"])
async def test_a_wait_sees_everything_that_was_acknowledged_before(
    bench: Bench, asker: Asker, error: Exception
) -> None:
    bench.start("w")
    bench.barrier_error = error
    (number,) = await asker.wait(WaitWorkflowRequest(workflow_id="w"))
    found = refusal(await asker.answer(number))
    assert found.code() is grpc.StatusCode.UNAVAILABLE


async def test_what_nobody_expected_is_internal(bench: Bench, asker: Asker) -> None:
    bench.refuse = lambda command: RuntimeError("broken")
    (number,) = await asker.start(start())
    found = refusal(await asker.answer(number))
    assert (found.code(), info_of(found).reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    bench.refuse = lambda command: None
    (number,) = await asker.start(start())
    assert (await asker.answer(number)).HasField("started")


# --- what is not waited for any more


async def test_a_cancelled_wait_is_not_answered_and_leaves_nothing_behind(bench: Bench, asker: Asker) -> None:
    bench.start("v")
    bench.start("w")
    first, second = await asker.wait(WaitWorkflowRequest(workflow_id="v"), WaitWorkflowRequest(workflow_id="w"))
    await waits(bench, 2)
    await asker.cancel(first, 99)
    await waits(bench, 1)
    terminate(bench, "v")
    terminate(bench, "w")
    assert (await asker.answer(second)).workflow.status == TERMINATED
    await asker.done()


async def test_a_start_that_is_cancelled_on_its_way_goes_on(bench: Bench, asker: Asker) -> None:
    bench.gate.clear()
    number = await asker.outcome(start())
    await until("the start", lambda: bench.submitted_of(commands.StartWorkflow))
    await asker.cancel(number)
    (other,) = await asker.start(start("v"))
    await until("both", lambda: len(bench.submitted_of(commands.StartWorkflow)) == 2)
    bench.gate.set()
    assert (await asker.answer(other)).started.workflow_id == "v"
    assert bench.driver.header("w").status.name == "RUNNING"
    await asker.done()


async def test_a_client_that_goes_away_leaves_nothing_behind(bench: Bench, asker: Asker) -> None:
    bench.start("w")
    await asker.wait(WaitWorkflowRequest(workflow_id="w"))
    await waits(bench, 1)
    asker.call.cancel()
    await until("the stream to be forgotten", lambda: bench.notifier._watchers == {})


async def test_for_a_client_that_does_not_read_no_payloads_are_kept(bench: Bench, asker: Asker) -> None:
    """Its answers wait as keys until they can be written: those that are made do not grow with their number."""
    made = 0
    count = 400
    output = b'{"x":"%s"}' % (b"x" * 60_000)
    for number in range(count):
        bench.start(f"w{number}")
    numbers = await asker.wait(*(WaitWorkflowRequest(workflow_id=f"w{n}") for n in range(count)))
    await waits(bench, count)
    answer_of = ask_stream.AskConnection._shown

    def counted(self: ask_stream.AskConnection, wait: ask_stream._Wait) -> pb.Answer | None:
        nonlocal made
        made += 1
        return answer_of(self, wait)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ask_stream.AskConnection, "_shown", counted)
        for number in range(count):
            finish(bench, f"w{number}", output)
        await asyncio.sleep(0.3)
        assert 0 < made < count / 4  # about a frame more than what the transport takes
        assert set(await asker.answers(count)) == set(numbers)
        assert made == count


# --- the stream


async def test_the_first_frame_is_hello_and_no_other_is(stubs: Stubs) -> None:
    silent, twice = Asker(stubs), Asker(stubs)
    await silent.wait(WaitWorkflowRequest(workflow_id="w"))
    await twice.hello()
    await twice.say(hello=pb.AskHello())
    for asker, field in ((silent, "hello"), (twice, "frame")):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await soon("the failure", asker.call.read())
        assert info_of(caught.value).metadata["field"] == field


async def test_two_asks_do_not_have_one_number(bench: Bench, asker: Asker) -> None:
    bench.start("w")
    ask = pb.Ask(number=1, wait=WaitWorkflowRequest(workflow_id="w"))
    await asker.say(asks=pb.Asks(asks=[ask, ask]))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await soon("the failure", asker.call.read())
    assert info_of(caught.value).metadata["field"] == "ask.number"


async def test_elsewhere_than_at_the_leader_the_client_is_sent_there(bench: Bench, stubs: Stubs) -> None:
    bench.lose_leadership()
    asker = Asker(stubs)
    await asker.say(hello=pb.AskHello())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await soon("the failure", asker.call.read())
    assert (caught.value.code(), info_of(caught.value).reason) == (grpc.StatusCode.UNAVAILABLE, "NOT_LEADER")
    assert info_of(caught.value).metadata["leader_address"] == "127.0.0.1:7402"


@pytest.mark.parametrize("is_told", [True, False], ids=["told", "found out"])
async def test_when_the_node_leads_no_longer_the_stream_ends_after_what_is_on_its_way(
    bench: Bench, stubs: Stubs, monkeypatch: pytest.MonkeyPatch, is_told: bool
) -> None:
    monkeypatch.setattr(ask_stream, "LEADERSHIP_CHECK_SECONDS", 0.01)
    asker = Asker(stubs)
    await asker.hello()
    number = await asker.outcome(start("w"))
    await waits(bench, 1)
    bench.gate.clear()
    (late,) = await asker.start(start("v"))
    await until("the start", lambda: len(bench.submitted_of(commands.StartWorkflow)) == 2)
    bench.is_leading, bench.leader = False, "n2"
    if is_told:
        bench.notifier.wake_all()
    await asyncio.sleep(0.05)
    bench.refuse = lambda command: OutcomeUnknown()
    bench.gate.set()
    answers = await asker.answers(2)
    # It need not start again, only wait elsewhere; and of the other one nothing is known.
    assert answers[number].started.workflow_id == "w"
    assert info_of(refusal(answers[late])).reason == "OUTCOME_UNKNOWN"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await soon("the failure", asker.call.read())
    assert (caught.value.code(), info_of(caught.value).reason) == (grpc.StatusCode.UNAVAILABLE, "OUTCOME_UNKNOWN")
    assert info_of(caught.value).metadata["leader_address"] == "127.0.0.1:7402"
    assert bench.notifier._watchers == {}
