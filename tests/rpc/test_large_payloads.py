"""Payloads above what the log takes: in by every door, whole for whoever reads or works, and every failure told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable
from typing import Any

import grpc.aio
import msgspec
import pytest

from orchestrator.engine import behaviour, commands, limits
from orchestrator.engine.blob_commands import BlobsDeleted, DeleteBlobs, HoldBlobs
from orchestrator.engine.blobs import BlobRef, ref_to
from orchestrator.engine.choices import DeleteEffects, TerminateCompensation
from orchestrator.engine.commands import RaiseBehaviour
from orchestrator.engine.model import Table, TaskStatus, WorkflowStatus
from orchestrator.engine.secret_commands import PutSecret
from orchestrator.integrations.blobs.store import BlobCorrupt, BlobMissing, StoreUnavailable, checked
from orchestrator.rpc import searching, showing, whole, workers
from orchestrator.rpc.blob_access import BlobAccess
from orchestrator.rpc.large_payloads import FIELDS
from orchestrator.storage.search import Page
from orchestrator_api.v1 import asks_pb2, common_pb2, definitions_pb2, events_pb2, workers_pb2
from orchestrator_api.v1 import workflows_pb2 as pb
from tests.engine.driver import simple, workflow
from tests.rpc.bench import Bench, Stubs, Worker, served, soon, until
from tests.rpc.statuses import info_of

MIB = 1 << 20
BYTES_MAX = 4 * MIB


class Values:
    """A store in memory; `fails` is raised by all that it is asked."""

    store_id = "shared"

    def __init__(self) -> None:
        self.kept: dict[str, bytes] = {}
        self.fails: Exception | None = None
        self.gets = 0
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()
        self.go_on.set()

    async def prepare(self) -> None:
        self._answer()

    async def put(self, ref: BlobRef, content: bytes) -> None:
        self._answer()
        self.kept[ref.sha256] = checked(ref, content, "what is put")

    async def get(self, ref: BlobRef) -> bytes:
        self._answer()
        self.gets += 1
        self.reached.set()
        await self.go_on.wait()
        if ref.sha256 not in self.kept:
            raise BlobMissing(f"{ref.sha256} is not there")
        return checked(ref, self.kept[ref.sha256], ref.sha256)

    async def version(self, ref: BlobRef) -> str:
        return "1" if ref.sha256 in self.kept else ""

    async def delete(self, ref: BlobRef, version: str | None = None) -> None:
        self._answer()
        self.kept.pop(ref.sha256, None)

    def _answer(self) -> None:
        if self.fails is not None:
            raise self.fails


@pytest.fixture
def values() -> Values:
    return Values()


@pytest.fixture
def bench(values: Values) -> Bench:
    bench = Bench()
    bench.driver.ok(RaiseBehaviour(behaviour.STREAMS))
    # No cache: what is read is asked for.
    bench.blobs = BlobAccess(values, bytes_max=BYTES_MAX, cache_bytes=0)
    bench.driver.register(
        workflow("order", simple("pay", inputParameters={"cart": "${workflow.input.cart}", "n": 1})),
        workflow("masks", simple("pay"), maskedFields=["cart.card"]),
        workflow("waits", {"name": "h", "taskReferenceName": "h", "type": "HUMAN",
                           "inputParameters": {"cart": "${workflow.input.cart}"}}),
    )
    return bench


@pytest.fixture
async def stubs(bench: Bench) -> AsyncIterator[Stubs]:
    async with served(bench) as stubs:
        yield stubs


def large(size: int = MIB, **more: Any) -> bytes:
    return msgspec.json.encode({"cart": {"items": "x" * size, "card": "4111"}, "n": 1, **more})


def start(given: bytes, name: str = "order", workflow_id: str = "w") -> pb.StartWorkflowRequest:
    return pb.StartWorkflowRequest(name=name, workflow_id=workflow_id, input=common_pb2.Payload(inline=given))


async def failure(call: Awaitable[Any]) -> tuple[grpc.StatusCode, str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await soon("the refusal", call)
    info = info_of(raised.value)
    return raised.value.code(), info.reason, raised.value.details() or ""


async def shown(stubs: Stubs, *, tasks: bool = False, view: Any = pb.VIEW_NATIVE) -> pb.Workflow:
    request = pb.GetWorkflowRequest(workflow_id="w", include_tasks=tasks, view=view)
    return (await soon("the workflow", stubs.workflows.GetWorkflow(request))).workflow


def result(one: workers_pb2.Assignment, output: bytes) -> workers_pb2.TaskResult:
    return workers_pb2.TaskResult(
        workflow_id=one.workflow_id, task_id=one.task_id, fencing_token=one.fencing_token,
        status=pb.TASK_STATUS_COMPLETED, output=common_pb2.Payload(inline=output))


async def test_a_large_input_goes_to_the_worker_and_its_large_output_to_the_caller(
    bench: Bench, stubs: Stubs, values: Values
) -> None:
    given, made = large(3 * MIB), msgspec.json.encode({"receipt": "y" * (2 * MIB)})
    await soon("the start", stubs.workflows.StartWorkflow(start(given)))
    hot = bench.driver.hot()
    assert len(hot.load(hot.execution.input)) < 1000
    worker = Worker(stubs)
    await worker.hello()
    (task,) = await worker.assigned()
    assert json.loads(task.input.inline) == json.loads(given)
    await worker.give(result(task, made))
    (verdict,) = await worker.verdicts()
    assert verdict.verdict == workers_pb2.VERDICT_ACCEPTED
    # Whoever asks sees whole payloads, in every view.
    native = await shown(stubs, tasks=True)
    assert (native.input.inline, native.output.inline) == (given, made)
    assert native.tasks[0].output.inline == made
    view = json.loads((await shown(stubs, tasks=True, view=pb.VIEW_CONDUCTOR)).conductor_json)
    assert (view["input"], view["tasks"][0]["outputData"]) == (json.loads(given), json.loads(made))
    assert b"$blob" not in native.SerializeToString()
    assert set(values.kept) == {row.sha256 for row in bench.driver.state.resident[Table.BLOB].values()}


async def test_what_waits_on_a_stream_of_asks_is_answered_whole(bench: Bench, stubs: Stubs) -> None:
    call = stubs.asks.Ask()
    await call.write(asks_pb2.AskRequest(hello=asks_pb2.AskHello()))
    await soon("the welcome", call.read())
    outcome = asks_pb2.AskOutcome(start=start(large()), wait_ms=60_000, output_only=True)
    await call.write(asks_pb2.AskRequest(asks=asks_pb2.Asks(asks=[asks_pb2.Ask(number=1, outcome=outcome)])))
    worker = Worker(stubs)
    await worker.hello()
    (task,) = await worker.assigned()
    await worker.give(result(task, large()))
    answers: list[Any] = []
    while not any(one.HasField("workflow") for one in answers):
        answers += (await soon("the answers", call.read())).answers.answers
    assert answers[-1].workflow.output.inline == large()
    call.cancel()


async def test_polled_tasks_are_whole_too(bench: Bench, stubs: Stubs) -> None:
    await soon("the start", stubs.workflows.StartWorkflow(start(large())))
    poll = workers_pb2.PollTasksRequest(task_names=["pay"], worker_id="p")
    (task,) = (await soon("a task", stubs.workers.PollTasks(poll))).assignments
    assert json.loads(task.input.inline) == json.loads(large())
    done = workers_pb2.CompleteTaskRequest(result=result(task, large()))
    verdict = (await soon("the verdict", stubs.workers.CompleteTask(done))).verdict
    assert verdict.verdict == workers_pb2.VERDICT_ACCEPTED
    assert bench.driver.header().status is WorkflowStatus.COMPLETED


async def test_a_poll_gets_no_more_than_a_message_takes(
    bench: Bench, stubs: Stubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "MESSAGE_BYTES_MAX", 2 * MIB)
    for number in range(3):
        await soon("a start", stubs.workflows.StartWorkflow(start(large(), workflow_id=f"w{number}")))
    seen: list[list[str]] = []
    for _ in range(3):
        poll = workers_pb2.PollTasksRequest(task_names=["pay"], worker_id="p", max_tasks=9)
        found = (await soon("tasks", stubs.workers.PollTasks(poll))).assignments
        seen.append([one.workflow_id for one in found])
        for one in found:
            done = workers_pb2.CompleteTaskRequest(result=result(one, b"{}"))
            await soon("the verdict", stubs.workers.CompleteTask(done))
    assert sorted(each for one in seen for each in one) == ["w0", "w1", "w2"]
    assert all(len(one) == 1 for one in seen)


async def test_every_door_takes_large_payloads(bench: Bench, stubs: Stubs) -> None:
    await soon("the start", stubs.workflows.StartWorkflow(start(b"{}")))
    payload = common_pb2.Payload(inline=large())
    one = {"workflow_id": "w"}
    requests: list[tuple[type, Any, Any]] = [
        (commands.SignalWorkflow, stubs.workflows.SignalWorkflow,
         pb.SignalWorkflowRequest(**one, name="s", payload=payload)),
        (commands.PushMessage, stubs.workflows.PushMessage, pb.PushMessageRequest(**one, payload=payload)),
        (commands.UpdateVariables, stubs.workflows.UpdateVariables,
         pb.UpdateVariablesRequest(**one, variables=payload)),
        (commands.UpdateTask, stubs.workflows.UpdateTask, pb.UpdateTaskRequest(
            **one, reference="pay", status=pb.TASK_STATUS_COMPLETED, output=payload)),
        (commands.RerunWorkflow, stubs.workflows.RerunWorkflow,
         pb.RerunWorkflowRequest(**one, workflow_input=payload)),
    ]
    for kind, call, request in requests:
        await soon(kind.__name__, call(request))
        assert max(len(getattr(bench.submitted_of(kind)[-1], field)) for field in FIELDS[kind]) < 1000
    assert json.loads((await shown(stubs)).input.inline) == json.loads(large())
    # The same value each time: it is kept once.
    assert len(bench.driver.state.resident[Table.BLOB]) == 1


async def test_masked_fields_are_masked_inside_of_values(stubs: Stubs) -> None:
    await soon("the start", stubs.workflows.StartWorkflow(start(large(), "masks")))
    seen = json.loads((await shown(stubs)).input.inline)
    assert seen["cart"]["card"] == "***" and len(seen["cart"]["items"]) == MIB


async def test_without_a_store_the_limit_says_how_to_get_one(bench: Bench) -> None:
    bench.blobs = None
    async with served(bench) as stubs:
        code, reason, said = await failure(stubs.workflows.StartWorkflow(start(large())))
        assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        assert "the limit is 262144; larger ones need a store outside the log: the setting blob_store" in said
    assert not bench.submitted


async def test_below_the_level_the_limit_says_so(values: Values) -> None:
    bench = Bench()
    bench.blobs = BlobAccess(values, bytes_max=BYTES_MAX)
    bench.order("pay")
    async with served(bench) as stubs:
        _, _, said = await failure(stubs.workflows.StartWorkflow(start(large())))
    assert "larger ones need behaviour level 2" in said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (large(BYTES_MAX), "the limit is 4194304"),
        (b'{"a":"' + b"x" * MIB, "not valid JSON"),
        (b'["' + b"x" * MIB + b'"]', "not a JSON object"),
        (b'{"a":"%b","b":{"$blob":1}}' % (b"x" * MIB), "the key '$blob' is reserved"),
        (b'{"a":"%b","\\u0024blob":1}' % (b"x" * MIB), "the key '$blob' is reserved"),
        (b'{"$blob":1}', "the key '$blob' is reserved"),
        (json.dumps({str(n): "x" * 100 for n in range(5_000)}).encode(), "put many small values into one field"),
    ],
)
async def test_what_can_not_be_kept_is_refused_and_nothing_is_done(
    bench: Bench, stubs: Stubs, values: Values, given: bytes, said: str
) -> None:
    code, reason, message = await failure(stubs.workflows.StartWorkflow(start(given)))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert message.startswith("input: ") and said in message
    assert not bench.submitted and not values.kept


async def test_a_worker_whose_output_can_not_be_kept_is_told_and_its_task_fails(bench: Bench, stubs: Stubs) -> None:
    await soon("the start", stubs.workflows.StartWorkflow(start(b"{}")))
    worker = Worker(stubs)
    await worker.hello()
    (task,) = await worker.assigned()
    await worker.give(result(task, b'{"a":"%b","$blob":1}' % (b"x" * MIB)))
    (verdict,) = await worker.verdicts()
    assert verdict.verdict == workers_pb2.VERDICT_INVALID and "reserved" in verdict.message
    failed = bench.driver.latest("pay")
    assert failed.status is TaskStatus.FAILED_WITH_TERMINAL_ERROR and failed.outcome_unknown


@pytest.mark.parametrize("broken", [b'{"a":"' + b"x" * MIB, b'{"a":' + b"[" * MIB])
async def test_what_a_worker_says_is_valid_before_secrets_are_looked_for_in_it(
    bench: Bench, stubs: Stubs, broken: bytes
) -> None:
    bench.driver.ok(PutSecret("default", "KEY", 1, *bench.secrets.seal("default", "KEY", 1, b"hunter2hunter2")))
    bench.driver.register(workflow("keyed", simple("pay", inputParameters={"key": "${workflow.secrets.KEY}"})))
    worker = Worker(stubs)
    await worker.hello()
    for number, output in enumerate((broken, b'{"said":"hunter2hunter2","more":"%b"}' % (b"x" * MIB))):
        await soon("the start", stubs.workflows.StartWorkflow(start(b"{}", "keyed", f"w{number}")))
        (task,) = await worker.assigned()
        assert b"hunter2hunter2" in task.input.inline
        await worker.give(result(task, output))
        (verdict,) = await worker.verdicts()
        assert (verdict.verdict == workers_pb2.VERDICT_ACCEPTED) is bool(number)
    seen = (await soon("the workflow", stubs.workflows.GetWorkflow(pb.GetWorkflowRequest(workflow_id="w1")))).workflow
    assert json.loads(seen.output.inline)["said"] == "***"


async def test_a_broken_input_is_refused_before_its_schema_is_asked(bench: Bench, stubs: Stubs) -> None:
    bench.driver.register(workflow("checks", simple("pay"), inputSchema={"type": "JSON", "data": {"type": "object"}}))
    code, reason, _ = await failure(stubs.workflows.StartWorkflow(start(b'{"a":"' + b"x" * MIB, "checks")))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


async def test_documents_can_not_have_what_stands_for_values(stubs: Stubs) -> None:
    forged = json.dumps(workflow("forged", simple("a", inputParameters={"x": {"$blob": 1}}))).encode()
    for call in (
        stubs.definitions.RegisterWorkflows(definitions_pb2.RegisterWorkflowsRequest(definition_json=[forged])),
        stubs.workflows.StartWorkflow(pb.StartWorkflowRequest(definition_json=forged)),
        stubs.events.PublishEvent(
            events_pb2.PublishEventRequest(event="e", payload=common_pb2.Payload(inline=b'{"$blob":1}'))),
    ):
        code, _, said = await failure(call)
        assert code is grpc.StatusCode.INVALID_ARGUMENT and "the key '$blob' is reserved" in said


async def test_a_store_that_is_away_refuses_starts_and_holds_results(
    bench: Bench, stubs: Stubs, values: Values
) -> None:
    await soon("the start", stubs.workflows.StartWorkflow(start(b"{}")))
    worker = Worker(stubs)
    await worker.hello()
    (task,) = await worker.assigned()
    values.fails = StoreUnavailable("it is away")
    before = len(bench.submitted)
    code, reason, said = await failure(stubs.workflows.StartWorkflow(start(large(), workflow_id="w2")))
    assert (code, reason) == (grpc.StatusCode.UNAVAILABLE, "BLOB_STORE_UNAVAILABLE") and "it is away" in said
    assert len(bench.submitted) == before
    await worker.give(result(task, large()))
    # The stream goes on meanwhile, and with it all else of the worker.
    await worker.say(heartbeat=workers_pb2.WorkHeartbeat(all_attempts=True))
    await worker.next("alive")
    assert bench.driver.latest("pay").status is TaskStatus.IN_PROGRESS
    values.fails = None
    (verdict,) = await worker.verdicts()
    assert verdict.verdict == workers_pb2.VERDICT_ACCEPTED


async def test_what_is_being_deleted_is_put_again_when_it_is_gone(
    bench: Bench, stubs: Stubs, values: Values
) -> None:
    await soon("the start", stubs.workflows.StartWorkflow(start(large())))
    driver = bench.driver
    driver.now_ms += 1
    driver.ok(commands.TerminateWorkflow("default", "w", "", TerminateCompensation.SKIP))
    driver.ok(commands.DeleteWorkflow("default", "w", DeleteEffects.KEEP))
    driver.now_ms += limits.BLOB_UNUSED_MS
    driver.ok(DeleteBlobs((1,)))
    again = asyncio.ensure_future(stubs.workflows.StartWorkflow(start(large())))
    await until("a start that finds it", lambda: len(bench.submitted_of(HoldBlobs)) > 1)
    values.kept.clear()
    driver.ok(BlobsDeleted((1,)))
    await soon("the start", again)
    (row,) = driver.state.resident[Table.BLOB].values()
    assert (row.number, row.uses) == (2, 1)
    assert set(values.kept) == {row.sha256}


@pytest.mark.parametrize(("damage", "reason"), [(None, "BLOB_MISSING"), (b"other", "BLOB_CORRUPT")])
async def test_a_value_that_is_lost_is_named_to_readers_and_fails_attempts(
    bench: Bench, stubs: Stubs, values: Values, damage: bytes | None, reason: str
) -> None:
    await soon("the start", stubs.workflows.StartWorkflow(start(large())))
    ((sha256, _),) = values.kept.items()
    values.kept = {} if damage is None else {sha256: damage}
    code, said, message = await failure(
        stubs.workflows.GetWorkflow(pb.GetWorkflowRequest(workflow_id="w")))
    assert (code, said) == (grpc.StatusCode.DATA_LOSS, reason) and sha256 in message
    worker = Worker(stubs)
    await worker.hello()
    await until("the attempt to fail", lambda: bench.driver.hot().tasks[1].status is TaskStatus.FAILED)
    failed = bench.driver.hot().tasks[1]
    assert failed.error_code == reason and sha256 in failed.reason


async def test_a_task_waits_for_a_store_that_is_away(bench: Bench, stubs: Stubs, values: Values) -> None:
    await soon("the start", stubs.workflows.StartWorkflow(start(large())))
    values.fails = StoreUnavailable("it is away")
    worker = Worker(stubs)
    await worker.hello()
    poll = pb.GetWorkflowRequest(workflow_id="w")
    assert (await failure(stubs.workflows.GetWorkflow(poll)))[:2] == (
        grpc.StatusCode.UNAVAILABLE, "BLOB_STORE_UNAVAILABLE")
    values.fails = None
    (task,) = await worker.assigned()
    assert json.loads(task.input.inline) == json.loads(large())


async def test_what_is_cancelled_while_its_values_are_read_is_not_handed_out(
    bench: Bench, stubs: Stubs, values: Values
) -> None:
    values.go_on.clear()
    await soon("the start", stubs.workflows.StartWorkflow(start(large())))
    worker = Worker(stubs)
    await worker.hello()
    await soon("the store to be asked", values.reached.wait())
    await soon("the end", stubs.workflows.TerminateWorkflow(pb.TerminateWorkflowRequest(workflow_id="w")))
    await until("its slot to be free", lambda: not bench.driver.state.leases)
    values.go_on.set()
    # The next one is handed out, and it alone.
    await soon("the start", stubs.workflows.StartWorkflow(start(b'{"n":2}', workflow_id="w2")))
    (task,) = await worker.assigned()
    assert task.workflow_id == "w2"


async def test_who_awaits_a_workflow_sees_whole_tasks(stubs: Stubs) -> None:
    await soon("the start", stubs.workflows.StartWorkflow(start(large(), "waits")))
    for view in (pb.VIEW_NATIVE, pb.VIEW_CONDUCTOR):
        request = pb.AwaitWorkflowRequest(
            workflow_id="w", wait_ms=60_000, view=view, return_strategy=pb.RETURN_STRATEGY_BLOCKING_TASK_INPUT)
        answer = (await soon("the answer", stubs.workflows.AwaitWorkflow(request))).awaited
        shown = answer.task.input.inline if view == pb.VIEW_NATIVE else answer.conductor_json
        assert shown.count(b"x") >= MIB and b"$blob" not in shown


async def test_what_is_too_large_together_is_told(
    bench: Bench, stubs: Stubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(whole, "MESSAGE_BYTES_MAX", 2 * MIB)
    bench.driver.register(workflow("twice", simple("pay", inputParameters={
        "a": "${workflow.input.cart}", "b": "${workflow.input.cart}"})))
    await soon("the start", stubs.workflows.StartWorkflow(start(large(MIB * 3 // 2), "twice")))
    worker = Worker(stubs)
    await worker.hello()
    terminal = TaskStatus.FAILED_WITH_TERMINAL_ERROR
    await until("the task to fail", lambda: bench.driver.latest("pay").status is terminal)
    failed = bench.driver.latest("pay")
    assert failed.error_code == "LIMIT_EXCEEDED" and "the limit is 2097152" in failed.reason
    code, reason, _ = await failure(
        stubs.workflows.GetWorkflow(pb.GetWorkflowRequest(workflow_id="w", include_tasks=True)))
    assert (code, reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "ANSWER_TOO_LARGE")


async def test_pages_of_whole_executions_are_no_larger_than_a_message(
    bench: Bench, stubs: Stubs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(showing, "ANSWER_BYTES_MAX", 2 * MIB)
    monkeypatch.setattr(searching, "FULL_PAGE_BYTES", MIB)
    for number, given in enumerate((b"{}", large(MIB * 3 // 2), large(MIB * 7 // 4), b"{}")):
        await soon("the start", stubs.workflows.StartWorkflow(start(given, "waits", f"w{number}")))
    rows = [bench.driver.header(f"w{number}") for number in range(4)]
    bench.pages = lambda wanted, size, token: Page(
        rows[int(token or 0) :][:size], str(int(token or 0) + size) if int(token or 0) + size < 4 else "")
    found: list[tuple[str, ...]] = []
    token = ""
    while True:
        request = pb.SearchWorkflowsRequest(full=True, page=common_pb2.PageRequest(token=token))
        page = await soon("a page", stubs.workflows.SearchWorkflows(request))
        found.append(tuple(one.workflow_id for one in page.workflows))
        token = page.next_token
        if not token:
            break
    assert found == [("w0", "w1"), ("w2",), ("w3",)]


async def test_a_cache_of_a_few_values_spares_the_store(values: Values) -> None:
    access = BlobAccess(values, bytes_max=BYTES_MAX, cache_bytes=25)
    refs = []
    for text in (b"a" * 10, b"b" * 10, b"c" * 10):
        ref = ref_to("shared", text)
        await access.put({ref: text})
        refs.append(ref)
    await access.get(refs[1:])
    assert values.gets == 0
    await asyncio.gather(access.get(refs[:1]), access.get(refs[:1]))
    assert values.gets == 1
    values.kept[refs[1].sha256] = b"broken...."
    with pytest.raises(BlobCorrupt):
        await access.get(refs)
