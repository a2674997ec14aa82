"""One node's gRPC services on a free port, over a real state machine that applies each command as an entry of its own.

No log and no disk: what replication may answer (refusals, lost leadership, slowness) is the test's to say.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import grpc.aio

from orchestrator.engine.commands import AnyCommand, RequestIdentity
from orchestrator.engine.effects import AnyEffect
from orchestrator.engine.model import EXECUTION_TABLES, Row, RowKey, Table
from orchestrator.engine.results import AnyResult
from orchestrator.integrations.work import Outcome, Source, Work
from orchestrator.replication.configuration import Member
from orchestrator.replication.errors import NotLeader, Overloaded
from orchestrator.rpc.backend import Backend
from orchestrator.rpc.blob_access import BlobAccess
from orchestrator.rpc.errors import Addresses
from orchestrator.rpc.handing_out import HandOut
from orchestrator.rpc.runtime_metadata import Environment
from orchestrator.rpc.scripts import CheckSource, Evaluate, unchecked, unevaluated
from orchestrator.rpc.server import RpcServer
from orchestrator.sealing.key_file import KeyFile
from orchestrator.sealing.keys import KEY_BYTES
from orchestrator.sealing.secret_values import SecretValues, without_keys
from orchestrator.services.dispatcher import Dispatcher
from orchestrator.services.liveness import Liveness
from orchestrator.services.notifier import Notifier
from orchestrator.storage.search import Page
from orchestrator_api.v1 import (
    asks_pb2_grpc,
    cluster_pb2_grpc,
    definitions_pb2_grpc,
    events_pb2_grpc,
    schedules_pb2_grpc,
    schemas_pb2_grpc,
    secrets_pb2_grpc,
    services_pb2_grpc,
    workers_pb2,
    workers_pb2_grpc,
    workflows_pb2_grpc,
)
from tests.engine.driver import Driver, decode, simple, workflow
from tests.replication.cluster import wait_until as until

__all__ = ["DEADLINE_S", "Bench", "Stubs", "Worker", "served", "soon", "until"]

DEADLINE_S = 10.0


async def soon(what: str, waited: Awaitable[Any]) -> Any:
    """The awaited, or a failure that says what did not come."""
    try:
        async with asyncio.timeout(DEADLINE_S):
            return await waited
    except TimeoutError as error:
        raise AssertionError(f"waited {DEADLINE_S} s for {what}") from error


def nothing(driver: Driver) -> HandOut:
    """Of a node without keys and variables."""
    return HandOut(lambda: driver.state, without_keys())


class Bench:
    """The node; its log says what the test wants."""

    def __init__(self) -> None:
        self.driver = Driver(check=False)
        self.submitted: list[AnyCommand] = []
        self.identities: list[RequestIdentity | None] = []
        self.refuse: Callable[[AnyCommand], Exception | None] = lambda command: None
        self.refusal: Callable[[], Overloaded | None] = lambda: None
        self.gate = asyncio.Event()  # commands wait while it is not set
        self.gate.set()
        self.is_leading = True
        self.term = 7
        self.leader: str | None = "n1"
        self.grpc_addresses = {"n1": "127.0.0.1:7401", "n2": "127.0.0.1:7402"}
        self.barrier_error: Exception | None = None
        self.status_answer: Any = None
        self.waiting: dict[str, Member] = {}
        self.changed_members: list[tuple[str, ...]] = []
        self.change_error: Exception | None = None
        self.peer_facts: dict[str, dict[str, Any]] = {}
        self.pages: Callable[[Any, int, str], Any] = lambda wanted, size, token: Page([], "")
        self.now = 1000.0
        self.notifier = Notifier()
        self.liveness = Liveness(self.submit_alone, lambda: self.driver.machine, lambda: self.now)
        self.dispatcher = Dispatcher(lambda: self.driver.machine, self.liveness.session_seen)
        self.check_source: CheckSource = unchecked
        self.evaluate: Evaluate = unevaluated
        self.streams: Any = None
        self.blobs: BlobAccess | None = None
        self.environment: dict[str, str] = {}
        self.key_file = base64.b64encode(b"k" * KEY_BYTES)
        self.keys = KeyFile(Path("secret.keys"), lambda path: self.key_file)
        self.keys.load()
        self.secrets = SecretValues(self.keys, os.urandom)
        self.server: RpcServer  # while it is served
        self.server_backend: Backend  # likewise

    async def change_keys(self, text: bytes) -> None:
        """Once the node has seen that its key file has changed."""
        self.key_file = text
        await self.keys.look()

    def backend(self) -> Backend:
        return Backend(
            node="n1",
            cluster_id="c",
            members={"n1": "127.0.0.1:7501", "n2": "127.0.0.1:7502", "n3": "127.0.0.1:7503"},
            log=self,
            addresses=Addresses(lambda: self.leader, lambda node: self.grpc_addresses.get(node, "")),
            dispatch=self.dispatcher,
            signs=self.liveness,
            changes=self.notifier,
            state=lambda: self.driver.state,
            leading=lambda: self.is_leading,
            submit_any=self.submit,
            refusal=lambda: self.refusal(),  # noqa: PLW0108 - a test may set it later
            applied_index=lambda: self.driver.index,
            wait_applied=self.wait_applied,
            load=self.load,
            search=self.search,
            peers=lambda: self.peer_facts,
            log_time_ms=lambda: self.driver.now_ms,
            check_source=self._check_source,
            evaluate=self._evaluate,
            secrets=self.secrets,
            streams=self.streams,
            blobs=self.blobs,
            others=(Environment(self.environment, "TASK_"),),
        )

    async def _check_source(self, source: Source) -> str | None:
        return await self.check_source(source)  # which a test may set when the node is served already

    async def _evaluate(self, work: Work) -> Outcome:
        return await self.evaluate(work)

    # The log, as the services see it.

    async def barrier(self) -> int:
        await asyncio.sleep(0)
        if self.barrier_error is not None:
            raise self.barrier_error
        if not self.is_leading:
            raise NotLeader(self.leader)
        return self.driver.index

    async def wait_leader(self, timeout_s: float) -> str | None:
        return self.leader

    def status(self) -> Any:
        return self.status_answer

    def candidates(self) -> dict[str, Member]:
        return self.waiting

    async def add_member(self, name: str, incarnation: str, address: str) -> None:
        await self.change_members(("add", name, incarnation, address))

    async def remove_member(self, name: str) -> None:
        await self.change_members(("remove", name))

    async def replace_member(self, name: str, incarnation: str, address: str | None = None) -> None:
        await self.change_members(("replace", name, incarnation, address or ""))

    async def change_members(self, change: tuple[str, ...]) -> None:
        await asyncio.sleep(0)
        if self.change_error is not None:
            raise self.change_error
        self.changed_members.append(change)

    async def submit_alone(self, command: AnyCommand) -> AnyResult:
        return await self.submit(command, None)

    async def submit(self, command: AnyCommand, identity: RequestIdentity | None) -> AnyResult:
        self.submitted.append(command)
        self.identities.append(identity)
        if not self.is_leading:
            raise NotLeader(self.leader)
        await asyncio.sleep(0)
        await self.gate.wait()
        error = self.refuse(command)
        if error is not None:
            raise error
        return self.apply(command, identity)

    def apply(self, command: AnyCommand, identity: RequestIdentity | None = None) -> AnyResult:
        """As an entry of its own, at once."""
        result = self.driver.do(command, identity)
        if self.is_leading:
            for effect in self.driver.effects:
                self.perform(effect)
        return result

    def perform(self, effect: AnyEffect) -> None:
        self.liveness.perform(effect)
        self.dispatcher.perform(effect)
        self.notifier.perform(effect)

    async def wait_applied(self, index: int) -> None:
        if index > self.driver.index:
            await asyncio.Event().wait()

    async def load(self, namespace: str, workflow_id: str) -> Sequence[tuple[Table, RowKey, Row]]:
        await asyncio.sleep(0)
        found = [
            (table, key, decode(table, data))
            for (table, key), data in self.driver.database.items()
            if table in EXECUTION_TABLES and key[:2] == (namespace, workflow_id)
        ]
        return sorted(found, key=lambda item: item[:2])

    async def search(self, wanted: Any, *, page_size: int, page_token: str) -> Any:
        return self.pages(wanted, page_size, page_token)

    # What tests do.

    def lose_leadership(self) -> None:
        """As a node does whose role has changed."""
        self.is_leading = False
        self.leader, self.term = "n2", self.term + 1
        self.dispatcher.end("this node leads no longer")
        self.notifier.wake_all()

    def order(self, *names: str, **fields: Any) -> None:
        """Registers a workflow `order` of these tasks, one after the other."""
        self.driver.register(workflow("order", *(simple(name, **fields) for name in names)))

    def start(self, workflow_id: str = "w", given: bytes = b"{}", **fields: Any) -> None:
        self.driver.start("order", workflow_id, given, **fields)
        for effect in self.driver.effects:
            self.perform(effect)

    def go_cold(self, workflow_id: str = "w") -> None:
        self.driver.flush()
        assert self.driver.state.evict(("default", workflow_id))

    def submitted_of(self, kind: type) -> list[Any]:
        return [command for command in self.submitted if isinstance(command, kind)]


class Stubs:
    """A client of the bench."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.workflows: Any = workflows_pb2_grpc.WorkflowServiceStub(channel)
        self.asks: Any = asks_pb2_grpc.AskServiceStub(channel)
        self.definitions: Any = definitions_pb2_grpc.DefinitionServiceStub(channel)
        self.workers: Any = workers_pb2_grpc.WorkerServiceStub(channel)
        self.services: Any = services_pb2_grpc.ServiceRegistryServiceStub(channel)
        self.schemas: Any = schemas_pb2_grpc.SchemaRegistryServiceStub(channel)
        self.secrets: Any = secrets_pb2_grpc.SecretServiceStub(channel)
        self.schedules: Any = schedules_pb2_grpc.ScheduleServiceStub(channel)
        self.events: Any = events_pb2_grpc.EventServiceStub(channel)
        self.cluster: Any = cluster_pb2_grpc.ClusterServiceStub(channel)


