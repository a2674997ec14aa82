"""How a session's stream is opened again: soon, and ever more seldom while nobody takes it."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator_client import Client
from orchestrator_client.connection import Connection
from orchestrator_client.retry import DELAY_MAX_S, CallRetry, TryAgain
from orchestrator_client.status import Failure
from tests.client.fake_cluster import FakeCluster
from tests.client.worker_side import Gate, working

ATTEMPTS = 12


class Delays:
    """Takes the place of the pauses between attempts: notes them, and lets so many pass at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seconds: list[float] = []
        self.enough = asyncio.Event()
        monkeypatch.setattr(Connection, "recover", self._recover)

    async def _recover(self, address: str, failure: Failure, retry: CallRetry) -> TryAgain:
        decision = retry.next(failure, 0.0, address)
        self.seconds.append(decision.after_s)
        if len(self.seconds) >= ATTEMPTS:
            self.enough.set()
            await asyncio.Event().wait()
        return decision


async def test_while_nobody_leads_the_stream_is_tried_ever_more_seldom(
    cluster: FakeCluster, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the last one that was taken has lasted."""
    delays = Delays(monkeypatch)
    gate = Gate()
    async with working(client, gate.task):
        stream = await cluster.stream()
        stream.welcome()
        monkeypatch.setattr("orchestrator_client.work_loop.STABLE_S", 0.0)
        cluster.elect(None)
        stream.break_off()
        await gate.wait(delays.enough)
    assert min(delays.seconds[-3:]) >= DELAY_MAX_S / 2
    assert delays.seconds[0] < DELAY_MAX_S / 10
