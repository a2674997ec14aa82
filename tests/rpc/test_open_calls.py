"""Calls are counted, of all and of one client; a stream that is not read is ended, and one that waits is not."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from orchestrator.rpc.errors import RpcFailure
from orchestrator.rpc.open_calls import NEVER, NOT_READ, CallLimits, OpenCalls, Pace

DEADLINE_S = 10.0


def test_each_client_and_all_together_have_a_limit() -> None:
    calls = OpenCalls(CallLimits(calls_max=5, calls_per_client_max=3))
    for _ in range(3):
        calls.begin("a", is_node=False)
    with pytest.raises(RpcFailure) as refused:
        calls.begin("a", is_node=False)
    assert (refused.value.reason, refused.value.metadata) == ("TOO_MANY_CALLS", {"limit": "client_calls_max"})
    for _ in range(2):
        calls.begin("b", is_node=False)
    with pytest.raises(RpcFailure) as refused:
        calls.begin("c", is_node=False)
    assert refused.value.metadata == {"limit": "grpc_calls_max"} and refused.value.retry_after_ms
    # The cluster's own are never refused.
    calls.begin("node", is_node=True)
    calls.end("a")
    calls.end("node")
    calls.begin("b", is_node=False)
    assert calls.count == 5


def test_without_limits_nothing_is_refused() -> None:
    calls = OpenCalls(CallLimits())
    for _ in range(100):
        calls.begin("a", is_node=False)
    for _ in range(100):
        calls.end("a")
    assert calls.count == 0 and not calls._by_client


async def test_a_stream_that_is_not_read_is_ended_and_one_that_has_nothing_to_say_is_not() -> None:
    cut: list[str] = []
    calls = OpenCalls(CallLimits(read_timeout_seconds=0.02), cut.append)
    never = asyncio.Event()

    async def serve(*, writes: bool) -> None:
        with calls.sending() as sending:
            sending.since = sending.time() if writes else NEVER
            await never.wait()

    quiet = asyncio.create_task(serve(writes=False))
    stuck = asyncio.create_task(serve(writes=True))
    done, _ = await asyncio.wait([quiet, stuck], timeout=DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)
    assert done == {stuck} and stuck.cancelled() and cut == [NOT_READ]
    quiet.cancel()
    await asyncio.gather(quiet, return_exceptions=True)
    assert not calls._sending


async def test_calls_that_come_at_once_begin_in_several_turns_and_in_their_order() -> None:
    pace = Pace(per_turn=3)
    began: list[int] = []
    turn = 0

    async def call(number: int) -> None:
        if not pace.begin_now():
            await pace.wait()
        began.append(number)
        per_turn[turn] += 1

    per_turn: Counter[int] = Counter()
    calls = [asyncio.create_task(call(number)) for number in range(20)]
    # Somebody who has gone meanwhile keeps nobody waiting.
    asyncio.get_running_loop().call_soon(calls[10].cancel)
    for turn in range(60):  # noqa: B007 - it is counted by
        await asyncio.sleep(0)
    assert began == [number for number in range(20) if number != 10]
    assert max(per_turn.values()) <= 2 * 3
    assert all(call.done() for call in calls)
    assert pace.begin_now(), "afterwards nobody waits"
