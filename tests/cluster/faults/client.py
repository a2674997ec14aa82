"""Callers in a process of their own: FILE has a line for each thing that they begin, and for each answer.

A line `pause` on its input lets every caller finish what it is at, and is answered by `paused`; `resume` goes on.

python -m tests.cluster.faults.client PARENT NAME FILE SEED CALLERS ENDPOINTS
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import grpc.aio

from orchestrator.cli.die_with_parent import die_with_parent
from orchestrator_api.v1.common_pb2 import RequestIdentity
from orchestrator_client import (
    AlreadyExists,
    Client,
    DeadlineExceeded,
    NoLeader,
    OutcomeUnknown,
    Overloaded,
    Run,
    Workflow,
    WrongState,
)
from orchestrator_client.status import Failure, Kind
from tests.cluster.faults.work import expected_signals, workflows
from tests.cluster.ledger import Ledger
from tests.cluster.nodes import OPTIONS, Pinned
from tests.cluster.test_retrying_client import now_ms, ulid
from tests.cluster.workload import POLL_S, Number, expected_total

DEADLINE_S = 20.0
# For everything that must come about once the faults are over.
PATIENCE_S = 180.0
ATTEMPT_S = 2.0
PAUSE_S = (0.02, 0.12)
NO_EFFECT = (NoLeader, Overloaded)
PERHAPS = (OutcomeUnknown, DeadlineExceeded)


class Callers:
    def __init__(self, name: str, file: str, seed: int, endpoints: str) -> None:
        self._name = name
        self._file = open(file, "a", buffering=1)  # noqa: SIM115, PTH123 - open as long as the process lives
        self._dice = random.Random(seed)
        self._endpoints = endpoints.split(",")
        self._channels = [grpc.aio.insecure_channel(each, options=OPTIONS) for each in self._endpoints]
        self._client = Client(self._endpoints, deadline_s=DEADLINE_S)
        self._steps, self._signalled, _ = workflows(Ledger())
        self._next = 0
        self._going = asyncio.Event()
        self._going.set()
        self.idle = 0
        self._finished: list[tuple[str, Any]] = []

    async def register(self) -> None:
        await self._client.register(self._steps, self._signalled)

    def pause(self) -> None:
        self._going.clear()

    def resume(self) -> None:
        # Here and not where they wake up: a pause that follows at once must not take them for idle.
        self.idle = 0
        self._going.set()

    async def call(self, number: int) -> None:
        """One caller, which does one thing after the other."""
        # The first asks dead nodes, too, and so waits while the others see how long the cluster really takes.
        deeds = [self._once, self._read] if number == 0 else [self._execution, self._signals, self._read]
        while True:
            if not self._going.is_set():
                self.idle += 1
                await self._going.wait()
            await self._dice.choice(deeds)()
            await asyncio.sleep(self._dice.uniform(*PAUSE_S))

    def _write(self, kind: str, **facts: Any) -> None:
        self._file.write(json.dumps({"kind": kind, "at": time.monotonic(), **facts}) + "\n")

    def _new_id(self) -> tuple[str, int]:
        self._next += 1
        return f"{self._name}-{self._next}", self._dice.randrange(1000)

    # -- what they do ----------------------------------------------------------------------------------------------

    async def _execution(self) -> None:
        workflow_id, x = self._new_id()
        run = await self._start(self._steps, workflow_id, x, [expected_total(x)])
        if run is not None:
            await self._end(run)

    async def _signals(self) -> None:
        workflow_id, x = self._new_id()
        first, second = x, x + 1000
        # Whoever does not know whether a signal came sends it again, and then it may have come twice.
        outputs = [expected_signals(first, second), expected_signals(first, first)]
        run = await self._start(self._signalled, workflow_id, x, outputs[:1])
        if run is None:
            return
        if await self._signal(run, first):
            self._write("also", id=workflow_id, outputs=outputs)
        await self._signal(run, second)
        await self._end(run)

    async def _once(self) -> None:
        """The same request several times, at several nodes: it takes effect once, and has one answer."""
        correlation_id, x = self._new_id()
        identity = RequestIdentity(request_id=ulid(await self._log_time_ms(), self._dice))
        self._write("once", correlation=correlation_id)
        told: list[str] = []
        deadline = time.monotonic() + PATIENCE_S
        while len(told) < 2:
            answers = await self._ask_all(identity=identity, x=x, correlation_id=correlation_id)
            told += [answer.workflow_id for answer in answers if not isinstance(answer, Failure)]
            if refused := [each for each in answers if isinstance(each, Failure) and each.kind is Kind.FINAL]:
                self._write("fault", what=f"the request {correlation_id} was refused for good: {refused[0]}")
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"the request {correlation_id} was not answered in {PATIENCE_S} s: {answers}")
            await asyncio.sleep(self._dice.uniform(*PAUSE_S))
        if len(set(told)) > 1:
            self._write("fault", what=f"one request was answered with {sorted(set(told))}")
        self._write("acknowledged", id=told[0], correlation=correlation_id, outputs=[expected_total(x)])
        await self._end(self._client.run(told[0]))

    async def _ask_all(self, *, identity: RequestIdentity, x: int, correlation_id: str) -> list[Any]:
        channels = self._dice.sample(self._channels, len(self._channels))
        return await asyncio.gather(*(
            Pinned(channel).start("arithmetic", timeout_s=ATTEMPT_S, request=identity, correlation_id=correlation_id,
                                  inline=json.dumps({"x": x}).encode())
            for channel in channels
        ))

    async def _log_time_ms(self) -> int:
        """A node that has just started, and applied nothing yet, says that it is 1970."""
        deadline = time.monotonic() + PATIENCE_S
        while (time_ms := await self._certainly(lambda: now_ms(self._client))) == 0:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no node knew the time in {PATIENCE_S} s")
            await asyncio.sleep(self._dice.uniform(*PAUSE_S))
        return time_ms

    async def _read(self) -> None:
        if not self._finished:
            return
        workflow_id, output = self._dice.choice(self._finished)
        found = await self._certainly(lambda: self._client.get(workflow_id))
        if (found.status, found.output) != ("COMPLETED", output):
            self._write("fault", what=f"{workflow_id} had come to {output}, and is now {found.status} {found.output}")
        self._write("read", id=workflow_id)

    # -- how they do it --------------------------------------------------------------------------------------------

    async def _start(self, workflow: Workflow, workflow_id: str, x: int, outputs: list[Any]) -> Run | None:
        self._write("begun", id=workflow_id, workflow=workflow.name, outputs=outputs)
        unsure = False
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                await self._client.start(workflow, Number(x), id=workflow_id)
            except AlreadyExists:
                if not unsure:
                    raise
            except NO_EFFECT:
                if unsure:
                    continue
                self._write("refused", id=workflow_id)
                return None
            except PERHAPS:
                unsure = True
                continue
            self._write("acknowledged", id=workflow_id, outputs=outputs)
            return self._client.run(workflow_id)
        raise TimeoutError(f"{workflow_id} could not be started in {PATIENCE_S} s")

    async def _signal(self, run: Run, x: int) -> bool:
        """Whether it may have been given twice."""
        unsure = False
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                await run.signal("go", Number(x))
            except NO_EFFECT:
                continue
            except PERHAPS:
                unsure = True
                continue
            except WrongState:
                if not unsure:
                    raise
                return unsure
            self._write("signalled", id=run.workflow_id)
            return unsure
        raise TimeoutError(f"{run.workflow_id} could not be signalled in {PATIENCE_S} s")

    async def _end(self, run: Run) -> None:
        found = await self._certainly(lambda: run.wait(PATIENCE_S))
        self._write("ended", id=run.workflow_id, status=str(found.status), output=found.output)
        self._finished.append((run.workflow_id, found.output))

    async def _certainly(self, call: Callable[[], Awaitable[Any]]) -> Any:
        """Reads may be repeated as one likes."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                return await call()
            except (*NO_EFFECT, *PERHAPS):
                if time.monotonic() > deadline:
                    raise

    async def forever(self, number: int) -> None:
        """One caller; that it ends by itself is a fault."""
        try:
            await self.call(number)
        except Exception as error:  # noqa: BLE001 - whatever it is belongs into the history
            self._write("fault", what=f"a caller of {self._name} gave up: {error!r}")


async def main(name: str, file: str, seed: str, callers: str, endpoints: str) -> None:
    made = Callers(name, file, int(seed), endpoints)
    await made.register()
    calling = [asyncio.create_task(made.forever(number)) for number in range(int(callers))]
    print("ready", flush=True)
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    while line := (await lines.readline()).decode().strip():
        if line == "pause":
            made.pause()
            while made.idle < sum(not each.done() for each in calling):  # noqa: ASYNC110 - many ends, one question
                await asyncio.sleep(POLL_S)
            print("paused", flush=True)
        else:
            made.resume()


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    asyncio.run(main(*sys.argv[2:]))
