"""Callers in a process of their own: each does one thing after the other, and all of it is written down.

python -m orchestrator.verify.caller PARENT

The parent says what is to be known on standard input; `pause` lets every caller finish what it is at, is answered by
`paused`, and `resume` begins another epoch: objects are never used in two of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio

from orchestrator.cli.die_with_parent import die_with_parent
from orchestrator.verify.connecting import Connecting, Told
from orchestrator.verify.history import Outcome, Recorder
from orchestrator.verify.models import ABSENT, DONE, MADE, TAKEN
from orchestrator.verify.work import Nothing, Number, Order, Work, mail, shown, value
from orchestrator_api.v1.workflows_pb2 import GetWorkflowRequest
from orchestrator_client import (
    AlreadyExists,
    Client,
    ClusterError,
    DeadlineExceeded,
    Execution,
    NoLeader,
    NotFound,
    OutcomeUnknown,
    Overloaded,
    Run,
    WrongState,
)
from orchestrator_client.execution import read_execution

# Shared objects are used for so long, by all callers of all processes at once, and so many of a kind at a time.
GENERATION_S = {"register": 4.0, "mailbox": 1.0}
OBJECTS_AT_ONCE = 2
OPERATIONS_MAX = 60  # on one subject by one process: what is checked stays small
PAUSE_S = (0.01, 0.08)
# The share of reads that go to one node and no other.
PROBES = 0.4
PROBE_S = 2.0
# For everything that must come about once the faults are over.
PATIENCE_S = 180.0
NO_EFFECT = (NoLeader, Overloaded)
DEEDS = {
    "register": 18, "mailbox": 9, "steps": 5, "flaky": 2, "timer": 2, "hold": 2, "saga": 4, "again": 1, "once": 2,
    "look": 3,
}
RECENT = 200


class Callers:
    def __init__(self, settings: dict[str, Any], client: Client, recorder: Recorder) -> None:
        self._name: str = settings["name"]
        self._dice = random.Random(settings["seed"])
        self._work = Work(settings["prefix"])
        self._client = client
        self._recorder = recorder
        self._addresses: list[str] = settings["connecting"]["addresses"]
        self._epoch = int(settings["epoch"])
        self._began = float(settings["began"])
        self._numbers = 0
        self._used: dict[str, int] = {}
        self._recent: list[str] = []
        self._going = asyncio.Event()
        self._going.set()
        self._busy = 0
        self._rest = asyncio.Event()

    def pause(self) -> None:
        self._going.clear()
        self._tell()

    async def at_rest(self) -> None:
        await self._rest.wait()

    def resume(self, epoch: int) -> None:
        self._epoch = epoch
        self._used.clear()
        self._recent.clear()
        self._rest.clear()
        self._going.set()

    def _tell(self) -> None:
        if not self._busy and not self._going.is_set():
            self._rest.set()

    async def forever(self, number: int) -> None:
        """One caller; that it ends by itself is a fault."""
        deeds = {"register": self._use_register, "mailbox": self._use_mailbox, "once": self._once, "look": self._look,
                 "saga": self._saga, "again": self._again}
        try:
            while True:
                await self._going.wait()
                self._busy += 1
                try:
                    kind = self._dice.choices(list(DEEDS), list(DEEDS.values()))[0]
                    await (deeds[kind](number) if kind in deeds else self._simple(number, kind))
                finally:
                    self._busy -= 1
                    self._tell()
                await asyncio.sleep(self._dice.uniform(*PAUSE_S))
        except Exception as error:  # noqa: BLE001 - whatever it is belongs into the history
            self._recorder.fault(f"a caller of {self._name} gave up: {error!r}")

    # -- one operation ---------------------------------------------------------------------------------------------

    async def _do(self, number: int, kind: str, subject: str, call: Callable[[], Awaitable[Any]],
                  argument: Any = None) -> Any:
        """Its answer, or None if it has none; whatever the cluster says of its state is an answer."""
        name = self._recorder.begin(number, kind, subject, argument)
        outcome: Outcome = "answered"
        answer: Any = None
        try:
            answer = await call()
        except AlreadyExists:
            answer = TAKEN
        except NotFound:
            answer = ABSENT
        except WrongState as refused:
            answer = {"is": "refused", "reason": refused.reason}
        except NO_EFFECT:
            outcome = "none"
        except (OutcomeUnknown, DeadlineExceeded):
            outcome = "unknown"
        self._recorder.complete(name, outcome, answer)
        return answer

    async def _start(self, number: int, kind: str, subject: str, input: Any, argument: Any = None) -> Any:
        async def call() -> Any:
            await self._client.start(self._work.workflows[kind], input, id=subject)
            return MADE

        return await self._do(number, "start", subject, call, argument)

    async def _change(self, number: int, kind: str, subject: str, changing: Callable[[], Awaitable[None]],
                      argument: Any = None) -> Any:
        async def call() -> Any:
            await changing()
            return DONE

        return await self._do(number, kind, subject, call, argument)

    def _new_number(self) -> int:
        self._numbers += 1
        return self._numbers

    # -- objects that all callers share ----------------------------------------------------------------------------

    def _shared(self, kind: str) -> str | None:
        """One of those of now; None if this process has used them enough."""
        generation = int((time.monotonic() - self._began) / GENERATION_S[kind])
        number = generation * OBJECTS_AT_ONCE + self._dice.randrange(OBJECTS_AT_ONCE)
        subject = self._work.name(f"{kind}-{self._epoch}x{number}")
        self._used[subject] = self._used.get(subject, 0) + 1
        return subject if self._used[subject] <= OPERATIONS_MAX else None

    async def _use_register(self, number: int) -> None:
        subject = self._shared("register")
        if subject is None:
            return
        run = self._client.run(subject)
        kind = self._dice.choices(("start", "write", "read", "pause", "resume", "terminate"), (3, 10, 12, 2, 2, 0.3))[0]
        if self._used[subject] == 1 or kind == "start":
            await self._start(number, "register", subject, Nothing())
        elif kind == "write":
            written = f"{self._name}.{self._new_number()}"
            change = self._client.update_variables
            await self._change(number, kind, subject, lambda: change(subject, {"x": written}), written)
        elif kind == "read":
            await self._read(number, run, value)
        else:
            changes = {"pause": run.pause, "resume": run.resume, "terminate": run.terminate}
            await self._change(number, kind, subject, changes[kind])

    async def _use_mailbox(self, number: int) -> None:
        subject = self._shared("mailbox")
        if subject is None:
            return
        run = self._client.run(subject)
        kind = self._dice.choices(("start", "signal", "read"), (2, 6, 6))[0]
        if self._used[subject] == 1 or kind == "start":
            await self._start(number, "mailbox", subject, Nothing())
        elif kind == "signal":
            sent = f"{self._name}.{self._new_number()}"
            await self._change(number, kind, subject, lambda: run.signal("mail", {"x": sent}), sent)
        else:
            await self._read(number, run, mail, tasks=True)

    async def _once(self, number: int) -> None:
        """The same key several times at once: one execution, whichever start has made it."""
        subject = self._work.name(f"once-{self._name}x{self._new_number()}")
        x = self._dice.randrange(1000)

        async def start() -> Any:
            run = await self._client.start(self._work.workflows["once"], Number(x), idempotency_key=subject,
                                           idempotency_strategy="return_existing", correlation_id=subject)
            return {"is": "started", "id": run.workflow_id, "existing": run.existing}

        await asyncio.gather(*(self._do(number, "start", subject, start, {"x": x}) for _ in range(2)))

    async def _look(self, number: int) -> None:
        """At what somebody else of this process has begun."""
        if self._recent:
            await self._read(number, self._client.run(self._dice.choice(self._recent)), shown)

    async def _read(self, number: int, run: Run, see: Callable[[Execution], Any], *, tasks: bool = False) -> Any:
        async def call() -> Any:
            return see(await run.get(tasks=tasks))

        if self._dice.random() < PROBES:
            return await self._probe(number, run.workflow_id, see, tasks)
        return await self._do(number, "read", run.workflow_id, call)

    async def _probe(self, number: int, subject: str, see: Callable[[Execution], Any], tasks: bool) -> Any:
        """One node by itself, whoever leads: it may refuse, but what it shows must be true."""
        connection = self._client.connection
        node = connection.node(self._dice.choice(self._addresses))
        request = GetWorkflowRequest(namespace=connection.namespace, workflow_id=subject, include_tasks=tasks)

        async def call() -> Any:
            try:
                reply = await node.workflows.GetWorkflow(request, timeout=PROBE_S)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.NOT_FOUND:
                    return ABSENT
                raise NoLeader(error.details() or "") from error
            return see(read_execution(reply.workflow))

        return await self._do(number, "probe", subject, call)

    # -- work that workers do --------------------------------------------------------------------------------------

    async def _simple(self, number: int, kind: str) -> None:
        ms = {"steps": self._dice.choice((0, 5, 20)), "hold": self._dice.randrange(200, 2_000)}.get(kind, 0)
        x = self._dice.randrange(1000)
        subject = await self._begin(number, kind, Number(x, ms), {"x": x})
        if subject is not None:
            await self._end(number, subject)

    async def _saga(self, number: int) -> None:
        mode = self._dice.choices(("good", "fail", "unknown", "terminated"), (3, 3, 1, 2))[0]
        x, ms = self._dice.randrange(1000), self._dice.randrange(400) if mode == "terminated" else 0
        subject = await self._begin(number, "saga", Order(x, mode, ms), {"x": x, "mode": mode})
        if subject is None:
            return
        if mode == "terminated":
            await asyncio.sleep(self._dice.uniform(0, 0.3))  # at any stage of it
            run = self._client.run(subject)
            await self._change(number, "terminate", subject, lambda: run.terminate("meant", compensation="run"))
        await self._end(number, subject)

    async def _again(self, number: int) -> None:
        """An operator retries what has failed."""
        x = self._dice.randrange(1000)
        subject = await self._begin(number, "again", Number(x), {"x": x})
        for _ in range(20):
            if subject is None or (await self._end(number, subject)).status == "COMPLETED":
                return
            run = self._client.run(subject)
            await self._change(number, "retry", subject, run.retry)

    async def _begin(self, number: int, kind: str, input: Any, argument: dict[str, Any]) -> str | None:
        subject = self._work.name(f"{kind}-{self._name}x{self._new_number()}")
        answer = await self._start(number, kind, subject, input, argument)
        if answer != MADE:
            return None
        self._recent = [*self._recent[-RECENT:], subject]
        return subject

    async def _end(self, number: int, subject: str) -> Execution:
        """Waits for it; that is a read which shows the end."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            seen: list[Execution] = []

            async def call(seen: list[Execution] = seen) -> Any:
                seen.append(await self._client.wait(subject, max(1.0, deadline - time.monotonic())))
                return shown(seen[0])

            await self._do(number, "wait", subject, call)
            if seen:
                return seen[0]
            if time.monotonic() > deadline:
                raise TimeoutError(f"{subject} did not come to its end in {PATIENCE_S} s")


async def main() -> None:
    told = Told()
    settings = await told.open()
    recorder = Recorder(Path(settings["file"]), settings["name"])
    connecting = Connecting.of(settings["connecting"])
    async with connecting.client(settings["deadline_s"]) as client:
        callers = Callers(settings, client, recorder)
        calling = [asyncio.create_task(callers.forever(number)) for number in range(settings["callers"])]
        told.say("ready")
        while (order := await told.next()) is not None:
            if order["do"] == "pause":
                callers.pause()
                await callers.at_rest()
                told.say("paused", begun=recorder.begun, completed=recorder.completed)
            else:
                callers.resume(order["epoch"])
        for each in calling:
            each.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*calling)


def run() -> None:
    die_with_parent(int(sys.argv[1]))
    try:
        asyncio.run(main())
    except (ClusterError, EOFError) as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    run()
