"""Calls the method of a GRPC task, and says of each failure whether it may have taken effect all the same.

It can't have while there was no connection, or the method or its request message was not understood here. Once the
call was made the status decides: see `answer`.
"""

from __future__ import annotations

import asyncio
import base64
import logging
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import msgspec
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message

from orchestrator.engine.services import Protocol, ServiceRecord, Tls
from orchestrator.integrations.grpc_calls import answer
from orchestrator.integrations.grpc_calls.channels import Channels, Unreachable
from orchestrator.integrations.grpc_calls.descriptors import DescriptorsInvalid, MethodInvalid
from orchestrator.integrations.grpc_calls.methods import Known, Methods
from orchestrator.integrations.grpc_calls.reflection import NoReflection, reflected
from orchestrator.integrations.grpc_calls.request import GrpcRequest, InputInvalid, read_request
from orchestrator.integrations.service_registry.registry import Called, Lookup, NotCallable, Registry
from orchestrator.integrations.service_registry.tls_files import TlsUnusable
from orchestrator.integrations.work import Ended, Outcome, Work, unexpected

CONNECT_MS = 3_000
DEADLINE_MS = 60_000

Metadata = tuple[tuple[str, str | bytes], ...]

logger = logging.getLogger(__name__)


class _Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Whatever a call needs, from the task, the record of its service and the defaults."""

    request: GrpcRequest
    metadata: Metadata  # the record's and the task's
    ours: Metadata
    tls: Tls | None
    descriptor_set: str  # base64; "": the server is asked
    connect_ms: int
    deadline: float  # of the monotonic clock


class _Failed(Exception):
    """Surely without effect. `healthy`: what it says of the service."""

    def __init__(
        self, error_code: str, reason: str, *, healthy: bool | None = None, ended: Ended = Ended.FAILED
    ) -> None:
        super().__init__(reason)
        self.healthy = healthy
        self.outcome = Outcome(ended=ended, reason=reason[: answer.REASON_CHARACTERS_MAX], error_code=error_code)


class GrpcExecutor:
    """One of a node. `service`: the record by namespace and name, of the node's own replicated state."""

    def __init__(self, service: Lookup, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._registry = Registry(service, monotonic)
        self._channels = Channels()
        self._methods = Methods()

    async def execute(self, work: Work) -> Outcome:
        """Never raises but CancelledError."""
        try:
            return await self._execute(work)
        except InputInvalid as error:
            return _terminal("GRPC_INVALID", str(error)).outcome
        except NotCallable as error:
            return error.outcome
        except Exception as error:  # noqa: BLE001 - it is logged, and an outcome
            reason = unexpected(logger, "a GRPC task", work, error)
            return Outcome(ended=Ended.FAILED, reason=reason, error_code="GRPC_INTERNAL_ERROR", outcome_unknown=True)

    async def close(self) -> None:
        """Closes all channels; calls under way fail."""
        await self._channels.close()

    async def _execute(self, work: Work) -> Outcome:
        request = read_request(work.input)
        described_by = None
        if request.described_by:
            described_by = self._registry.find(work.namespace, request.described_by, Protocol.GRPC).record
            if not described_by.descriptor_set:
                raise InputInvalid(f"descriptorSet: service '{described_by.name}' has none")
        if not request.registered:
            plan = self._plan(work, request, None, described_by)
            return (await self._once(plan, request.target)).outcome
        service = self._registry.find(work.namespace, request.registered, Protocol.GRPC)
        plan = self._plan(work, request, service.record, described_by or service.record)

        async def once(endpoint: str) -> Called:
            return await self._once(plan, endpoint)

        return await service.call(once, plan.deadline)

    def _plan(
        self, work: Work, request: GrpcRequest, record: ServiceRecord | None, described_by: ServiceRecord | None
    ) -> _Plan:
        deadline_ms = request.deadline_ms or (record.total_ms if record is not None else 0) or DEADLINE_MS
        if work.timeout_ms:
            deadline_ms = min(deadline_ms, work.timeout_ms)
        metadata = dict(work.trace) | dict(record.headers if record is not None else ()) | dict(request.metadata)
        return _Plan(
            request=request,
            metadata=tuple((name, _value(name, text)) for name, text in metadata.items()),
            ours=(("idempotency-key", work.idempotency_key), ("fencing-token", str(work.fencing_token))),
            tls=record.tls if record is not None else request.tls,
            descriptor_set=described_by.descriptor_set if described_by is not None else "",
            connect_ms=record.connect_ms if record is not None else CONNECT_MS,
            deadline=self._monotonic() + deadline_ms / 1000,
        )

    def _left_s(self, plan: _Plan) -> float:
        return max(0.001, plan.deadline - self._monotonic())

    async def _once(self, plan: _Plan, target: str) -> Called:
        try:
            # All but the call itself; that has a deadline of its own, which the server is told.
            async with asyncio.timeout(self._left_s(plan)) as limit:
                async with self._channels.connected(target, plan.tls, plan.connect_ms / 1000) as channel:
                    known, message = await self._prepared(plan, target, channel)
                    limit.reschedule(None)
                    return await self._call(plan, target, channel, known, message)
        except TimeoutError:
            failed = _Failed("GRPC_DEADLINE_EXCEEDED", "the deadline passed before the call was made", healthy=False)
        except Unreachable as error:
            failed = _Failed("GRPC_CONNECT", str(error), healthy=False)
        except TlsUnusable as error:
            failed = _Failed("GRPC_TLS", str(error))
        except _Failed as error:
            failed = error
        return Called(failed.outcome, reached=False, healthy=failed.healthy)

    async def _prepared(self, plan: _Plan, target: str, channel: grpc.aio.Channel) -> tuple[Known, Message]:
        """The method, and its request message. Raises _Failed."""
        try:
            known = await self._known(plan, target, channel, anew=False)
            try:
                return known, _request(plan, known)
            except answer.RequestInvalid:
                if known.is_fresh:
                    raise
            # The server may have been replaced by one that knows more.
            known = await self._known(plan, target, channel, anew=True)
            return known, _request(plan, known)
        except answer.RequestInvalid as error:
            raise _terminal("GRPC_INVALID", str(error)) from None
        except MethodInvalid as error:
            raise _terminal("GRPC_UNIMPLEMENTED", str(error)) from None
        except (NoReflection, DescriptorsInvalid) as error:
            raise _terminal("GRPC_REFLECTION", str(error)) from None
        except grpc.aio.AioRpcError as error:
            reason = f"the server's reflection: {error.code().name}: {error.details()}"
            healthy = False if error.code() in answer.UNHEALTHY else None
            raise _Failed("GRPC_REFLECTION", reason, healthy=healthy) from None

    async def _known(self, plan: _Plan, target: str, channel: grpc.aio.Channel, *, anew: bool) -> Known:
        service, method = plan.request.service, plan.request.method
        if plan.descriptor_set:
            return self._methods.of_set(plan.descriptor_set, service, method)

        async def ask() -> DescriptorPool:
            return await reflected(channel, service, plan.metadata, self._left_s(plan))

        return await self._methods.of_server((target, plan.tls, service), ask, service, method, anew=anew)

    async def _call(
        self, plan: _Plan, target: str, channel: grpc.aio.Channel, known: Known, message: Message
    ) -> Called:
        path = f"/{plan.request.service}/{plan.request.method}"
        method: Any = channel.unary_unary(path, request_serializer=lambda given: given.SerializeToString())
        call = method(message, metadata=(*plan.metadata, *plan.ours), timeout=self._left_s(plan))
        try:
            data = await call
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                self._methods.forget((target, plan.tls, plan.request.service))
            return Called(answer.failure(error), reached=True, healthy=error.code() not in answer.UNHEALTHY)
        reply = message_factory.GetMessageClass(known.method.output_type)()
        outcome = answer.success(known, reply, data, await call.initial_metadata(), await call.trailing_metadata())
        return Called(outcome, reached=True, healthy=True)


def _request(plan: _Plan, known: Known) -> Message:
    message = message_factory.GetMessageClass(known.method.input_type)()
    return answer.message_of(known, message, plan.request.body)


def _value(name: str, text: str) -> str | bytes:
    return base64.b64decode(text) if name.endswith("-bin") else text


def _terminal(error_code: str, reason: str) -> _Failed:
    return _Failed(error_code, reason, ended=Ended.FAILED_WITH_TERMINAL_ERROR)
