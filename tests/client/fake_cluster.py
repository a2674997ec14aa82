"""A cluster that does what a test says: gRPC nodes in this process, one state, faults on order."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio

from orchestrator_api.v1 import (
    asks_pb2_grpc,
    cluster_pb2,
    cluster_pb2_grpc,
    definitions_pb2,
    definitions_pb2_grpc,
    services_pb2,
    services_pb2_grpc,
    workers_pb2,
    workers_pb2_grpc,
    workflows_pb2,
    workflows_pb2_grpc,
)
from orchestrator_api.v1.errors_pb2 import ErrorInfo, ErrorStatus, RetryInfo
from tests.client.fake_asks import FakeAsks

SERVER_OPTIONS = (
    # What a node has to allow: clients ping every two seconds.
    ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.so_reuseport", 0),
)


def error_details(reason: str = "", retry_after_s: float | None = None, **metadata: str) -> bytes:
    """The content of grpc-status-details-bin."""
    status = ErrorStatus()
    if reason:
        detail = status.details.add(type_url="type.googleapis.com/google.rpc.ErrorInfo")
        detail.value = ErrorInfo(reason=reason, domain="orchestrator", metadata=metadata).SerializeToString()
    if retry_after_s is not None:
        info = RetryInfo()
        info.retry_delay.FromNanoseconds(int(retry_after_s * 1e9))
        detail = status.details.add(type_url="type.googleapis.com/google.rpc.RetryInfo")
        detail.value = info.SerializeToString()
    return status.SerializeToString()


class Refused(Exception):
    """Ends a call with a status."""

    def __init__(
        self, code: grpc.StatusCode, reason: str = "", retry_after_s: float | None = None, **metadata: str
    ) -> None:
        super().__init__(reason)
        self.code = code
        self.details = error_details(reason, retry_after_s, **metadata) if reason or retry_after_s is not None else b""


class WorkStream:
    """The server's end of a worker's stream."""

    def __init__(self, node: FakeNode, hello: workers_pb2.WorkHello) -> None:
        self.node = node
        self.hello = hello
        self.outgoing: asyncio.Queue[workers_pb2.WorkResponse | BaseException | None] = asyncio.Queue()
        # Everything but heartbeats without details, which come when they like.
        self.received: asyncio.Queue[workers_pb2.WorkRequest | None] = asyncio.Queue()
        self.heartbeats: asyncio.Queue[None] = asyncio.Queue()

    def send(self, *, term: int | None = None, generation: int = 1, **frame: Any) -> None:
        term = self.node.cluster.term if term is None else term
        self.outgoing.put_nowait(workers_pb2.WorkResponse(term=term, generation=generation, **frame))

    def welcome(self, session_id: str = "worker-session", *, resumed: bool = False, **where: int) -> None:
        welcome = workers_pb2.WorkWelcome(
            session_id=session_id, resumed=resumed, session_timeout_ms=10_000, heartbeat_interval_ms=100
        )
        self.send(welcome=welcome, **where)

    def assign(self, *assignments: workers_pb2.Assignment, **where: int) -> None:
        self.send(assignments=workers_pb2.WorkAssignments(assignments=assignments), **where)

    def judge(self, *results: workers_pb2.TaskResult, verdict: int = workers_pb2.VERDICT_ACCEPTED) -> None:
        verdicts = [
            workers_pb2.TaskVerdict(task_id=r.task_id, fencing_token=r.fencing_token, verdict=verdict) for r in results
        ]
        self.send(verdicts=workers_pb2.WorkVerdicts(verdicts=verdicts))

    def cancel(self, assignment: workers_pb2.Assignment, *, fenced: bool) -> None:
        cancellation = workers_pb2.Cancellation(
            workflow_id=assignment.workflow_id,
            task_id=assignment.task_id,
            fencing_token=assignment.fencing_token,
            fenced=fenced,
        )
        self.send(cancellations=workers_pb2.WorkCancellations(cancellations=[cancellation]))

    def go_away(self, leader_address: str = "") -> None:
        self.send(go_away=workers_pb2.WorkGoAway(reason="moving", leader_address=leader_address))

    def break_off(self) -> None:
        self.outgoing.put_nowait(Refused(grpc.StatusCode.UNAVAILABLE))

    async def frame(self, kind: str) -> Any:
        """The next frame, which must be of this kind."""
        async with asyncio.timeout(60):
            frame = await self.received.get()
        assert frame is not None, f"the worker ended the stream instead of sending {kind}"
        assert frame.WhichOneof("frame") == kind, frame
        return getattr(frame, kind)

    async def results(self, count: int) -> list[workers_pb2.TaskResult]:
        found: list[workers_pb2.TaskResult] = []
        while len(found) < count:
            found.extend((await self.frame("results")).results)
        return found


class FakeCluster:
    """The state that the nodes share; with credentials they speak TLS."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self.credentials = credentials
        self.nodes: list[FakeNode] = []
        self.leader: FakeNode | None = None
        self.term = 1
        self.sessions: set[str] = set()
        # What was answered to each request of a session: a repetition gets the same.
        self.answered: dict[tuple[str, int], Any] = {}
        self.executions: dict[str, workflows_pb2.Workflow] = {}
        self.changed = asyncio.Condition()
        self.workflow_definitions: dict[tuple[str, int], bytes] = {}
        self.task_definitions: dict[str, bytes] = {}
        self.services: dict[str, bytes] = {}
        # (node, method, request) of each call that reached a leader.
        self.calls: list[tuple[FakeNode, str, Any]] = []
        self.called = asyncio.Condition()
        # Per method, what goes wrong next: before the effect or after it.
        self.faults: dict[str, deque[tuple[str, Refused]]] = defaultdict(deque)
        self.effects: list[str] = []
        self.streams: asyncio.Queue[WorkStream] = asyncio.Queue()
        self.work_fault: Callable[[], Refused | None] = lambda: None
        self.answers_heartbeats = True

    async def start(self, nodes: int = 3) -> None:
        for _ in range(nodes):
            node = FakeNode(self)
            await node.start()
            self.nodes.append(node)
        self.leader = self.nodes[0]

    async def stop(self) -> None:
        await asyncio.gather(*(node.kill() for node in self.nodes))

    async def restart(self, credentials: grpc.ServerCredentials | None) -> None:
        """On the same ports."""
        await self.stop()
        self.credentials = credentials
        for node in self.nodes:
            await node.start(node.address)

    @property
    def addresses(self) -> list[str]:
        return [node.address for node in self.nodes]

    def elect(self, node: FakeNode | None) -> None:
        self.leader = node
        self.term += node is not None

    def fault(self, method: str, refused: Refused, *, after_effect: bool = False) -> None:
        self.faults[method].append(("after" if after_effect else "before", refused))

    def requests(self, method: str) -> list[Any]:
        return [request for _, called, request in self.calls if called == method]

    async def reached(self, method: str, count: int = 1) -> None:
        """Returns once that many calls of the method have come to a leader."""
        async with asyncio.timeout(60), self.called:
            await self.called.wait_for(lambda: len(self.requests(method)) >= count)

    async def stream(self) -> WorkStream:
        async with asyncio.timeout(60):
            return await self.streams.get()

    async def end(self, workflow_id: str, status: int = workflows_pb2.WORKFLOW_STATUS_COMPLETED, **fields: Any) -> None:
        """Ends an execution."""
        self.executions[workflow_id].MergeFrom(workflows_pb2.Workflow(status=status, **fields))
        async with self.changed:
            self.changed.notify_all()


