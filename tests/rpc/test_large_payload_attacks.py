"""Large payloads of those who mean ill, or are out of luck: nothing of others, no secrets, and no stream that ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import grpc
import msgspec
import pytest

from orchestrator.engine import behaviour, commands, queries
from orchestrator.engine.blob_commands import HeldBlob, HoldBlobs
from orchestrator.engine.blobs import BlobRef, marker_of, ref_to
from orchestrator.engine.choices import IfExists
from orchestrator.engine.commands import RaiseBehaviour, RegisterWorkflows
from orchestrator.engine.model import TaskStatus
from orchestrator.integrations.blobs.store import StoreUnavailable
from orchestrator.rpc import fetched_values
from orchestrator.rpc.blob_access import BlobAccess
from orchestrator_api.v1 import asks_pb2, workers_pb2
from orchestrator_api.v1 import workflows_pb2 as pb
from tests.engine.driver import simple, workflow
from tests.rpc.attempts import expire, result
from tests.rpc.bench import Bench, Stubs, Worker, served, soon, until
from tests.rpc.test_large_payloads import BYTES_MAX, MIB, Values, failure, large, start
from tests.rpc.test_secrets_handed_out import BANK, VALUE, put

BROKEN = b'{"a":"' + b"x" * MIB
THEIRS = b'"a value of another namespace"'
REF = ref_to("shared", THEIRS)
INSIDE = msgspec.json.encode({"store": REF.store, "sha256": REF.sha256, "size": REF.size})
FORK = {"name": "f", "taskReferenceName": "f", "type": "FORK_JOIN", "forkTasks": [[simple("$blob")]]}
JOIN = {"name": "j", "taskReferenceName": "j", "type": "JOIN", "joinOn": ["$blob"]}
SCHEMA = {"type": "JSON", "data": {"type": "object"}, "name": "s", "version": 1}


@pytest.fixture
def values() -> Values:
    return Values()


@pytest.fixture
def bench(values: Values) -> Bench:
    bench = Bench()
    bench.blobs = BlobAccess(values, bytes_max=BYTES_MAX, cache_bytes=0)
    driver = bench.driver
    driver.register(
        workflow("order", simple("pay", inputParameters={"auth": BANK})),
        workflow("forks", FORK, JOIN, outputParameters={"joined": "${j.output}"}),
        workflow("kept", simple("pay"), inputSchema=SCHEMA, enforceSchema=True, inputTemplate={"z": 1}),
        workflow("masks", simple("pay"), maskedFields=["a.b"]),
    )
    put(bench)
    driver.start("forks", "forged")
    driver.ok(RaiseBehaviour(behaviour.STREAMS))
    return bench


@pytest.fixture
async def stubs(bench: Bench) -> AsyncIterator[Stubs]:
    async with served(bench) as stubs:
        yield stubs


async def paying(bench: Bench, stubs: Stubs) -> tuple[Worker, workers_pb2.Assignment]:
    """A worker with an attempt of the workflow w, and with the secret of its input."""
    await soon("the start", stubs.workflows.StartWorkflow(start(b"{}")))
    worker = Worker(stubs)
    await worker.hello()
    (task,) = await worker.assigned()
    assert VALUE.encode() in task.input.inline
    return worker, task


@pytest.mark.parametrize("view", [pb.VIEW_NATIVE, pb.VIEW_CONDUCTOR])
async def test_nobody_is_shown_a_value_by_what_it_is_called(
    bench: Bench, stubs: Stubs, values: Values, view: Any
) -> None:
    driver = bench.driver
    driver.ok(RegisterWorkflows("other", (msgspec.json.encode(workflow("theirs", simple("theirs"))),), False))
    driver.ok(HoldBlobs((HeldBlob(REF.store, REF.sha256, REF.size),)))
    values.kept[REF.sha256] = THEIRS
    driver.ok(commands.StartWorkflow("other", "theirs", 0, "v", IfExists.FAIL, b'{"x":%b}' % marker_of(REF)))
    poll = workers_pb2.PollTasksRequest(task_names=["$blob"], worker_id="p")
    (task,) = (await soon("a task", stubs.workers.PollTasks(poll))).assignments
    done = workers_pb2.CompleteTaskRequest(result=result(task, INSIDE))
    await soon("the verdict", stubs.workers.CompleteTask(done))
    assert marker_of(REF) == driver_output(bench, "j")
    request = pb.GetWorkflowRequest(workflow_id="forged", include_tasks=True, view=view)
    seen = (await soon("the workflow", stubs.workflows.GetWorkflow(request))).SerializeToString()
    assert b"of another namespace" not in seen and REF.sha256.encode() in seen
    assert not values.gets


def driver_output(bench: Bench, reference: str) -> bytes:
    held = bench.driver.hot("forged")
    return queries.output(bench.driver.state, held, bench.driver.latest(reference, "forged"))


async def test_what_is_no_json_is_not_looked_into(stubs: Stubs, bench: Bench) -> None:
    code, reason, said = await failure(stubs.workflows.StartWorkflow(start(BROKEN, "kept")))
    assert (code, reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert "input: it is not valid JSON" in said
    call = stubs.asks.Ask()
    await call.write(asks_pb2.AskRequest(hello=asks_pb2.AskHello()))
    await soon("the welcome", call.read())
    for number, given in ((1, BROKEN), (2, b"{}")):
        ask = asks_pb2.Ask(number=number, start=start(given, "kept", f"w{number}"))
        await call.write(asks_pb2.AskRequest(asks=asks_pb2.Asks(asks=[ask])))
    answers: list[Any] = []
    while len(answers) < 2:
        answers += (await soon("the answers", call.read())).answers.answers
    first, second = sorted(answers, key=lambda one: one.number)
    assert "not valid JSON" in first.refused.message and second.HasField("started")
    call.cancel()


async def test_a_large_output_of_who_has_secrets_is_refused_like_any(bench: Bench, stubs: Stubs) -> None:
    worker, task = await paying(bench, stubs)
    await worker.give(result(task, BROKEN))
    (verdict,) = await worker.verdicts()
    assert verdict.verdict == workers_pb2.VERDICT_INVALID and "not valid JSON" in verdict.message
    assert bench.driver.latest("pay").status is TaskStatus.FAILED_WITH_TERMINAL_ERROR


@pytest.mark.parametrize("is_polled", [True, False])
async def test_no_secret_goes_into_the_store(bench: Bench, stubs: Stubs, values: Values, is_polled: bool) -> None:
    worker, task = await paying(bench, stubs)
    text = "x" * (MIB // 2)
    # In the middle of a value, and where it would be cut.
    output = msgspec.json.encode({"big": text + VALUE + text, "n": 1, VALUE: "y" * MIB})
    if is_polled:
        done = workers_pb2.CompleteTaskRequest(result=result(task, output))
        await soon("the verdict", stubs.workers.CompleteTask(done))
    else:
        await worker.give(result(task, output))
        await worker.verdicts()
    assert bench.driver.latest("pay").status is TaskStatus.COMPLETED and values.kept
    bench.driver.flush()
    written = b"".join(values.kept.values()) + repr(bench.driver.database).encode() + repr(bench.submitted).encode()
    assert VALUE.encode() not in written and (text + "***" + text).encode() in written


async def test_who_has_secrets_can_not_get_the_reserved_key_past_the_door(bench: Bench, stubs: Stubs) -> None:
    """Masks are shorter than what they hide: what was large is small then."""
    worker, task = await paying(bench, stubs)
    await worker.give(result(task, b'{"x":%b,"y":"%b"}' % (marker_of(REF), VALUE.encode() * 20_000)))
    (verdict,) = await worker.verdicts()
    assert verdict.verdict == workers_pb2.VERDICT_INVALID and "reserved" in verdict.message


async def test_a_result_that_waits_for_the_store_ends_with_its_attempt(
    bench: Bench, stubs: Stubs, values: Values
) -> None:
    worker, task = await paying(bench, stubs)
    failures: list[str] = []
    assert bench.blobs is not None
    bench.blobs._on_failure = failures.append
    values.fails = StoreUnavailable("it is away")
    await worker.give(result(task, large()))
    await until("the store to be asked", lambda: bool(failures))
    expire(bench, task.fencing_token)
    await worker.next("cancellations")
    (verdict,) = await worker.verdicts()
    assert verdict.verdict == workers_pb2.VERDICT_FENCED


async def test_what_takes_long_is_done_off_the_loop(bench: Bench, stubs: Stubs) -> None:
    bench_jobs: list[str] = []

    async def off_loop(job: Any) -> Any:
        bench_jobs.append(getattr(job, "func", job).__name__)
        return await asyncio.to_thread(job)

    object.__setattr__(bench.server_backend, "off_loop", off_loop)
    given = msgspec.json.encode({"a": {"b": "4111", "c": ["x"] * 100_000}})
    await soon("the start", stubs.workflows.StartWorkflow(start(given, "masks")))
    seen = (await soon("the workflow", stubs.workflows.GetWorkflow(pb.GetWorkflowRequest(workflow_id="w")))).workflow
    assert json.loads(seen.input.inline)["a"] == {"b": "***", "c": ["x"] * 100_000}
    assert "make" in bench_jobs


async def test_a_worker_with_many_slots_has_few_values_under_way(bench: Bench, stubs: Stubs, values: Values) -> None:
    many = 3 * fetched_values.FETCHES_MAX
    bench.driver.register(workflow("reads", simple("pay", inputParameters={"cart": "${workflow.input.cart}"})))
    for number in range(many):
        given = large(MIB // 2 + number).replace(b'"4111"', b"%d" % number)
        await soon("the start", stubs.workflows.StartWorkflow(start(given, "reads", f"w{number}")))
    get, under_way, most = values.get, set[BlobRef](), 0

    async def slowly(ref: BlobRef) -> bytes:
        nonlocal most
        under_way.add(ref)
        most = max(most, len(under_way))
        for _ in range(100):  # so that all that may be under way are
            await asyncio.sleep(0)
        under_way.discard(ref)
        return await get(ref)

    values.get = slowly  # type: ignore[method-assign]
    worker = Worker(stubs)
    await worker.hello(slots=many)
    seen: list[workers_pb2.Assignment] = []
    while len(seen) < many:
        seen += (await worker.next("assignments")).assignments.assignments
    assert sorted(json.loads(one.input.inline)["cart"]["card"] for one in seen) == list(range(many))
    assert most == fetched_values.FETCHES_MAX


async def test_values_are_handed_out_beside_secrets_and_deep_inside(bench: Bench, stubs: Stubs) -> None:
    def nested(value: Any, levels: int) -> Any:
        for _ in range(levels):
            value = {"x": value}
        return value

    inputs = {"auth": f"Bearer {BANK}", "all": nested("${workflow.input.cart}", 55), "again": f"{BANK}!"}
    bench.driver.register(workflow("deep", simple("pay", inputParameters=inputs), maskedFields=["x.card"]))
    cart = {"items": nested("y" * MIB, 60), "card": "4111"}
    await soon("the start", stubs.workflows.StartWorkflow(start(msgspec.json.encode({"cart": cart}), "deep")))
    worker = Worker(stubs)
    await worker.hello()
    (task,) = await worker.assigned()
    assert json.loads(task.input.inline) == {
        "auth": f"Bearer {VALUE}", "all": nested(cart, 55), "again": f"{VALUE}!"}
    request = pb.GetWorkflowRequest(workflow_id="w", include_tasks=True)
    seen = (await soon("the workflow", stubs.workflows.GetWorkflow(request))).workflow.tasks[0].input.inline
    assert json.loads(seen)["all"] == nested({**cart, "card": "***"}, 55)
    deeper = msgspec.json.encode(nested(cart, 5))
    code, _, said = await failure(stubs.workflows.StartWorkflow(start(deeper, "deep", "v")))
    assert code is grpc.StatusCode.INVALID_ARGUMENT and "nested deeper than 64" in said


async def test_a_node_that_has_another_store_than_others_says_so(
    bench: Bench, stubs: Stubs, caplog: pytest.LogCaptureFixture
) -> None:
    await soon("the start", stubs.workflows.StartWorkflow(start(large())))
    assert not [one for one in caplog.messages if "configured alike" in one]
    bench.driver.ok(HoldBlobs((HeldBlob("elsewhere", REF.sha256, REF.size),)))
    for workflow_id in ("w2", "w3"):
        await soon("the start", stubs.workflows.StartWorkflow(start(large(), workflow_id=workflow_id)))
    (said,) = [one for one in caplog.messages if "configured alike" in one]
    assert "in the store shared here, and others in elsewhere" in said
