"""Who looks on: through the SDK, waiting and watching; and without it, asking a node that may lead no longer."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import grpc.aio

from orchestrator_api.v1 import definitions_pb2, workflows_pb2
from orchestrator_client import errors
from orchestrator_client.client import Client
from orchestrator_client.connection import Node
from orchestrator_client.execution import read_execution
from tests.simulation.callers import REGISTER, Caller
from tests.simulation.cluster import SimulatedCluster
from tests.simulation.history import FAILED, OK, REFUSED, UNKNOWN, Operation, View, version_of
from tests.simulation.people import Space

if TYPE_CHECKING:
    from tests.simulation.workload import Work


class Spectator(Caller):
    """Waits for workflows and watches them, several at a time, while leaders come and go."""

    def __init__(self, cluster: SimulatedCluster, name: str, space: Space, work: Work) -> None:
        self._views: dict[asyncio.Task[None], None] = {}
        super().__init__(cluster, name, space, work)

    async def live(self) -> None:
        client = await self.client
        while not self.work.stopped:
            await asyncio.sleep(self.dice.expovariate(1.0))
            self._views = {view: None for view in self._views if not view.done()}
            if self.space.started and len(self._views) < 3:
                self._views[asyncio.ensure_future(self._look(client))] = None
        # Everything but the switches comes to an end, and all who wait for it must learn it.
        await asyncio.gather(*self._views)
        self.work.callers_left -= 1

    async def _look(self, client: Client) -> None:
        roll = self.dice.random()
        if roll < 0.2:
            await self._start_and_wait(client)
        elif roll < 0.4:
            await self._wait(client, self.dice.choice(self.space.started[-20:]))
        elif roll < 0.55:
            await self._watch(client, self.dice.choice(self.space.switches), self.dice.uniform(1, 10))
        else:
            await self._watch(client, self.dice.choice(self.space.started[-20:]), None)

    async def _start_and_wait(self, client: Client) -> None:
        mark = self._mark()
        name = self.dice.choice(self.space.names)
        operation = self.history.invoke(self.name, "start", mark, name)

        async def start() -> str:
            arguments = self._start_arguments(mark)
            try:
                await client.start_and_wait(
                    name, arguments.pop("input"), id=mark, timeout_s=self.dice.choice((3.0, 30.0)), **arguments
                )
            except (errors.WorkflowFailed, errors.DeadlineExceeded):
                """It has started."""
            return self.space.place(mark)

        if await self._call(operation, start()) == OK:
            self._started(operation)

    async def _wait(self, client: Client, workflow_id: str) -> None:
        operation = self.history.invoke(self.name, "wait", self.space.place(workflow_id))
        execution = None

        async def wait() -> str:
            nonlocal execution
            execution = await client.wait(workflow_id, self.dice.choice((1.0, 5.0, 60.0)))
            return str(execution.status)

        outcome = await self._call(operation, wait())
        if execution is not None:
            self.history.read(operation, *version_of(execution))
        elif outcome == REFUSED:
            self.history.not_found(operation)

    async def _watch(self, client: Client, workflow_id: str, for_seconds: float | None) -> None:
        """To its end; or for a while, and then the watcher goes away."""
        while True:
            operation = self.history.invoke(self.name, "watch", self.space.place(workflow_id))
            view = View(self.history, operation)

            async def watch(view: View = view) -> str:
                async with asyncio.timeout(for_seconds):
                    async for execution in client.watch(workflow_id, tasks=self.dice.random() < 0.5):
                        view.show(execution)
                if not view.terminal:
                    self.cluster.watcher.violated(f"{view.operation} ended before the workflow did")
                return view.terminal

            try:
                outcome = await self._call(operation, watch())
            except TimeoutError:
                return self.history.complete(operation, UNKNOWN, "went away")
            if outcome == REFUSED:
                self.history.not_found(operation)
            if outcome != FAILED or for_seconds is not None:
                return None


READ_SECONDS = 3.0


class Reader(Caller):
    """Asks one node after the other, whoever leads, and has the patience to hear one that was away for a while.

    The SDK would have turned to another one long since; nothing that it finds there may be older for that.
    """

    async def live(self) -> None:
        client = await self.client
        nodes = [client.connection.node(address) for address in self.cluster.endpoints]
        questions: dict[asyncio.Task[None], None] = {}
        while not self.work.stopped:
            await asyncio.sleep(self.dice.expovariate(8.0))
            questions = {question: None for question in questions if not question.done()}
            if self.work.is_prepared and len(questions) < 8:
                questions[asyncio.ensure_future(self._ask(self.dice.choice(nodes)))] = None
        await asyncio.gather(*questions)
        self.work.callers_left -= 1

    async def _ask(self, node: Node) -> None:
        roll, space = self.dice.random(), self.space
        if roll < 0.3:
            operation = Operation(self.name, "read", space.place(REGISTER), "", self.history.now())
            definition = definitions_pb2.GetWorkflowDefinitionRequest(namespace=space.namespace, name=REGISTER)
            call: Any = node.definitions.GetWorkflowDefinition(definition, timeout=READ_SECONDS)
        else:
            workflow_id = self.dice.choice(space.started[-20:] if roll < 0.7 and space.started else space.switches)
            operation = Operation(self.name, "get", space.place(workflow_id), "", self.history.now())
            request = workflows_pb2.GetWorkflowRequest(namespace=space.namespace, workflow_id=workflow_id)
            call = node.workflows.GetWorkflow(request, timeout=READ_SECONDS)
        try:
            reply = await call
        except grpc.aio.AioRpcError:
            # Most nodes do not lead: only what is answered belongs to the history.
            return
        self.history.operations.append(operation)
        self._answered(operation, reply)

    def _answered(self, operation: Operation, reply: Any) -> None:
        if operation.kind == "read":
            return self.history.complete(operation, OK, json.loads(reply.definition_json)["description"])
        execution = read_execution(reply.workflow)
        self.history.complete(operation, OK, str(execution.status))
        return self.history.read(operation, *version_of(execution))
