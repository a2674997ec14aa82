"""The client: registers definitions, starts and finds executions. A change of the leader is a pause, not an error."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
from collections.abc import AsyncIterator, Iterable, Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Self, cast

import grpc

from orchestrator_api.v1 import cluster_pb2, definitions_pb2, workers_pb2
from orchestrator_api.v1 import workflows_pb2 as pb
from orchestrator_api.v1.asks_pb2 import Ask
from orchestrator_api.v1.common_pb2 import PageRequest
from orchestrator_client import definitions as forms
from orchestrator_client import searching, tracing
from orchestrator_client.authorization import Token, authorization_of, authorized_factory
from orchestrator_client.channels import ChannelFactory, version_of
from orchestrator_client.codec import dumps
from orchestrator_client.conductor import Conductor
from orchestrator_client.connection import Connection
from orchestrator_client.errors import AlreadyExists, DeadlineExceeded, NoLeader, Overloaded, PermissionDenied
from orchestrator_client.events import Events
from orchestrator_client.executing import Executing
from orchestrator_client.execution import (
    ClusterStatus,
    CompensationState,
    Execution,
    Leader,
    TaskQueue,
    WorkflowStatus,
    read_cluster,
    read_execution,
    read_payload,
    read_task_queue,
)
from orchestrator_client.mocking import Mocking
from orchestrator_client.runs import WAIT_MS, Run, failed, read_output
from orchestrator_client.schedules import Schedules
from orchestrator_client.schemas import Schemas
from orchestrator_client.searching import FoundTask, Hits
from orchestrator_client.secrets import Secrets
from orchestrator_client.service_registry import ServiceRegistry
from orchestrator_client.starting import Startable, output_type_of, write_start
from orchestrator_client.tls import TLS, channels_for, why_not
from orchestrator_client.upkeep import Upkeep
from orchestrator_client.workflow import Workflow

_logger = logging.getLogger("orchestrator_client.client")


class Client(Executing, Upkeep, Mocking, ServiceRegistry):
    """Talks to the cluster whose nodes have these gRPC addresses; some of them are enough.

    `deadline_s` is how long a call goes on through changes of the leader and overload before it raises. Starts and
    waits share one stream, unless `streams` is False: then each is a call of its own. `tls`: how the nodes are known,
    and this client to them, where they speak TLS; `credentials` are gRPC's own, instead.

    Who calls is shown by a token: `token` is it, or a function that answers with it before each call, and `token_file`
    holds it, and may be replaced at any time. It is not sent without TLS beyond this machine, which raises
    InsecureConnection, unless `allow_insecure_token` says that the network can be trusted.
    """

    def __init__(
        self,
        endpoints: str | Iterable[str],
        *,
        namespace: str = "default",
        deadline_s: float = 60.0,
        tls: TLS | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        token: Token | None = None,
        token_file: str | os.PathLike[str] | None = None,
        allow_insecure_token: bool = False,
        open_channel: ChannelFactory | None = None,
        rng: random.Random | None = None,
        streams: bool = True,
    ) -> None:
        given = endpoints.split(",") if isinstance(endpoints, str) else endpoints
        addresses = [address.strip() for address in given if address.strip()]
        channels = open_channel or channels_for(tls, credentials)
        opened = channels
        authorization = authorization_of(token, token_file, allow_insecure=allow_insecure_token)
        if authorization is not None:
            is_secret = not (tls is None and credentials is None and open_channel is None)
            for address in () if is_secret else addresses:
                authorization.require_secrecy(address)
            opened = authorized_factory(opened, authorization, is_secret=is_secret)
        self.connection = self._connect(
            addresses,
            namespace=namespace,
            open_channel=opened,
            renews_token=authorization is not None and authorization.is_renewable,
            deadline_s=deadline_s,
            rng=rng or random.Random(),
            streams=streams,
            version=version_of(channels),
            explain=(lambda address: why_not(address, tls)) if open_channel is None and credentials is None else None,
        )
        self.schedules = Schedules(self.connection)
        self.events = Events(self.connection)
        self.conductor = Conductor(self.connection, self.start)
        self.schemas = Schemas(self.connection)
        self.secrets = Secrets(self.connection)
        # The digest of each workflow that this client knows to be registered.
        self._registered: dict[tuple[str, int], str] = {}
        self._registering = asyncio.Lock()

    def _connect(self, addresses: list[str], **options: Any) -> Connection:
        return Connection(addresses, **options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the channels; calls under way are cancelled."""
        await self.connection.close()

    # Definitions

    async def register(self, *definitions: forms.Definition, overwrite: bool = False) -> None:
        """Registers workflows (with their tasks) and tasks: objects, documents, or JSON or YAML files.

        A workflow that is registered already with the same content is fine; with other content it is refused unless
        `overwrite`. Tasks are always replaced.
        """
        found = forms.sort(definitions)
        if found.tasks:
            await self._register_tasks(found.tasks.values())
        if found.workflows:
            await self._register_workflows(found.workflows, overwrite)

    async def validate(self, *definitions: forms.Definition) -> None:
        """Checks workflows as registration does, and stores nothing."""
        request = definitions_pb2.ValidateWorkflowsRequest(
            namespace=self.connection.namespace,
            definition_json=[dumps(document) for document in forms.sort(definitions).workflows],
        )
        await self.connection.call(lambda node: node.definitions.ValidateWorkflows, request)

    async def workflow_definition(self, name: str, version: int = 0) -> dict[str, Any]:
        """A registered definition; version 0 is the highest."""
        request = definitions_pb2.GetWorkflowDefinitionRequest(
            namespace=self.connection.namespace, name=name, version=version
        )
        reply = await self.connection.call(lambda node: node.definitions.GetWorkflowDefinition, request)
        document: dict[str, Any] = json.loads(reply.definition_json)
        return document

    async def task_definition(self, name: str) -> dict[str, Any]:
        """A registered definition."""
        request = definitions_pb2.GetTaskDefinitionRequest(namespace=self.connection.namespace, name=name)
        reply = await self.connection.call(lambda node: node.definitions.GetTaskDefinition, request)
        document: dict[str, Any] = json.loads(reply.definition_json)
        return document

    async def workflow_definitions(self, *, page_size: int = 100) -> AsyncIterator[dict[str, Any]]:
        """All registered workflows, by name and version."""
        request = definitions_pb2.ListWorkflowDefinitionsRequest(
            namespace=self.connection.namespace, page=PageRequest(size=page_size)
        )
        while True:
            reply = await self.connection.call(lambda node: node.definitions.ListWorkflowDefinitions, request)
            for document in reply.definition_json:
                yield json.loads(document)
            if not reply.next_token:
                return
            request.page.token = reply.next_token

    async def task_definitions(self, *, page_size: int = 100) -> AsyncIterator[dict[str, Any]]:
        """All registered tasks, by name."""
        request = definitions_pb2.ListTaskDefinitionsRequest(
            namespace=self.connection.namespace, page=PageRequest(size=page_size)
        )
        while True:
            reply = await self.connection.call(lambda node: node.definitions.ListTaskDefinitions, request)
            for document in reply.definition_json:
                yield json.loads(document)
            if not reply.next_token:
                return
            request.page.token = reply.next_token

    async def delete_workflow_definition(self, name: str, version: int | None = None) -> None:
        """Removes one version of a definition, or all: what has begun keeps it, and nothing begins by it any more."""
        request = definitions_pb2.DeleteWorkflowDefinitionRequest(
            namespace=self.connection.namespace, name=name, version=version or 0
        )
        await self.connection.call(lambda node: node.definitions.DeleteWorkflowDefinition, request, mutating=True)

    async def delete_task_definition(self, name: str) -> None:
        """Removes a definition: what has begun keeps it, and to what begins it is a task without one."""
        request = definitions_pb2.DeleteTaskDefinitionRequest(namespace=self.connection.namespace, name=name)
        await self.connection.call(lambda node: node.definitions.DeleteTaskDefinition, request, mutating=True)

    async def _register_tasks(self, documents: Iterable[dict[str, Any]]) -> None:
        request = definitions_pb2.RegisterTasksRequest(
            namespace=self.connection.namespace, definition_json=[dumps(document) for document in documents]
        )
        await self.connection.call(lambda node: node.definitions.RegisterTasks, request, mutating=True)

    async def _register_workflows(self, documents: list[dict[str, Any]], overwrite: bool) -> None:
        request = definitions_pb2.RegisterWorkflowsRequest(
            namespace=self.connection.namespace,
            definition_json=[dumps(document) for document in documents],
            overwrite=overwrite,
        )
        try:
            await self.connection.call(lambda node: node.definitions.RegisterWorkflows, request, mutating=True)
        except AlreadyExists as error:
            names = ", ".join(f"{document['name']} version {document.get('version', 1)}" for document in documents)
            raise AlreadyExists(
                f"{names}: registered already with other content; give the changed workflow a higher version "
                f"(or register it with overwrite=True): {error.message}",
                reason=error.reason,
                metadata=error.metadata,
            ) from None

    async def _ensure_registered(self, workflow: Workflow) -> None:
        key, digest = (workflow.name, workflow.version), workflow.digest()
        if self._registered.get(key) == digest:
            return
        async with self._registering:  # the first of many starts at once registers for all
            if self._registered.get(key) != digest:
                try:
                    await self.register(workflow)
                except PermissionDenied as refused:
                    # Who may start it need not be one who may change it.
                    _logger.info("%s: what is registered under its name and version is started", refused)
                self._registered[key] = digest

    # Executions

    async def start(
        self,
        workflow: Startable,
        input: Any = None,
        *,
        id: str = "",
        if_exists: Literal["fail", "return"] = "fail",
        idempotency_key: str = "",
        idempotency_strategy: Literal["fail", "return_existing", "fail_on_running"] = "fail",
        version: int = 0,
        correlation_id: str = "",
        priority: int = 0,
        created_by: str = "",
        task_to_domain: Mapping[str, str] | None = None,
        register: bool = True,
        timeout_s: float | None = None,
    ) -> Run:
        """Starts an execution; when this returns, it is on a majority of disks.

        A `Workflow` is registered first, once for each client (who may not do that starts what is registered under its
        name and version); with ``register=False`` it travels along instead, as
        a definition given as a dict always does. A name means what is registered under it. If the `id` is taken,
        AlreadyExists is raised, or the execution that has it is returned. An `idempotency_key` is another name for
        the invocation, known with its workflow's name for as long as the execution is kept: if there was one
        before, AlreadyExists is raised, or it is returned, or ("fail_on_running") a new one is started once it has
        ended.
        """
        ask = Ask()
        write_start(
            ask.start,
            workflow,
            input,
            id=id,
            if_exists=if_exists,
            idempotency_key=idempotency_key,
            idempotency_strategy=idempotency_strategy,
            version=version,
            correlation_id=correlation_id,
            priority=priority,
            created_by=created_by,
            task_to_domain=task_to_domain,
            register=register,
        )
        await self._prepare(ask.start, workflow, register)
        with tracing.sending("start", ask.start.name, ask.start) as traced:
            answer = cast(pb.StartWorkflowResponse, await self.connection.ask(ask, timeout_s=timeout_s))
            traced.note("orchestrator.workflow.id", answer.workflow_id)
        return self._handle(answer.workflow_id, output_type_of(workflow), existing=answer.existing)

    async def start_and_wait(
        self,
        workflow: Startable,
        input: Any = None,
        /,
        *,
        timeout_s: float = 60.0,
        register: bool = True,
        **options: Any,
    ) -> Any:
        """Starts an execution (options as for `start`) and answers its result (as `Run.result` does).

        NoLeader and Overloaded are about the start: it had no effect. After DeadlineExceeded the execution goes on.
        """
        connection = self.connection
        deadline = connection.now() + timeout_s
        ask = Ask()
        outcome = ask.outcome
        write_start(outcome.start, workflow, input, register=register, **options)
        await self._prepare(outcome.start, workflow, register)
        outcome.wait_ms, outcome.output_only = WAIT_MS, True
        with tracing.sending("start", outcome.start.name, outcome.start) as traced:
            answer = await connection.ask(ask, timeout_s=deadline - connection.now())
            traced.note("orchestrator.workflow.id", answer.workflow_id)
        if isinstance(answer, pb.Workflow):
            if answer.status == pb.WORKFLOW_STATUS_COMPLETED:
                return read_output(read_payload(answer.output), output_type_of(workflow), answer.workflow_id)
            execution = read_execution(answer)
            if execution.status.ended:
                raise failed(execution)
        run = self._handle(answer.workflow_id, output_type_of(workflow))
        try:
            return await run.result(max(deadline - connection.now(), 0.001))
        except (NoLeader, Overloaded) as error:
            raise DeadlineExceeded(f"{run.workflow_id} has started, and its end can't be seen: {error}") from error

    async def _prepare(self, request: pb.StartWorkflowRequest, workflow: Startable, register: bool) -> None:
        request.namespace = self.connection.namespace
        if register and isinstance(workflow, Workflow):
            await self._ensure_registered(workflow)

    def run(self, workflow_id: str, *, output: type | None = None) -> Run:
        """A handle of an execution that was started elsewhere; `output` is the type of its result."""
        return self._handle(workflow_id, output)

    def _handle(self, workflow_id: str, output_type: type | None, *, existing: bool = False) -> Run:
        return Run(self.connection, workflow_id, output_type=output_type, existing=existing)

    async def get(self, workflow_id: str, *, tasks: bool = False, stale_ok: bool = False) -> Execution:
        """The execution as it is now."""
        return await self.run(workflow_id).get(tasks=tasks, stale_ok=stale_ok)

    async def wait(self, workflow_id: str, timeout_s: float | None = None, *, tasks: bool = False) -> Execution:
        """The execution once it has ended, well or not."""
        return await self.run(workflow_id).wait(timeout_s, tasks=tasks)

    def watch(self, workflow_id: str, *, tasks: bool = False) -> AsyncIterator[Execution]:
        """The execution now and after each change, up to its end."""
        return self.run(workflow_id).watch(tasks=tasks)

    async def search(
        self,
        *,
        name: str = "",
        statuses: Iterable[WorkflowStatus | str] = (),
        correlation_id: str = "",
        compensation_states: Iterable[CompensationState | str] = (),
        started_from: datetime | None = None,
        started_before: datetime | None = None,
        ended_from: datetime | None = None,
        ended_before: datetime | None = None,
        query: str = "",
        free_text: str = "",
        sort: str = "",
        full: bool = False,
        page_size: int = searching.PAGE_SIZE,
        stale_ok: bool = False,
    ) -> AsyncIterator[Execution]:
        """Executions that match all that is given, newest start first, without tasks.

        `query` has conditions on fields, such as ``status IN (FAILED, TIMED_OUT) AND startTime > 2026-11-01``;
        `free_text` stands somewhere in it; `sort` is "field:ASC" or "field:DESC". Inputs, outputs and variables only
        if `full`.
        """
        request = searching.workflows_request(
            self.connection,
            name=name,
            statuses=statuses,
            correlation_id=correlation_id,
            compensation_states=compensation_states,
            started_from=started_from,
            started_before=started_before,
            ended_from=ended_from,
            ended_before=ended_before,
            query=query,
            free_text=free_text,
            sort=sort,
            full=full,
            page_size=page_size,
            stale_ok=stale_ok,
        )
        async for execution in searching.workflows(self.connection, request):
            yield execution

    async def count(self, *, query: str = "", free_text: str = "") -> Hits:
        """How many executions a search finds; it does not count further than 10,000."""
        request = searching.workflows_request(self.connection, query=query, free_text=free_text)
        return await searching.count(self.connection, request)

    async def search_tasks(
        self,
        *,
        query: str = "",
        free_text: str = "",
        sort: str = "",
        full: bool = False,
        page_size: int = searching.PAGE_SIZE,
    ) -> AsyncIterator[FoundTask]:
        """Attempts of tasks that match all that is given (see `search`), newest scheduling first.

        Inputs, outputs and heartbeat details only if `full`.
        """
        request = searching.tasks_request(
            self.connection, query=query, free_text=free_text, sort=sort, full=full, page_size=page_size
        )
        async for found in searching.tasks(self.connection, request):
            yield found

    async def count_tasks(self, *, query: str = "", free_text: str = "") -> Hits:
        """How many attempts a search finds; it does not count further than 10,000."""
        request = searching.tasks_request(self.connection, query=query, free_text=free_text)
        return await searching.count_tasks(self.connection, request)

    async def signal(self, workflow_id: str, name: str, payload: Any = None) -> None:
        """Gives a signal, which is kept until a wait for that name takes it."""
        await self.run(workflow_id).signal(name, payload)

    async def pause(self, workflow_id: str) -> None:
        """Nothing new is scheduled until `resume`; running tasks may finish."""
        await self.run(workflow_id).pause()

    async def resume(self, workflow_id: str) -> None:
        """Goes on after `pause`."""
        await self.run(workflow_id).resume()

    async def terminate(
        self, workflow_id: str, reason: str = "", *, compensation: Literal["run", "skip"] | None = None
    ) -> None:
        """Ends the execution. Without a word on compensation it is refused if any completed step could be undone."""
        await self.run(workflow_id).terminate(reason, compensation=compensation)

    async def retry(self, workflow_id: str, *, resume_sub_workflows: bool = False) -> None:
        """Tries the failed tasks of the ended execution again; see `Run.retry`."""
        await self.run(workflow_id).retry(resume_sub_workflows=resume_sub_workflows)

    async def retry_compensation(self, workflow_id: str) -> None:
        """Gives the compensation that is stuck a fresh set of attempts."""
        await self.run(workflow_id).retry_compensation()

    async def skip_compensation(self, workflow_id: str) -> None:
        """Records the compensation that is stuck as left, and goes on with the next."""
        await self.run(workflow_id).skip_compensation()

    async def abandon_compensation(self, workflow_id: str, reason: str = "") -> None:
        """Ends the execution with steps left that were not undone."""
        await self.run(workflow_id).abandon_compensation(reason)

    # Tasks

    async def task_queues(self, *names: str) -> list[TaskQueue]:
        """What waits for workers, by task and domain: of these tasks, or of all."""
        request = workers_pb2.ListTaskQueuesRequest(namespace=self.connection.namespace, task_names=names)
        reply = await self.connection.call(lambda node: node.workers.ListTaskQueues, request)
        return [read_task_queue(queue) for queue in reply.queues]

    # The cluster

    async def status(self) -> ClusterStatus:
        """The cluster, as the first node that answers sees it."""
        reply = await self.connection.ask_any(lambda node: node.cluster.GetStatus, cluster_pb2.GetStatusRequest())
        return read_cluster(reply)

    async def leader(self) -> Leader:
        """Who leads, as the first node that answers knows it."""
        reply = await self.connection.ask_any(lambda node: node.cluster.GetLeader, cluster_pb2.GetLeaderRequest())
        return Leader(reply.leader, reply.grpc_address, reply.term)
