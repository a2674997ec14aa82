"""The one door to all services: who calls is found out, what they may do, and how much; and what they did is recorded.

A server interceptor. What every method needs is in `access.methods`; streams ask their `Caller` for each thing that is
said on them. A stream whose caller is known no longer, or may do it no longer, is ended.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import unquote

import grpc
import grpc.aio

from orchestrator.access.audit import AuditLog, AuditUnavailable
from orchestrator.access.limits import ClientLimits, Rate, Streams
from orchestrator.access.methods import METHODS, Rule
from orchestrator.access.principals import Credentials, Identity, NotAuthenticated
from orchestrator.access.roles import Need
from orchestrator.access.watching import Rules
from orchestrator.rpc import guarded_requests as requests
from orchestrator.rpc.audited import Audited
from orchestrator.rpc.backend import Backend
from orchestrator.rpc.call_counts import CallCounts
from orchestrator.rpc.caller import CALLER, Caller, rate_limited
from orchestrator.rpc.errors import RpcFailure, abort
from orchestrator.rpc.open_calls import NEVER, CallLimits, OpenCalls, Pace
from orchestrator.rpc.unread import Unread, UnreadLimits

# Finding out that somebody is nobody may cost a signature: so often for each address.
FAILURES_PER_SECOND = 10.0
FAILURES_BURST = 100.0
# Lines of the audit log about refusals, for each client.
REFUSALS_PER_SECOND = 1.0
REFUSALS_BURST = 100.0
_DENIALS = frozenset((grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED))

Count = Callable[[str], None]
"""Counts something under its reason."""


class Guard(grpc.aio.ServerInterceptor):
    """Without rules everybody may do everything, within the limits."""

    def __init__(
        self,
        backend: Backend,
        *,
        rules: Rules | None = None,
        limits: ClientLimits | None = None,
        audit: AuditLog,
        wall_ms: Callable[[], int],
        monotonic: Callable[[], float],
        on_refused: Count = lambda reason: None,
        open_calls: OpenCalls | None = None,
        counts: CallCounts | None = None,
        unread: Unread | None = None,
    ) -> None:
        limits = limits or ClientLimits()
        self._open_calls = open_calls or OpenCalls(CallLimits())
        self._pace = Pace()
        self._backend = backend
        self._rules = rules
        self._audited = Audited(audit)
        self._wall_ms = wall_ms
        self._on_refused = on_refused
        self._counts = counts
        self._unread = unread or Unread(UnreadLimits())
        self._rate = Rate(limits.requests_per_second, limits.burst, monotonic) if limits.requests_per_second else None
        self._streams = Streams(limits.streams_max)
        self._limits = limits
        self._failures = Rate(FAILURES_PER_SECOND, FAILURES_BURST, monotonic)
        self._recorded = Rate(REFUSALS_PER_SECOND, REFUSALS_BURST, monotonic)
        self._handlers: dict[str, Any] = {}
        self._visits: set[_Visit] = set()
        if rules is not None:
            rules.on_change = self._rules_changed
            rules.on_tick = self._end_expired

    async def intercept_service(self, continuation: Any, handler_call_details: Any) -> Any:
        """As gRPC asks, for each call: what is to be called instead is made once."""
        if not self._pace.begin_now():
            await self._pace.wait()
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        wrapped = self._handlers.get(method)
        if wrapped is None:
            wrapped = self._handlers[method] = self._wrapped(method, handler)
        return wrapped

    def _wrapped(self, method: str, handler: Any) -> Any:
        rule = METHODS.get(method)
        if rule is None:
            # Nothing is open because somebody forgot to say for whom.
            rule = Rule(Need.ADMINISTER_CLUSTER, audited=True)
        if rule.need is Need.NOTHING:
            return handler
        # Answers come serialised already.
        codecs = {"request_deserializer": handler.request_deserializer}
        if handler.response_streaming:
            stream = self._stream(method, rule, handler.stream_stream or handler.unary_stream)
            stream = self._unread.stream(stream, handler.response_serializer, self._refuse)
            if self._counts is not None:
                stream = self._counts.stream(method, stream)
            if handler.request_streaming:
                return grpc.stream_stream_rpc_method_handler(stream, **codecs)
            return grpc.unary_stream_rpc_method_handler(stream, **codecs)
        unary = self._unary(method, rule, handler.unary_unary)
        only_reads = rule.need in (Need.READ, Need.SEE)
        unary = self._unread.unary(unary, handler.response_serializer, self._refuse, only_reads=only_reads)
        if self._counts is not None:
            unary = self._counts.unary(method, unary)
        return grpc.unary_unary_rpc_method_handler(unary, **codecs)

    # Calls.

    def _unary(self, method: str, rule: Rule, serve: Callable[[Any, Any], Awaitable[Any]]) -> Any:
        async def guarded(request: Any, context: Any) -> Any:
            try:
                caller = await self._let_in(context, method, rule, request)
                if rule.audited:
                    self._audited.require()
                self._count_in(caller, method)
            except Exception as error:  # noqa: BLE001 - it becomes the status of the call
                await self._refuse(context, error)
            client = caller.client
            call = self._audited.call(context, caller, method, rule, request) if rule.audited else None
            try:
                response = await serve(request, call or context)
            except BaseException:
                if call is not None:
                    call.broken_off()
                raise
            finally:
                self._open_calls.end(client)
            if call is not None:
                call.record("OK", requests.shortfall(response))
            return response

        return guarded

    def _stream(self, method: str, rule: Rule, serve: Callable[[Any, Any], AsyncGenerator[Any]]) -> Any:
        async def guarded(request: Any, context: Any) -> AsyncIterator[Any]:
            try:
                caller = await self._let_in(context, method, rule, request)
                if rule.audited:
                    self._audited.require()
                visit = self._begin(caller, method)
            except Exception as error:  # noqa: BLE001 - it becomes the status of the call
                await self._refuse(context, error)
            call = self._audited.call(context, caller, method, rule, request) if rule.audited else None
            try:
                with self._open_calls.sending() as sending:
                    async with aclosing(serve(request, call or context)) as responses:
                        async for response in responses:
                            # The others are told, and say first what they have to say.
                            if call is not None and caller.ended is not None:
                                await self._refuse(call, caller.ended)
                            sending.since = sending.time()
                            yield response
                            sending.since = NEVER
                if call is not None:
                    call.record("OK", "")
            except BaseException:
                if call is not None:
                    call.broken_off()
                raise
            finally:
                self._visits.discard(visit)
                self._open_calls.end(visit.client)
                if visit.is_counted:
                    self._streams.close(visit.client)

        return guarded

    async def _let_in(self, context: Any, method: str, rule: Rule, request: Any) -> Caller:
        """Raises RpcFailure, and what reading raises."""
        caller = self._caller(context, method)
        CALLER.set(caller)
        if rule.limited:
            if (failure := caller.overrun(method)) is not None:
                raise failure
            self._require_read(caller, method)
        await requests.check(self._backend, caller, method, rule, request)
        return caller

    def _require_read(self, caller: Caller, method: str) -> None:
        try:
            self._unread.require_room(caller)
        except RpcFailure as failure:
            self._note_refused(caller, method, failure)
            raise

    def _count_in(self, caller: Caller, method: str) -> None:
        try:
            self._open_calls.begin(caller.client, is_node=caller.is_node)
        except RpcFailure as failure:
            self._note_refused(caller, method, failure)
            raise

    def _begin(self, caller: Caller, method: str) -> _Visit:
        """Raises RpcFailure."""
        client, is_counted = caller.client, not caller.is_node
        self._count_in(caller, method)
        if is_counted and not self._streams.open(client):
            message = f"this client has {self._limits.streams_max} streams open"
            failure = RpcFailure(
                grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_STREAMS", message, {"limit": "client_streams_max"}, 1_000
            )
            self._open_calls.end(client)
            self._note_refused(caller, method, failure)
            raise failure
        visit = _Visit(caller, method, client, is_counted)
        self._visits.add(visit)
        if self._rules is not None and self._rules.policy.holder(caller.principal) is not caller.holder:
            # The rules have changed while it was let in.
            self._judge_again(visit)
        return visit

    def _caller(self, context: Any, method: str) -> Caller:
        """Raises RpcFailure."""
        peer = _host(context.peer())
        if self._rules is None:
            return Caller(peer=peer, rate=self._rate, on_refused=self._note_refused)
        shown = _shown(context)
        identity = self._identity(shown, peer, method)
        return Caller(
            self._rules.policy.holder(identity.principal),
            peer=peer,
            shown=shown,
            expires_ms=identity.expires_ms,
            rate=self._rate,
            on_refused=self._note_refused,
        )

    def _identity(self, shown: Credentials, peer: str, method: str) -> Identity:
        """Raises RpcFailure."""
        assert self._rules is not None
        policy = self._rules.policy
        try:
            if self._failures.is_empty(peer) and policy.is_costly(shown.authorization):
                raise rate_limited(1 / FAILURES_PER_SECOND)
            return policy.authenticate(shown, self._wall_ms())
        except NotAuthenticated as error:
            self._failures.take(peer)
            failure = not_authenticated(error)
        except RpcFailure as limited:
            failure = limited
        self._note_refused(Caller(peer=peer), method, failure)
        raise failure

    async def _refuse(self, context: Any, error: Exception) -> NoReturn:
        if isinstance(error, AuditUnavailable):
            self._on_refused("AUDIT_UNAVAILABLE")
            error = RpcFailure(grpc.StatusCode.UNAVAILABLE, "AUDIT_UNAVAILABLE", str(error), None, 1_000)
        await abort(context, error, self._backend.addresses)

    # Refusals.

    def _note_refused(self, caller: Caller, method: str, failure: RpcFailure) -> None:
        self._on_refused(failure.reason)
        if failure.code in _DENIALS and not self._recorded.take(caller.client):
            self._audited.refused(caller, method, failure)

    # Streams under other rules.

    def _rules_changed(self) -> None:
        for visit in list(self._visits):
            self._judge_again(visit)

    def _judge_again(self, visit: _Visit) -> None:
        """Ends the stream if it may not go on."""
        caller = visit.caller
        try:
            self._know_again(caller)
            caller.require(visit.method, Need.MEMBER)
            failure = caller.look_again()
        except NotAuthenticated as error:
            failure = not_authenticated(error)
            self._note_refused(caller, visit.method, failure)
        except RpcFailure as refused:
            failure = refused
        if failure is not None:
            caller.end(failure)

    def _know_again(self, caller: Caller) -> None:
        """Raises NotAuthenticated."""
        assert self._rules is not None
        policy = self._rules.policy
        known = Identity(caller.principal, caller.expires_ms)
        identity = policy.authenticate_again(known, caller.shown, self._wall_ms())
        caller.know_as(policy.holder(identity.principal))
        caller.expires_ms = identity.expires_ms

    def _end_expired(self) -> None:
        now_ms = self._wall_ms()
        for visit in list(self._visits):
            expires_ms = visit.caller.expires_ms
            if expires_ms is not None and now_ms >= expires_ms:
                failure = not_authenticated(NotAuthenticated("TOKEN_EXPIRED", "the token has expired"))
                self._note_refused(visit.caller, visit.method, failure)
                visit.caller.end(failure)


@dataclass(frozen=True, eq=False)
class _Visit:
    """A stream that is open."""

    caller: Caller
    method: str
    client: str
    is_counted: bool  # among the client's


def not_authenticated(error: NotAuthenticated) -> RpcFailure:
    if error.reason == "TOKEN_EXPIRED":
        return RpcFailure(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED", str(error))
    return RpcFailure(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_INVALID", str(error))


def _shown(context: Any) -> Credentials:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            return Credentials(authorization=value if isinstance(value, str) else value.decode("latin-1"))
    verified = context.auth_context()
    if not verified:
        return Credentials()
    common_name = b"".join(verified.get("x509_common_name", ())[:1]).decode("utf-8", "replace")
    names = tuple(name.decode("utf-8", "replace") for name in verified.get("x509_subject_alternative_name", ()))
    return Credentials(common_name=common_name, alternative_names=names)


def _host(peer: str) -> str:
    """Of `ipv4:1.2.3.4:567` and the like, without the port: a client has many connections."""
    kind, _, address = unquote(peer).partition(":")
    return address.rpartition(":")[0].strip("[]") if kind in ("ipv4", "ipv6") else address
