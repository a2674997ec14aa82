"""Why a node can't be reached is looked for once, whoever asks, and never where the node was only late."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from orchestrator_client import NoLeader, OutcomeUnknown
from orchestrator_client import connection as connections
from orchestrator_client.diagnosis import Diagnosis
from orchestrator_client.retry import CallRetry
from orchestrator_client.status import Failure, Kind

ADDRESS = "10.0.0.1:7400"


class Looker:
    """Finds a reason when it is told to."""

    def __init__(self) -> None:
        self.looks = 0
        self.found = asyncio.Event()

    async def __call__(self, address: str) -> str:
        self.looks += 1
        await self.found.wait()
        return f"{address} speaks another language"


@pytest.fixture
def looker() -> Looker:
    return Looker()


async def test_a_thousand_who_ask_at_once_look_once(looker: Looker) -> None:
    diagnosis = Diagnosis(looker)
    asked = [asyncio.create_task(diagnosis.reason(ADDRESS)) for _ in range(1_000)]
    asked[0].cancel()
    await asyncio.sleep(0)
    looker.found.set()
    reasons = await asyncio.gather(*asked[1:])
    assert set(reasons) == {f"{ADDRESS} speaks another language"}
    assert await diagnosis.reason(ADDRESS) == reasons[0]
    assert looker.looks == 1
    await diagnosis.close()


async def test_nobody_is_kept_waiting_when_it_is_closed(looker: Looker) -> None:
    diagnosis = Diagnosis(looker)
    asked = asyncio.create_task(diagnosis.reason(ADDRESS))
    await asyncio.sleep(0)
    await diagnosis.close()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(asked, 10)


@pytest.mark.parametrize(
    ("code", "looks"), [(grpc.StatusCode.UNAVAILABLE, 1), (grpc.StatusCode.DEADLINE_EXCEEDED, 0)]
)
async def test_a_call_that_was_too_late_looks_for_no_reason(
    code: grpc.StatusCode, looks: int, looker: Looker
) -> None:
    looker.found.set()
    connection = connections.Connection(
        [ADDRESS], namespace="default", open_channel=grpc.aio.insecure_channel, deadline_s=1.0,
        rng=connections.random.Random(1), explain=looker,
    )
    over = CallRetry(deadline=connection.now() - 1, identified=True, mutating=True, rng=connection.rng)
    with pytest.raises((NoLeader, OutcomeUnknown)):
        await connection.recover(ADDRESS, Failure(Kind.UNREACHABLE, code, "no answer"), over)
    assert looker.looks == looks
    await connection.close()
