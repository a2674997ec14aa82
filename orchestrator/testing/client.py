"""The SDK's client in a test: its calls take the time of the cluster, its waits the time of the test.

The two differ when time is passed over. A call that the SDK makes by itself (a long poll, a sign of life, a retry) runs
in the client's own process, which stands still meanwhile; the deadline that a test gives to `result` is the test's.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from orchestrator.testing.loop import Process, VirtualLoop
from orchestrator.testing.machine import Machine
from orchestrator.testing.rpc import SimulatedChannel
from orchestrator_api.v1 import workflows_pb2
from orchestrator_api.v1.asks_pb2 import Ask
from orchestrator_client.asks import Answer
from orchestrator_client.channels import ChannelFactory
from orchestrator_client.client import Client
from orchestrator_client.connection import ATTEMPT_S, PATIENCE_S, Connection
from orchestrator_client.errors import DeadlineExceeded
from orchestrator_client.execution import Execution
from orchestrator_client.retry import CallRetry, TryAgain
from orchestrator_client.runs import Run
from orchestrator_client.status import Failure

WaitsFor = Callable[[Coroutine[Any, Any, Any]], Coroutine[Any, Any, Any]]
"""Answers what a coroutine does, unless it waits for what will never come."""


def channels(machine: Machine, process: Process) -> ChannelFactory:
    """From a process on the machine to the nodes."""

    def open_channel(address: str) -> Any:
        return SimulatedChannel(machine.network, process, machine.name, address)

    return open_channel


class TestConnection(Connection):
    """Whoever calls, what it takes is done in the client's own process."""

    __test__ = False  # it is none of pytest's

    def __init__(self, loop: VirtualLoop, process: Process, endpoints: Iterable[str], **options: Any) -> None:
        super().__init__(endpoints, **options)
        self._loop = loop
        self._process = process
        # Calls that have not ended; and waits for what becomes of an execution.
        self.under_way = 0
        self.waiting = 0

    def now(self) -> float:  # type: ignore[override]  # there it is anybody's clock, as all are the same
        """By the client's clock, whoever asks."""
        return self._process.local(self._loop.now)

    async def call(
        self,
        method: Any,
        request: Any,
        *,
        mutating: bool = False,
        timeout_s: float | None = None,
        attempt_s: float = ATTEMPT_S,
        starts: bool = False,
    ) -> Any:
        waits = isinstance(request, workflows_pb2.WaitWorkflowRequest)
        self.under_way += not waits
        self.waiting += waits
        try:
            return await self._apart(super().call(
                method, request, mutating=mutating, timeout_s=timeout_s, attempt_s=attempt_s, starts=starts
            ))
        finally:
            self.under_way -= not waits
            self.waiting -= waits

    async def ask(self, ask: Ask, *, timeout_s: float | None = None, attempt_s: float = ATTEMPT_S) -> Answer:
        """Waits are calls of their own, which the time that passes goes by, and an outcome is waited for by one."""
        match ask.WhichOneof("ask"):
            case "wait":
                return await self._ask_alone(ask, timeout_s, attempt_s)
            case "outcome":
                ask = Ask(start=ask.outcome.start)
        self.under_way += 1
        try:
            answer: Answer = await self._apart(super().ask(ask, timeout_s=timeout_s, attempt_s=attempt_s))
            return answer
        finally:
            self.under_way -= 1

    async def ask_any(self, method: Any, request: Any) -> Any:
        return await self._apart(super().ask_any(method, request))

    async def recover(self, address: str, failure: Failure, retry: CallRetry) -> TryAgain:
        self.under_way += 1
        try:
            decision: TryAgain = await self._apart(super().recover(address, failure, retry))
            return decision
        finally:
            self.under_way -= 1

    async def watchful(self, address: str, read: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
        self.waiting += 1
        try:
            return await self._apart(super().watchful(address, read, patience_s))
        finally:
            self.waiting -= 1

    def time_passed(self, seconds: float) -> None:
        """It was passed over: the cluster forgets a session that is not used, and so does the client."""
        self._sessions.rested(seconds)

    def _apart(self, call: Any) -> asyncio.Task[Any]:
        return self._loop.spawn(self._process, call, "call")


class TestRun(Run):
    """Ends its waits when the time of the test says so, or when nothing that could end them is left."""

    __test__ = False

    def __init__(self, connection: Connection, workflow_id: str, waits_for: WaitsFor, **options: Any) -> None:
        super().__init__(connection, workflow_id, **options)
        self._waits_for = waits_for

    async def wait(self, timeout_s: float | None = None, *, tasks: bool = False) -> Execution:
        try:
            async with asyncio.timeout(timeout_s):
                execution: Execution = await self._waits_for(super().wait(timeout_s, tasks=tasks))
                return execution
        except DeadlineExceeded:
            raise
        except TimeoutError:
            status = (await self.get()).status
            raise DeadlineExceeded(f"{self.workflow_id} was still {status} after {timeout_s} s") from None


class TestClient(Client):
    """`Client`, for the test itself."""

    __test__ = False
    connection: TestConnection

    def __init__(self, machine: Machine, endpoints: Iterable[str], waits_for: WaitsFor) -> None:
        assert machine.process is not None
        options: dict[str, Any] = {
            "open_channel": channels(machine, machine.process),
            "rng": random.Random(machine.dice.getrandbits(64)),  # noqa: S311 - a simulation repeats
        }
        self.machine = machine
        self._waits_for = waits_for
        super().__init__(endpoints, **options)

    def _connect(self, addresses: list[str], **options: Any) -> TestConnection:
        assert self.machine.process is not None
        return TestConnection(self.machine.loop, self.machine.process, addresses, **options)

    def _handle(self, workflow_id: str, output_type: type | None, *, existing: bool = False) -> Run:
        return TestRun(self.connection, workflow_id, self._waits_for, output_type=output_type, existing=existing)