class FakeNode(
    workflows_pb2_grpc.WorkflowServiceServicer,
    definitions_pb2_grpc.DefinitionServiceServicer,
    services_pb2_grpc.ServiceRegistryServiceServicer,
    cluster_pb2_grpc.ClusterServiceServicer,
    workers_pb2_grpc.WorkerServiceServicer,
    FakeAsks,
):
    """One node. Calls that only the leader answers go through `_serve`."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster
        self.server: grpc.aio.Server | None = None
        self.address = ""
        # What the node calls itself, if that is not where it is reached.
        self.advertised = ""
        # A node that takes calls and answers nothing.
        self.silent = False
        # A follower's opinion, when it is not the truth.
        self.believes: tuple[str, int] | None = None

    async def start(self, address: str = "127.0.0.1:0") -> None:
        self.server = grpc.aio.server(options=SERVER_OPTIONS)
        workflows_pb2_grpc.add_WorkflowServiceServicer_to_server(self, self.server)
        definitions_pb2_grpc.add_DefinitionServiceServicer_to_server(self, self.server)
        services_pb2_grpc.add_ServiceRegistryServiceServicer_to_server(self, self.server)
        cluster_pb2_grpc.add_ClusterServiceServicer_to_server(self, self.server)
        asks_pb2_grpc.add_AskServiceServicer_to_server(self, self.server)
        workers_pb2_grpc.add_WorkerServiceServicer_to_server(self, self.server)
        credentials = self.cluster.credentials
        if credentials is not None:
            port = self.server.add_secure_port(address, credentials)
        else:
            port = self.server.add_insecure_port(address)
        self.address = self.advertised = f"127.0.0.1:{port}"
        await self.server.start()

    async def kill(self) -> None:
        if self.server is not None:
            await self.server.stop(None)
            self.server = None

    def leader_seen(self) -> tuple[str, int]:
        if self.believes is not None:
            return self.believes
        leader = self.cluster.leader
        return (leader.advertised if leader is not None else ""), self.cluster.term

    async def refuse(self, context: Any, refused: Refused) -> None:
        metadata = (("grpc-status-details-bin", refused.details),) if refused.details else ()
        await context.abort(refused.code, "scripted", metadata)

    async def admit(self, context: Any) -> None:
        if self.silent:
            await asyncio.Event().wait()
        if self.cluster.leader is not self:
            address, _ = self.leader_seen()
            await self.refuse(
                context, Refused(grpc.StatusCode.FAILED_PRECONDITION, "NOT_LEADER", leader="x", leader_address=address)
            )

    async def _serve(self, method: str, request: Any, context: Any, effect: Callable[[], Any]) -> Any:
        await self.admit(context)
        self.cluster.calls.append((self, method, request))
        async with self.cluster.called:
            self.cluster.called.notify_all()
        fault = self.cluster.faults[method].popleft() if self.cluster.faults[method] else None
        if fault and fault[0] == "before":
            await self.refuse(context, fault[1])
        try:
            answer = self._once(request, effect)
        except Refused as refused:
            await self.refuse(context, refused)
        if fault:
            await self.refuse(context, fault[1])
        return answer

    def _once(self, request: Any, effect: Callable[[], Any]) -> Any:
        if "request" not in request.DESCRIPTOR.fields_by_name:
            return effect()
        session = request.request.session
        if session.id not in self.cluster.sessions:
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, "SESSION_EXPIRED")
        key = (session.id, session.sequence)
        if key not in self.cluster.answered:
            try:
                self.cluster.answered[key] = effect()
            except Refused as refused:
                self.cluster.answered[key] = refused
        if isinstance(self.cluster.answered[key], Refused):
            raise self.cluster.answered[key]
        return self.cluster.answered[key]

    # The services, by their names on the wire.

    async def GetLeader(self, request: Any, context: Any) -> Any:
        if self.silent:
            await asyncio.Event().wait()
        address, term = self.leader_seen()
        return cluster_pb2.GetLeaderResponse(leader="leader" if address else "", grpc_address=address, term=term)

    async def GetStatus(self, request: Any, context: Any) -> Any:
        node = cluster_pb2.NodeStatus(name="a", role=cluster_pb2.NODE_ROLE_LEADER, term=self.cluster.term)
        return cluster_pb2.GetStatusResponse(cluster_id="c", node="a", term=self.cluster.term, nodes=[node])

    async def OpenClientSession(self, request: Any, context: Any) -> Any:
        def effect() -> Any:
            session_id = f"client-session-{len(self.cluster.calls)}"
            self.cluster.sessions.add(session_id)
            return workflows_pb2.OpenClientSessionResponse(session_id=session_id, idle_timeout_ms=600_000)

        return await self._serve("OpenClientSession", request, context, effect)

    async def RegisterWorkflows(self, request: Any, context: Any) -> Any:
        def effect() -> Any:
            for document in request.definition_json:
                content = json.loads(document)
                key = (content["name"], content.get("version", 1))
                if self.cluster.workflow_definitions.get(key, document) != document and not request.overwrite:
                    raise Refused(grpc.StatusCode.ALREADY_EXISTS, "DEFINITION_DIFFERS")
                self.cluster.workflow_definitions[key] = document
            return definitions_pb2.RegisterWorkflowsResponse()

        return await self._serve("RegisterWorkflows", request, context, effect)

    async def RegisterTasks(self, request: Any, context: Any) -> Any:
        def effect() -> Any:
            for document in request.definition_json:
                self.cluster.task_definitions[json.loads(document)["name"]] = document
            return definitions_pb2.RegisterTasksResponse()

        return await self._serve("RegisterTasks", request, context, effect)

    async def RegisterService(self, request: Any, context: Any) -> Any:
        def effect() -> Any:
            self.cluster.services[json.loads(request.record_json)["name"]] = request.record_json
            return services_pb2.RegisterServiceResponse()

        return await self._serve("RegisterService", request, context, effect)

    async def GetService(self, request: Any, context: Any) -> Any:
        def effect() -> Any:
            return services_pb2.GetServiceResponse(record_json=self._service(request.name))

        return await self._serve("GetService", request, context, effect)

    async def ListServices(self, request: Any, context: Any) -> Any:
        def effect() -> Any:
            names = sorted(name for name in self.cluster.services if name > request.page.token)
            page, rest = names[: request.page.size], names[request.page.size :]
            records = [self.cluster.services[name] for name in page]
            return services_pb2.ListServicesResponse(record_json=records, next_token=page[-1] if rest else "")

        return await self._serve("ListServices", request, context, effect)

    async def DeleteService(self, request: Any, context: Any) -> Any:
        def effect() -> Any:
            self._service(request.name)
            del self.cluster.services[request.name]
            return services_pb2.DeleteServiceResponse()

        return await self._serve("DeleteService", request, context, effect)

    def _service(self, name: str) -> bytes:
        if name not in self.cluster.services:
            raise Refused(grpc.StatusCode.NOT_FOUND, "SERVICE_NOT_FOUND")
        return self.cluster.services[name]

    async def StartWorkflow(self, request: Any, context: Any) -> Any:
        def effect() -> Any:
            workflow_id = request.workflow_id or f"made-{len(self.cluster.executions)}"
            if workflow_id in self.cluster.executions:
                if request.if_exists == workflows_pb2.IF_EXISTS_RETURN:
                    return workflows_pb2.StartWorkflowResponse(workflow_id=workflow_id, existing=True)
                raise Refused(grpc.StatusCode.ALREADY_EXISTS, "WORKFLOW_EXISTS")
            self.cluster.effects.append(workflow_id)
            self.cluster.executions[workflow_id] = workflows_pb2.Workflow(
                workflow_id=workflow_id,
                name=request.name,
                version=request.version,
                input=request.input,
                status=workflows_pb2.WORKFLOW_STATUS_RUNNING,
            )
            return workflows_pb2.StartWorkflowResponse(workflow_id=workflow_id)

        return await self._serve("StartWorkflow", request, context, effect)

    def _found(self, workflow_id: str) -> Any:
        if workflow_id not in self.cluster.executions:
            raise Refused(grpc.StatusCode.NOT_FOUND, "NO_SUCH_WORKFLOW")
        return self.cluster.executions[workflow_id]

    async def GetWorkflow(self, request: Any, context: Any) -> Any:
        return await self._serve(
            "GetWorkflow",
            request,
            context,
            lambda: workflows_pb2.GetWorkflowResponse(workflow=self._found(request.workflow_id)),
        )

    async def WaitWorkflow(self, request: Any, context: Any) -> Any:
        workflow = await self._serve("WaitWorkflow", request, context, lambda: self._found(request.workflow_id))
        try:
            async with asyncio.timeout(request.wait_ms / 1000), self.cluster.changed:
                await self.cluster.changed.wait_for(lambda: workflow.status > 3)
        except TimeoutError:
            pass
        return workflows_pb2.WaitWorkflowResponse(workflow=workflow)

    async def WatchWorkflow(self, request: Any, context: Any) -> AsyncIterator[Any]:
        workflow = await self._serve("WatchWorkflow", request, context, lambda: self._found(request.workflow_id))
        while True:
            yield workflows_pb2.WatchWorkflowResponse(workflow=workflow)
            if workflow.status > 3:
                return
            async with self.cluster.changed:
                await self.cluster.changed.wait()

    async def SearchWorkflows(self, request: Any, context: Any) -> Any:
        def effect() -> Any:
            found = sorted(self.cluster.executions.values(), key=lambda workflow: workflow.workflow_id)
            start = int(request.page.token or 0)
            end = start + request.page.size
            token = str(end) if end < len(found) else ""
            return workflows_pb2.SearchWorkflowsResponse(workflows=found[start:end], next_token=token)

        return await self._serve("SearchWorkflows", request, context, effect)

    async def SignalWorkflow(self, request: Any, context: Any) -> Any:
        def effect() -> Any:
            self.cluster.effects.append(f"signal {request.name}")
            return workflows_pb2.SignalWorkflowResponse()

        return await self._serve("SignalWorkflow", request, context, effect)

    async def TerminateWorkflow(self, request: Any, context: Any) -> Any:
        def effect() -> Any:
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, "PIVOT_PASSED")

        return await self._serve("TerminateWorkflow", request, context, effect)

    async def Work(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        await self.admit(context)
        if (refused := self.cluster.work_fault()) is not None:
            await self.refuse(context, refused)
        first = await anext(requests)
        assert first.WhichOneof("frame") == "hello"
        stream = WorkStream(self, first.hello)
        self.cluster.streams.put_nowait(stream)

        async def receive() -> None:
            async for request in requests:
                beat = request.heartbeat
                if request.HasField("heartbeat") and not any(each.HasField("details") for each in beat.attempts):
                    stream.heartbeats.put_nowait(None)
                    if self.cluster.answers_heartbeats and not self.silent:
                        stream.send(alive=workers_pb2.WorkAlive())
                else:
                    stream.received.put_nowait(request)
            stream.received.put_nowait(None)
            stream.outgoing.put_nowait(None)

        receiving = asyncio.ensure_future(receive())
        try:
            while (frame := await stream.outgoing.get()) is not None:
                if isinstance(frame, Refused):
                    await self.refuse(context, frame)
                yield frame
        finally:
            receiving.cancel()
