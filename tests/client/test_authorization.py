"""The SDK shows a token with each call, comes back with a new one, and does not show it where others could read it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator_client import (
    Client,
    InsecureConnection,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Worker,
    Workflow,
    task,
)
from orchestrator_client.authorization import TokenFile
from tests.access.issuing import ISSUER, Issuer
from tests.engine.driver import simple, workflow
from tests.rpc.bench import Bench, soon, until
from tests.rpc.guarding import NOW_MS, RULES, Guarded, guarded

LATER = NOW_MS // 1000


@dataclass
class Number:
    x: int


@task
async def pay(number: Number) -> Number:
    return Number(number.x + 1)


order = Workflow("order", input=Number)
order.returns(x=order.step(pay, order.input).x)
ONE = Number(1)


@pytest.fixture
async def bench() -> Bench:
    made = Bench()
    made.driver.register(workflow("payroll", simple("pay")))
    return made


@pytest.fixture
async def guard(bench: Bench, tmp_path: Path) -> AsyncIterator[Guarded]:
    async with guarded(bench, tmp_path) as made:
        bench.grpc_addresses["n1"] = made.address
        yield made


@pytest.fixture
def signer(tmp_path: Path) -> Issuer:
    made = Issuer()
    made.write(tmp_path / "keys.json")
    return made


CORP = f"""
[[jwt]]
name = "corp"
issuer = "{ISSUER}"
audience = "orchestrator"
jwks_file = "keys.json"
leeway_seconds = 0
[[grant]]
to = ["corp:alice"]
role = "admin"
namespaces = ["default"]
"""


@pytest.fixture
async def corp(bench: Bench, tmp_path: Path, signer: Issuer) -> AsyncIterator[Guarded]:
    async with guarded(bench, tmp_path, more=CORP) as made:
        bench.grpc_addresses["n1"] = made.address
        yield made


@pytest.mark.parametrize("streams", [True, False])
async def test_what_is_refused_has_a_type_of_its_own(guard: Guarded, streams: bool) -> None:
    async with Client(guard.address, streams=streams) as client:
        with pytest.raises(Unauthenticated) as missing:
            await client.start("order", {})
        assert missing.value.reason == "CREDENTIALS_MISSING"
        with pytest.raises(Unauthenticated):
            await client.status()
    async with Client(guard.address, token=guard.tokens["starter"], streams=streams) as client:
        with pytest.raises(PermissionDenied) as denied:
            await client.start("payroll", {})
        refused = denied.value
        assert (refused.namespace, refused.name) == ("default", "payroll") and "starter" in refused.role
        with pytest.raises(PermissionDenied) as denied:
            await client.terminate("w")
        assert (denied.value.method, denied.value.role) == ("TerminateWorkflow", "operator or admin")
    async with Client(guard.address, token="orc_aaaa_bbbb", streams=streams, deadline_s=20) as client:
        with pytest.raises(Unauthenticated) as wrong:
            await client.start("order", {})
        assert wrong.value.reason == "TOKEN_INVALID"


async def test_a_token_may_come_from_a_file_that_is_replaced(guard: Guarded, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(guard.tokens["reader"] + "\n")
    async with Client(guard.address, token_file=file) as client:
        assert [found async for found in client.search()] == []
        other = tmp_path / "new"
        other.write_text(guard.tokens["payer"])
        other.replace(file)
        with pytest.raises(PermissionDenied):
            _ = [found async for found in client.search()]


def test_a_file_that_is_empty_for_a_moment_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "token"
    source = TokenFile(file)
    with pytest.raises(InvalidRequest, match="can't be read"):
        source()
    file.write_text("")
    with pytest.raises(InvalidRequest, match="is empty"):
        source()
    file.write_text("one\n")
    assert source() == "one"
    file.write_text("")
    assert source() == "one"
    file.unlink()
    assert source() == "one"
    file.write_text("second")
    assert source() == "second"


async def test_who_may_not_register_starts_what_is_registered(bench: Bench, guard: Guarded) -> None:
    async with Client(guard.address, token=guard.tokens["starter"]) as starter:
        with pytest.raises(NotFound):
            await starter.start(order, ONE)
        async with Client(guard.address, token=guard.tokens["owner"]) as owner:
            await owner.register(order)
        run = await starter.start(order, ONE)
        async with Client(guard.address, token=guard.tokens["payer"]) as payer:
            worker = Worker(payer, [pay], handle_signals=False)
            working = asyncio.ensure_future(worker.run())
            assert await soon("the result", run.result()) == {"x": 2}
            await soon("the worker's end", worker.stop())
            await working


async def test_a_worker_that_may_not_ends_with_the_reason(guard: Guarded) -> None:
    async with Client(guard.address, token=guard.tokens["shipper"]) as client:
        with pytest.raises(PermissionDenied) as denied:
            await soon("the refusal", Worker(client, [pay], handle_signals=False).run())
        assert denied.value.name == "pay"


async def test_streams_go_on_with_a_new_token_when_the_old_one_expires(
    bench: Bench, corp: Guarded, signer: Issuer, caplog: pytest.LogCaptureFixture
) -> None:
    token = signer.token(exp=LATER + 10)
    begun, go_on = asyncio.Event(), asyncio.Event()

    @task
    async def slow(number: Number) -> Number:
        begun.set()
        await go_on.wait()
        return Number(number.x * 2)

    slow_order = Workflow("slow", input=Number)
    slow_order.returns(x=slow_order.step(slow, slow_order.input).x)
    async with Client(corp.address, token=lambda: token) as client:
        worker = Worker(client, [slow], handle_signals=False)
        working = asyncio.ensure_future(worker.run())
        waiting = asyncio.ensure_future(client.start_and_wait(slow_order, Number(21)))
        await soon("the task to begin", begun.wait())
        corp.now_ms += 10_000
        with caplog.at_level(logging.WARNING):
            corp.rules.on_tick()
            await until("both streams to be refused", lambda: corp.refused["TOKEN_EXPIRED"] >= 4)
            await until("the worker to say so", lambda: "reconnects" in caplog.text)
        assert not waiting.done() and not working.done()
        token = signer.token(exp=LATER + 1_000)
        go_on.set()
        assert await soon("the result", waiting) == {"x": 42}
        assert len(bench.driver.state.sessions) == 1
        await soon("the worker's end", worker.stop())
        await working


@pytest.mark.parametrize("streams", [True, False])
async def test_a_token_that_stays_the_same_is_refused_at_once(corp: Guarded, signer: Issuer, streams: bool) -> None:
    async with Client(corp.address, token=signer.token(exp=LATER), streams=streams) as client:
        with pytest.raises(Unauthenticated) as expired:
            await soon("the refusal", client.start("order", {}))
        assert expired.value.reason == "TOKEN_EXPIRED"
        worker = Worker(client, [pay], handle_signals=False)
        with pytest.raises(Unauthenticated):
            await soon("the worker's end", worker.run())


async def test_a_token_that_is_never_renewed_is_told_of_at_the_deadline(corp: Guarded, signer: Issuer) -> None:
    old = signer.token(exp=LATER)
    async with Client(corp.address, token=lambda: old, deadline_s=0.3) as client:
        with pytest.raises(Unauthenticated):
            await soon("the refusal", client.start("order", {}))


async def test_a_stream_that_is_taken_away_for_good_ends_what_is_asked(guard: Guarded, bench: Bench) -> None:
    bench.order("pay")
    async with Client(guard.address, token=guard.tokens["starter"]) as client:
        waiting = asyncio.ensure_future(client.start_and_wait("order", {}))
        await until("the start", lambda: bool(bench.submitted))
        await until("the wait", lambda: bool(bench.notifier._watchers))
        guard.write(RULES.replace('to = ["starter"]', 'to = ["nobody"]'), without="starter")
        await guard.rules.look()
        with pytest.raises(Unauthenticated):
            await soon("the refusal", waiting)


# --- where others could read it


@pytest.mark.parametrize("address", ["10.0.0.1:7400", "node.test:7400", "[2001:db8::1]:7400", "0.0.0.0:7400"])
async def test_a_token_is_not_sent_where_others_could_read_it(address: str) -> None:
    with pytest.raises(InsecureConnection, match="not sent to"):
        Client(["127.0.0.1:7400", address], token="t")
    client = Client(address, token="t", allow_insecure_token=True)
    client.connection.node(address)
    await client.close()


async def test_nor_to_where_a_node_sends_it(bench: Bench, guard: Guarded) -> None:
    bench.order("pay")
    bench.is_leading, bench.leader = False, "n2"
    bench.grpc_addresses["n2"] = "192.0.2.1:7400"
    async with Client(guard.address, token=guard.tokens["starter"]) as client:
        with pytest.raises(InsecureConnection, match=r"192\.0\.2\.1"):
            await soon("the refusal", client.start("order", {}))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "localhost:1", "[::1]:1", "127.3.2.1:1"])
async def test_within_the_machine_it_is_sent(address: str) -> None:
    client = Client(address, token="t")
    client.connection.node(address)
    await client.close()


@pytest.mark.parametrize("token", ["", "a b", "a\nb", "ä"])
async def test_what_is_no_token_is_not_sent(guard: Guarded, token: str) -> None:
    async with Client(guard.address, token=token) as client:
        with pytest.raises(InvalidRequest, match="token"):
            await client.status()


def test_a_token_and_a_file_are_one_too_many() -> None:
    with pytest.raises(InvalidRequest, match="not both"):
        Client("127.0.0.1:1", token="t", token_file="f")
