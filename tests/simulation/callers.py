"""Who asks for work: callers that start, read, steer, wait and watch, and remember what they were told."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from orchestrator_client import errors
from orchestrator_client.client import Client
from tests.simulation.cluster import SimulatedCluster
from tests.simulation.history import FAILED, OK, REFUSED, UNKNOWN, Operation, version_of
from tests.simulation.people import CALL_SECONDS, Person, Space

if TYPE_CHECKING:
    from tests.simulation.workload import Work

REGISTER = "register"
"""A definition that says nothing but the value of a register."""


class Caller(Person):
    """Does one thing after the other, and sometimes several at once."""

    def __init__(self, cluster: SimulatedCluster, name: str, space: Space, work: Work) -> None:
        self.work = work
        self.history = work.history
        self.number = 0
        self.patience_seconds = cluster.dice(name + "/patience").choice(CALL_SECONDS)
        super().__init__(cluster, name, space)

    async def live(self) -> None:
        client = await self.client
        while not self.work.stopped:
            await asyncio.sleep(self.dice.expovariate(self.work.rate))
            if not self.work.is_prepared:
                # Nothing is registered yet.
                continue
            if self.dice.random() < 0.2:
                # Several at once, which may share a log entry.
                await asyncio.gather(*(self._operate(client) for _ in range(self.dice.randint(2, 5))))
            else:
                await self._operate(client)
        self.work.callers_left -= 1

    async def _operate(self, client: Client) -> None:
        dice, space = self.dice, self.space
        roll = dice.random()
        if roll < 0.22 or not space.started:
            await self._start(client)
        elif roll < 0.45:
            await self._switch(client, dice.choice(space.switches))
        elif roll < 0.54:
            await self._note(client, dice.choice(space.switches))
        elif roll < 0.62:
            await self._register(client)
        elif roll < 0.85:
            await self._get(client, dice.choice(space.started))
        else:
            await self._steer(client, dice.choice(space.started))

    def _mark(self) -> str:
        self.number += 1
        return f"{self.name}-{self.number}"

    def _start_arguments(self, mark: str) -> dict[str, Any]:
        pad = "x" * self.dice.choice((0, 0, 0, 300, 300, 5_000, 5_000, 40_000))
        given = {"case": self.dice.choice("abz"), "pad": pad}
        return {"input": given, "correlation_id": mark, "priority": self.dice.randint(0, 2), "register": False}

    async def _start(self, client: Client) -> None:
        mark = self._mark()
        name = self.dice.choice(self.space.names)
        roll = self.dice.random()
        # An id of its own, or one for which several compete.
        chosen = mark if roll < 0.3 else f"shared-{self.dice.randint(1, 40)}" if roll < 0.4 else ""
        operation = self.history.invoke(self.name, "start", mark, name)

        is_waited_for = bool(chosen) and self.dice.random() < 0.3

        async def start() -> str:
            arguments = self._start_arguments(mark)
            if not is_waited_for:
                return self.space.place((await client.start(name, id=chosen, **arguments)).workflow_id)
            given, patience = arguments.pop("input"), self.patience_seconds
            with contextlib.suppress(errors.WorkflowFailed):
                await client.start_and_wait(name, given, id=chosen, timeout_s=patience, **arguments)
            return self.space.place(chosen)

        if await self._call(operation, start()) == OK:
            self._started(operation)

    def _started(self, operation: Operation) -> None:
        self.history.started(operation, operation.answer)
        self.space.started.append(operation.answer.partition("/")[2])

    async def _switch(self, client: Client, workflow_id: str) -> None:
        kind = self.dice.choice(("get", "get", "pause", "resume", "terminate" if self.dice.random() < 0.05 else "get"))
        operation = self.history.invoke(self.name, kind, self.space.place(workflow_id))

        async def steer() -> str:
            if kind == "terminate":
                await client.terminate(workflow_id, compensation="skip")
            elif kind == "get":
                return str((await client.get(workflow_id)).status)
            else:
                await getattr(client, kind)(workflow_id)
            return ""

        await self._call(operation, steer())

    async def _note(self, client: Client, workflow_id: str) -> None:
        operation = self.history.invoke(self.name, "note", self.space.place(workflow_id), self._mark())
        await self._call(operation, client.signal(workflow_id, "note", {"n": operation.detail}))

    async def _register(self, client: Client) -> None:
        """Sets the register of the namespace, or reads it."""
        target = self.space.place(REGISTER)
        if self.dice.random() < 0.4:
            operation = self.history.invoke(self.name, "write", target, self._mark())
            await self._call(operation, client.register(register(operation.detail), overwrite=True))
            return

        async def read() -> str:
            try:
                return str((await client.workflow_definition(REGISTER))["description"])
            except errors.NotFound:
                return ""

        await self._call(self.history.invoke(self.name, "read", target), read())

    async def _get(self, client: Client, workflow_id: str) -> None:
        operation = self.history.invoke(self.name, "get", self.space.place(workflow_id))
        execution = None

        async def get() -> str:
            nonlocal execution
            execution = await client.get(workflow_id)
            return str(execution.status)

        outcome = await self._call(operation, get())
        if execution is not None:
            self.history.read(operation, *version_of(execution))
        elif outcome == REFUSED:
            self.history.not_found(operation)

    async def _steer(self, client: Client, workflow_id: str) -> None:
        kind = self.dice.choice(
            ("pause", "resume", "signal", "terminate", "retry", "retry_compensation", "skip_compensation")
        )
        operation = self.history.invoke(self.name, kind, self.space.place(workflow_id))
        if kind == "signal":
            call = client.signal(workflow_id, "go", {"s": 1})
        elif kind == "terminate":
            call = client.terminate(workflow_id, compensation=self.dice.choice(("run", "skip", None)))
        else:
            call = getattr(client, kind)(workflow_id)
        await self._call(operation, call)

    async def _call(self, operation: Operation, call: Any) -> str:
        outcome, answer = OK, None
        try:
            answer = await call
        except (errors.OutcomeUnknown, errors.DeadlineExceeded) as error:
            outcome, answer = UNKNOWN, error.reason
        except (errors.NoLeader, errors.Overloaded) as error:
            outcome, answer = FAILED, error.reason
        except errors.RequestError as error:
            outcome, answer = REFUSED, error.reason
        except errors.ClusterError as error:
            self.cluster.watcher.violated(f"{operation} was answered with {error!r}")
        self.history.complete(operation, outcome, answer)
        return outcome


def register(value: str) -> dict[str, Any]:
    """The definition whose description is the value."""
    noop = {"name": "nothing", "taskReferenceName": "nothing", "type": "NOOP"}
    return {"name": REGISTER, "version": 1, "schemaVersion": 2, "description": value, "tasks": [noop]}