@contextlib.asynccontextmanager
async def served(bench: Bench) -> AsyncIterator[Stubs]:
    bench.server_backend = bench.backend()
    bench.server = RpcServer(bench.server_backend)
    await bench.server.start("127.0.0.1", 0)
    # As the SDK has it.
    options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", 64 << 20))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{bench.server.port}", options=options) as channel:
        yield Stubs(channel)
    await bench.server.stop(0)


class Worker:
    """A worker's end of the stream, frame by frame."""

    def __init__(self, stubs: Stubs) -> None:
        self.call = stubs.workers.Work()
        self.frames: list[workers_pb2.WorkResponse] = []
        self._assigned: list[workers_pb2.Assignment] = []
        self._verdicts: list[workers_pb2.TaskVerdict] = []

    async def hello(self, *names: str, **fields: Any) -> workers_pb2.WorkWelcome:
        given: dict[str, Any] = {"worker_id": "w-1", "task_names": names or ("pay",), "slots": 2} | fields
        await self.say(hello=workers_pb2.WorkHello(**given))
        return (await self.next("welcome")).welcome

    async def say(self, **frame: Any) -> None:
        await soon("the server to read", self.call.write(workers_pb2.WorkRequest(**frame)))

    async def next(self, *kinds: str) -> workers_pb2.WorkResponse:
        """The next frame, which must be of one of these kinds."""
        what = " or ".join(kinds)
        frame = await soon(f"a frame of {what}", self.call.read())
        assert frame is not grpc.aio.EOF, f"the stream ended instead of {what}: {await self.call.code()}"
        self.frames.append(frame)
        assert frame.WhichOneof("frame") in kinds, frame
        return frame

    async def assigned(self, count: int = 1) -> list[workers_pb2.Assignment]:
        while len(self._assigned) < count:
            await self._take("assignments")
        found, self._assigned = self._assigned, []
        assert len(found) == count
        return found

    async def verdicts(self, count: int = 1) -> list[workers_pb2.TaskVerdict]:
        """They may come with new attempts, which are kept for `assigned` then."""
        while len(self._verdicts) < count:
            await self._take("assignments", "verdicts")
        found, self._verdicts = self._verdicts, []
        assert len(found) == count
        return found

    async def _take(self, *kinds: str) -> None:
        frame = await self.next(*kinds)
        self._assigned.extend(frame.assignments.assignments)
        self._verdicts.extend(frame.assignments.verdicts)
        self._verdicts.extend(frame.verdicts.verdicts)

    async def give(self, *results: workers_pb2.TaskResult) -> None:
        await self.say(results=workers_pb2.WorkResults(results=results))

    async def ended(self) -> grpc.StatusCode:
        """The status of the stream, which must end without another frame."""
        frame = await soon("the end of the stream", self._read_to_end())
        assert frame is grpc.aio.EOF, frame
        return await soon("the status", self.call.code())

    async def _read_to_end(self) -> Any:
        try:
            return await self.call.read()
        except grpc.aio.AioRpcError:
            return grpc.aio.EOF

    async def failed(self) -> grpc.aio.AioRpcError:
        """The error with which the stream ends."""
        try:
            while await soon("the failure of the stream", self.call.read()) is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError as error:
            return error
        raise AssertionError("the stream ended without an error")
