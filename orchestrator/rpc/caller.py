"""Who makes the call that is being served, and what they may do. Without access rules: everybody, everything.

Streams look at each thing that is asked of them, thousands a second: what was decided once for a name is remembered
until the rules change.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

import grpc

from orchestrator.access.limits import Rate
from orchestrator.access.patterns import EVERYTHING
from orchestrator.access.policy import Decision, Holder, missing
from orchestrator.access.principals import ANONYMOUS, Credentials, Known, Principal
from orchestrator.access.roles import ROLES, Need
from orchestrator.engine.execution_state import ExecutionState
from orchestrator.rpc.errors import RpcFailure

Refused = Callable[["Caller", str, RpcFailure], None]
"""Told of each thing that was refused to somebody, and in which method."""


def _not_told(caller: Caller, method: str, failure: RpcFailure) -> None:
    return


class Caller:
    """One call or stream, as long as it lasts."""

    def __init__(
        self,
        holder: Holder | None = None,
        *,
        peer: str = "",
        shown: Credentials | None = None,
        expires_ms: int | None = None,
        rate: Rate | None = None,
        on_refused: Refused = _not_told,
    ) -> None:
        self.is_free = holder is None
        self.is_limited = rate is not None  # requests take from a rate
        self.peer = peer
        self.shown = shown or Credentials()
        self.expires_ms = expires_ms
        self._rate = rate
        self._on_refused = on_refused
        self.ended: RpcFailure | None = None  # why the stream must not go on
        self._when_ended: Callable[[RpcFailure], None] = lambda failure: None
        self._look_again: Callable[[], RpcFailure | None] = lambda: None
        self.know_as(holder)

    def know_as(self, holder: Holder | None) -> None:
        """Who it is, and may do what; None: there are no rules."""
        self.holder = holder
        self.principal: Principal = ANONYMOUS if holder is None else holder.principal
        is_anonymous = self.principal.known_by is Known.ANONYMOUS
        # Whose limits count: the principal's, or those of the address that an anonymous one comes from.
        self.client = f"@{self.peer}" if is_anonymous else self.principal.name
        # One of the cluster's own nodes, which has no limits.
        self.is_node = holder is not None and holder.is_node
        self._bucket = None if self._rate is None or self.is_node else self._rate.bucket(self.client)

    def allows(self, need: Need, namespace: str, name: str | None = None) -> bool:
        holder = self.holder
        return holder is None or holder.decide(need, namespace, name).allowed

    def allows_all(self, need: Need, namespace: str) -> bool:
        """Whatever the name is."""
        return self.allows(need, namespace, EVERYTHING)

    def sees(self, held: ExecutionState, need: Need = Need.SEE) -> bool:
        return self.allows(need, held.execution.namespace, held.execution.name)

    def refusal(self, method: str, need: Need, namespace: str = "", name: str | None = None) -> RpcFailure | None:
        """None if it is allowed."""
        holder = self.holder
        if holder is None or (decision := holder.decide(need, namespace, name)).allowed:
            return None
        failure = self._failure(method, need, namespace, name, decision)
        self._on_refused(self, method, failure)
        return failure

    def end(self, failure: RpcFailure) -> None:
        """The stream must not go on."""
        if self.ended is None:
            self.ended = failure
            self._when_ended(failure)

    def when_ended(self, tell: Callable[[RpcFailure], None]) -> None:
        """Tells it, at once if it has ended already. What carries a stream ends it then, with this failure."""
        if self.is_free:
            return  # it never does, and who is everybody outlives the stream
        self._when_ended = tell
        if self.ended is not None:
            tell(self.ended)

    def judge_by(self, look_again: Callable[[], RpcFailure | None]) -> None:
        """What says whether the stream may go on under other rules: what is wrong, or None."""
        if not self.is_free:
            self._look_again = look_again

    def look_again(self) -> RpcFailure | None:
        return self._look_again()

    def require_going_on(self) -> None:
        """Raises the failure with which the stream was ended."""
        if self.ended is not None:
            raise self.ended

    def require(self, method: str, need: Need, namespace: str = "", name: str | None = None) -> None:
        """Raises RpcFailure if it is not allowed."""
        failure = self.refusal(method, need, namespace, name)
        if failure is not None:
            raise failure

    def note_hidden(self, method: str, need: Need, namespace: str, name: str) -> None:
        """Somebody is told that there is no such thing, as it is not theirs to see."""
        said = Decision(False, missing(need, namespace, name))
        self._on_refused(self, method, self._failure(method, need, namespace, name, said))

    def overrun(self, method: str) -> RpcFailure | None:
        """Takes one request from the caller's rate: None if there was one."""
        if self._bucket is None or not (seconds := self._bucket.take()):
            return None
        failure = rate_limited(seconds)
        self._on_refused(self, method, failure)
        return failure

    def _failure(self, method: str, need: Need, namespace: str, name: str | None, decision: Decision) -> RpcFailure:
        short = method.rpartition("/")[2] if method.startswith("/") else method
        metadata = {"method": short, "role": "any" if need is Need.MEMBER else " or ".join(ROLES[need])}
        if need not in (Need.MEMBER, Need.SYSTEM_WORK, Need.ADMINISTER_CLUSTER):
            metadata["namespace"] = namespace
        if name is not None:
            metadata["name"] = name
        if self.principal.known_by is Known.ANONYMOUS:
            message = f"{short} needs a token or a client certificate that is known here: {decision.why}"
            return RpcFailure(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_MISSING", message, metadata)
        message = f"{self.principal.name} may not do {short}: {decision.why}"
        return RpcFailure(grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED", message, metadata)


def rate_limited(seconds: float) -> RpcFailure:
    message = "this client makes more requests than it may"
    retry_after_ms = max(1, int(seconds * 1000) + 1)
    return RpcFailure(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED", message, {"limit": "client_requests_per_second"},
        retry_after_ms,
    )


EVERYBODY = Caller()
"""Who calls where nobody is asked."""

CALLER: ContextVar[Caller] = ContextVar("CALLER", default=EVERYBODY)
"""Of the call that is being served."""
