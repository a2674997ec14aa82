"""A caller without the SDK's session, that sends everything twice."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from orchestrator.testing.machine import EPOCH_MS
from orchestrator_api.v1 import workflows_pb2 as pb
from orchestrator_api.v1.common_pb2 import RequestIdentity
from orchestrator_client import errors
from orchestrator_client.client import Client
from orchestrator_client.runs import object_payload
from tests.simulation.callers import Caller
from tests.simulation.cluster import SimulatedCluster
from tests.simulation.history import OK, REFUSED, UNKNOWN
from tests.simulation.people import Space

if TYPE_CHECKING:
    from tests.simulation.workload import Work

LETTERS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
# Refusals that are not remembered: the same request may be done later, or may have been done before.
NOT_REMEMBERED = ("REQUEST_EXPIRED", "SIGNALS_FULL", "EXECUTION_TOO_LARGE")

Send = Callable[[Client], Awaitable[Any]]
Said = tuple[str, Any]
"""(outcome, answer)"""


class Doubler(Caller):
    """Sends each request at once through two clients that ask different nodes first, again after an unknown outcome,
    and again when it has long been done: always under the same request id."""

    def __init__(self, cluster: SimulatedCluster, name: str, space: Space, work: Work) -> None:
        super().__init__(cluster, name, space, work)
        self.other = self.open_client(space)

    async def live(self) -> None:
        clients = [await self.client, await self.other]
        while not self.work.stopped:
            await asyncio.sleep(self.dice.expovariate(1.0))
            if self.work.is_prepared:
                await (self._start_twice(clients) if self.dice.random() < 0.6 else self._note_twice(clients))
        self.work.callers_left -= 1

    def _identity(self) -> RequestIdentity:
        """A ULID of now, in the cluster's time as far as clients know it."""
        time_ms = max(EPOCH_MS + int(self.cluster.loop.now * 1000), int(self.history.newest_time * 1000))
        value = time_ms << 80 | self.dice.getrandbits(80)
        return RequestIdentity(request_id="".join(LETTERS[value >> 5 * at & 31] for at in reversed(range(26))))

    async def _start_twice(self, clients: list[Client]) -> None:
        mark = self._mark()
        name = self.dice.choice(self.space.names)
        request = pb.StartWorkflowRequest(
            namespace=self.space.namespace, name=name, correlation_id=mark, request=self._identity()
        )
        request.input.CopyFrom(object_payload({"case": self.dice.choice("abz")}, "input"))
        waiting = pb.StartWorkflowAndWaitRequest(start=request, wait_ms=self.dice.choice((1, 1_500)))

        async def start(client: Client) -> str:
            if self.dice.random() < 0.7:
                reply = await client.connection.call(lambda node: node.workflows.StartWorkflow, request)
                return self.space.place(reply.workflow_id)
            held = await client.connection.call(lambda node: node.workflows.StartWorkflowAndWait, waiting)
            return self.space.place(held.workflow.workflow_id)

        operation = self.history.invoke(self.name, "start", mark, name)
        outcome, answer = await self._say_twice(clients, start)
        self.history.complete(operation, outcome, answer)
        if outcome == OK:
            self._started(operation)

    async def _note_twice(self, clients: list[Client]) -> None:
        workflow_id, mark = self.dice.choice(self.space.switches), self._mark()
        request = pb.SignalWorkflowRequest(
            namespace=self.space.namespace, workflow_id=workflow_id, name="note", request=self._identity()
        )
        request.payload.CopyFrom(object_payload({"n": mark}, "payload"))

        async def note(client: Client) -> str:
            await client.connection.call(lambda node: node.workflows.SignalWorkflow, request)
            return ""

        operation = self.history.invoke(self.name, "note", self.space.place(workflow_id), mark)
        self.history.complete(operation, *await self._say_twice(clients, note))

    async def _say_twice(self, clients: list[Client], send: Send) -> Said:
        """What is certain in the end, if anything is."""
        said: list[Said] = []
        for _ in range(5):
            said += await asyncio.gather(*(self._say(client, send) for client in clients))
            if (found := self._certain(said))[0] != UNKNOWN:
                break
            await asyncio.sleep(self.dice.expovariate(1.0))
        if self.dice.random() < 0.5:
            await asyncio.sleep(self.dice.expovariate(0.5))
            found = self._certain([*said, await self._say(self.dice.choice(clients), send)])
        return found

    async def _say(self, client: Client, send: Send) -> Said:
        try:
            return OK, await send(client)
        except errors.RequestError as error:
            return REFUSED, error.reason
        except errors.ClusterError as error:
            # Also NoLeader: the SDK knows nothing of the other sendings.
            return UNKNOWN, error.reason

    def _certain(self, said: list[Said]) -> Said:
        """Of all answers to one request: those that are remembered are the same."""
        done = {answer for outcome, answer in said if outcome == OK}
        refused = {answer for outcome, answer in said if outcome == REFUSED and answer not in NOT_REMEMBERED}
        if len(done) + len(refused) > 1:
            self.cluster.watcher.violated(f"{self.name} was told different things of one request: {said}")
        if done:
            return OK, done.pop()
        if refused:
            return REFUSED, refused.pop()
        # What the SDK sent before the last answer of each call may have been done, or be on its way.
        return UNKNOWN, said[-1][1]
