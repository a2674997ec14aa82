"""Calls to whichever node leads: one channel for each node, and a pause instead of an error while the leader changes.

A call that has waited for a while is not left to a dead peer: its node is asked for a sign of life, and if that does
not come at once the other nodes are asked who leads. Opinions are in `leader`, decisions in `retry`; here is only the
I/O.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, cast

import grpc
import grpc.aio

from orchestrator_api.v1 import asks_pb2, cluster_pb2, workflows_pb2
from orchestrator_client import errors
from orchestrator_client.asks import Answer, Asked, AskStream
from orchestrator_client.channels import ChannelFactory, Node
from orchestrator_client.diagnosis import Diagnosis, Explain
from orchestrator_client.leader import LeaderFinder
from orchestrator_client.line import Line
from orchestrator_client.requests import RequestLedger, Ticket
from orchestrator_client.retry import CallRetry, TryAgain
from orchestrator_client.sessions import Sessions
from orchestrator_client.status import Failure, Kind, failure_of, final_error

# How long a call may be silent before its node is asked for a sign of life.
PATIENCE_S = 0.3
# How long a node has for that sign, or to say who leads; and after how much of it the others are asked, too.
PROBE_S = 0.3
HEDGE_S = 0.1
# While nobody leads the nodes are asked this often, for at most this long at a stretch.
POLL_S = 0.05
LOCATE_S = 1.0
# How much later than it was waited for the answer may come.
ANSWER_S = 5.0
# How much later than the deadline it may be said that it has not ended.
LATE_S = 1.0
# How long one attempt may take before it is sent again.
ATTEMPT_S = 5.0
# How long what is under way on a channel may take whose place another one has taken.
RUN_OUT_S = 5.0
# How soon it is looked again for the reason of a failure.
COMPLAINT_S = 30.0

_logger = logging.getLogger("orchestrator_client")
Request = TypeVar("Request")
Reply = TypeVar("Reply")
Credible = Callable[[str, cluster_pb2.GetLeaderResponse], bool]
"""Whether what a node (its address) says of the leader is to be believed; if so, it is taken up."""
Version = Callable[[], object]
"""What channels are made with now: after a failure one is made anew if that has changed."""


class Connection:
    """The channels of one client, its opinion of the leader, and its client session."""

    def __init__(
        self,
        endpoints: Iterable[str],
        *,
        namespace: str,
        open_channel: ChannelFactory,
        deadline_s: float,
        rng: random.Random,
        streams: bool = True,
        renews_token: bool = False,
        explain: Explain | None = None,
        version: Version | None = None,
    ) -> None:
        self.finder = LeaderFinder(endpoints)
        self.namespace = namespace
        self.deadline_s = deadline_s
        self.rng = rng
        self._open_channel = open_channel
        self._renews_token = renews_token
        self._nodes: dict[str, Node] = {}
        self._streams_asks = streams
        self._streams: dict[str, AskStream] = {}
        self._sessions = Sessions(self._open_session, self.now)
        self._line = Line(rng, self.now)
        # Questions under way, which all callers share: by address, and "" for who leads.
        self._questions: dict[str, asyncio.Task[bool]] = {}
        self._confirmed = ""
        self._version = version
        self._opened_as: dict[str, object] = {}
        self._diagnosis = Diagnosis(explain)
        self._complained_at = float("-inf")
        # What nobody waits for: channels that are closed while others have taken their place, and explanations.
        self._aside: set[asyncio.Task[None]] = set()

    @staticmethod
    def now() -> float:
        return asyncio.get_running_loop().time()

    def node(self, address: str) -> Node:
        node = self._nodes.get(address)
        if node is None:
            # Before: then what changes meanwhile is noticed later.
            self._opened_as[address] = self._version() if self._version is not None else None
            node = self._nodes[address] = Node(self._open_channel(address))
        return node

    def _renew(self, address: str) -> None:
        """If a channel would be made with other certificates now, the next call opens one; the old one may run out."""
        if self._version is not None and address in self._nodes and self._version() != self._opened_as[address]:
            old = self._nodes.pop(address)
            self._streams.pop(address, None)
            self._do_aside(_run_out(old.channel))

    def _do_aside(self, what: Any) -> None:
        task = asyncio.ensure_future(what)
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)

    def complain(self, address: str) -> None:
        """Logs why a node can't be reached, if that can be found out, and not again and again."""
        now = self.now()
        if now - self._complained_at >= COMPLAINT_S:
            self._complained_at = now
            self._do_aside(self._log_reason(address))

    async def _log_reason(self, address: str) -> None:
        if reason := await self._diagnosis.reason(address):
            _logger.warning("no connection: %s", reason)

    async def explained(self, address: str, error: errors.ClusterError) -> errors.ClusterError:
        """The same error, with the reason of the failure if that can be found out."""
        reason = await self._diagnosis.reason(address)
        if not reason:
            return error
        return type(error)(f"{error.message} ({reason})", reason=error.reason, metadata=error.metadata)

    async def close(self) -> None:
        aside = list(self._aside)
        for task in aside:
            task.cancel()
        await asyncio.gather(*aside, return_exceptions=True)
        self._line.close()
        await self._diagnosis.close()
        questions = list(self._questions.values())
        for question in questions:
            question.cancel()
        await asyncio.gather(*questions, return_exceptions=True)
        streams, self._streams = list(self._streams.values()), {}
        for stream in streams:
            await stream.close()
        nodes, self._nodes = list(self._nodes.values()), {}
        for node in nodes:
            await node.channel.close()

    async def call(
        self,
        method: Callable[[Node], grpc.aio.UnaryUnaryMultiCallable[Request, Reply]],
        request: Request,
        *,
        mutating: bool = False,
        timeout_s: float | None = None,
        attempt_s: float = ATTEMPT_S,
        starts: bool = False,
    ) -> Reply:
        """The leader's answer. A mutating request is given its identity here, the same for each attempt.

        `starts`: it starts an execution, and waits for its turn while there is not room for all.
        """
        deadline = self.now() + (self.deadline_s if timeout_s is None else timeout_s)
        retry = CallRetry(deadline=deadline, identified=True, mutating=mutating, rng=self.rng)
        ticket: Ticket | None = None
        try:
            while True:
                if starts:
                    await self._line.turn(retry)
                if mutating:
                    ticket = ticket or await self._sessions.ticket(deadline)
                    ticket.identify(cast(Any, request).request)
                address, began = self.finder.current, self.now()
                answer = await self._attempt(address, method, request, min(attempt_s, deadline - began))
                if not isinstance(answer, Failure):
                    if starts:
                        self._line.accepted(began)
                    self._confirm(address)
                    return answer
                if starts:
                    self._line.failed(answer, began)
                decision = await self.recover(address, answer, retry)
                ticket = self._sessions.kept(ticket, answer, decision, retry)
        finally:
            if ticket is not None:
                ticket.close()

    async def ask(self, ask: asks_pb2.Ask, *, timeout_s: float | None = None, attempt_s: float = ATTEMPT_S) -> Answer:
        """The leader's last answer, over the stream that all callers share.

        For an outcome it may be that it has started: then its end has to be waited for. `attempt_s` is for a start how
        long it may take until it has started.
        """
        kind = ask.WhichOneof("ask")
        start = ask.start if kind == "start" else ask.outcome.start if kind == "outcome" else None
        deadline = self.now() + (self.deadline_s if timeout_s is None else timeout_s)
        wait_s = ask.outcome.wait_ms / 1000 + ANSWER_S if kind == "outcome" else 0.0
        retry = CallRetry(deadline=deadline, identified=True, mutating=start is not None, rng=self.rng)
        ticket: Ticket | None = None
        try:
            while self._streams_asks:
                if start is not None:
                    await self._line.turn(retry)
                    ticket = ticket or await self._sessions.ticket(deadline)
                    ticket.identify(start.request)
                began = self.now()
                left_s = deadline - began
                if kind == "outcome":
                    ask.outcome.wait_ms = max(1, min(ask.outcome.wait_ms, int(left_s * 1000)))
                    left_s += LATE_S
                address = self.finder.current
                asked = Asked(ask, mutating=start is not None, wait_s=wait_s)
                if start is not None:
                    asked.on_accepted = partial(self._line.accepted, began)
                answer = await self._stream_to(address).answer(asked, min(attempt_s, left_s))
                if not isinstance(answer, Failure):
                    self._confirm(address)
                    return answer
                if asked.started is not None:
                    self.report(address, answer)
                    return asked.started
                if answer.code is grpc.StatusCode.UNIMPLEMENTED and not answer.reason:
                    self._streams_asks = False
                    break
                if start is not None:
                    self._line.failed(answer, began)
                decision = await self.recover(address, answer, retry)
                ticket = self._sessions.kept(ticket, answer, decision, retry)
        finally:
            if ticket is not None:
                ticket.close()
        return await self._ask_alone(ask, max(deadline - self.now(), 0.0), attempt_s)

    async def _ask_alone(self, ask: asks_pb2.Ask, timeout_s: float | None, attempt_s: float) -> Answer:
        """By a call of its own."""
        if ask.WhichOneof("ask") == "wait":
            reply = await self.call(
                lambda node: node.workflows.WaitWorkflow, ask.wait, timeout_s=timeout_s, attempt_s=attempt_s
            )
            return reply.workflow
        start = ask.outcome.start if ask.WhichOneof("ask") == "outcome" else ask.start
        return await self.call(
            lambda node: node.workflows.StartWorkflow, start, mutating=True, timeout_s=timeout_s, attempt_s=attempt_s,
            starts=True,
        )

    def _stream_to(self, address: str) -> AskStream:
        stream = self._streams.get(address)
        if stream is None or stream.is_over:
            call = self.node(address).asks.Ask()
            stream = self._streams[address] = AskStream(call, address, self.now, lambda: self.check(address))
            for other, idle in list(self._streams.items()):
                if idle.is_idle and idle is not stream:
                    idle.end(Failure(Kind.UNREACHABLE, grpc.StatusCode.CANCELLED, f"{other} leads no longer"))
                    del self._streams[other]
        return stream

    async def ask_any(
        self, method: Callable[[Node], grpc.aio.UnaryUnaryMultiCallable[Request, Reply]], request: Request
    ) -> Reply:
        """The first answer that any node gives."""
        failure: Failure | None = None
        address = ""
        for address in sorted(self.finder.addresses, key=lambda address: address != self.finder.current):
            answer = await self._attempt(address, method, request, 1.0)
            if not isinstance(answer, Failure):
                return answer
            if answer.kind in (Kind.FINAL, Kind.TOKEN_REFUSED):
                raise final_error(answer)
            self.report(address, answer)
            failure = answer
        assert failure is not None
        raise await self.explained(address, errors.NoLeader(f"no node answered: {failure.message}"))

    def report(self, address: str, failure: Failure) -> None:
        """Lets all calls learn from the failure of one."""
        if failure.kind is Kind.NOT_LEADER:
            self.finder.refused(address, failure.leader_address, self.now())
        elif failure.kind is Kind.UNREACHABLE and failure.code is not grpc.StatusCode.DEADLINE_EXCEEDED:
            self.finder.failed(address, self.now())
        if failure.kind is Kind.UNREACHABLE:
            self._renew(address)
        if self._confirmed == address and failure.kind in (Kind.NOT_LEADER, Kind.UNREACHABLE):
            self._confirmed = ""

    async def recover(self, address: str, failure: Failure, retry: CallRetry) -> TryAgain:
        """Learns from a failed attempt and returns when the next may be made; raises if there is none."""
        failure = self._judged(failure)
        self.report(address, failure)
        started, term = self.now(), self.finder.term
        try:
            decision = retry.next(failure, started, address)
        except errors.ClusterError as error:
            if failure.kind is not Kind.UNREACHABLE or failure.code is not grpc.StatusCode.UNAVAILABLE:
                raise
            raise await self.explained(address, error) from None
        located = decision.locate and await self.locate(decision.after_s)
        # Who leads a later term is a new leader, though it may be the node that has just refused.
        if located and (self.finder.current != address or self.finder.term > term):
            return decision
        remaining_s = decision.after_s - (self.now() - started)
        if remaining_s > 0:
            await asyncio.sleep(remaining_s)
        return decision

    def _judged(self, failure: Failure) -> Failure:
        """A token that stays the same is refused for good."""
        is_final = failure.kind is Kind.TOKEN_REFUSED and not self._renews_token
        return replace(failure, kind=Kind.FINAL) if is_final else failure

    async def locate(self, within_s: float) -> bool:
        """Asks all nodes who leads, again and again; True once someone credible says it, False if not in time."""
        try:
            async with asyncio.timeout(within_s):
                return await self._shared("", self._locate)
        except TimeoutError:
            return False

    async def check(self, address: str) -> bool:
        """Asks the node for a sign of life, and the others who leads if there is none at once.

        True if calls to it are still well placed.
        """
        return await self._shared(address, lambda: self._check(address))

    async def watchful(self, address: str, read: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
        """The next message of a stream from the node, or a Failure; does not wait for a node that is gone."""
        return await self._watched(address, _answered(read()), patience_s)

    async def _attempt(
        self,
        address: str,
        method: Callable[[Node], grpc.aio.UnaryUnaryMultiCallable[Request, Reply]],
        request: Request,
        timeout_s: float,
    ) -> Reply | Failure:
        call = method(self.node(address))(request, timeout=max(timeout_s, 0.001))
        return cast("Reply | Failure", await self._watched(address, _answered(call)))

    async def _watched(self, address: str, answering: Any, patience_s: float = PATIENCE_S) -> Any:
        answer = asyncio.ensure_future(answering)
        try:
            done, _ = await asyncio.wait({answer}, timeout=patience_s)
            while not done:
                check = asyncio.ensure_future(self.check(address))
                try:
                    await asyncio.wait({answer, check}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    check.cancel()
                if not answer.done() and not check.result():
                    return Failure(Kind.UNREACHABLE, grpc.StatusCode.UNAVAILABLE, f"{address} is silent")
                done, _ = await asyncio.wait({answer}, timeout=patience_s)
            return answer.result()
        finally:
            if not answer.done():
                answer.cancel()

    def _confirm(self, address: str) -> None:
        self._confirmed = address
        self.finder.confirmed(address)

    async def _open_session(self, deadline: float) -> RequestLedger:
        # A session that was opened without our learning of it is forgotten by itself: no identity needed.
        request = workflows_pb2.OpenClientSessionRequest(namespace=self.namespace)
        remaining_s = max(deadline - self.now(), 0.001)
        reply = await self.call(lambda node: node.workflows.OpenClientSession, request, timeout_s=remaining_s)
        return RequestLedger(reply.session_id, reply.idle_timeout_ms / 1000 or 60.0, self.now())

    async def _shared(self, key: str, question: Callable[[], Any]) -> bool:
        task = self._questions.get(key)
        if task is None:
            task = self._questions[key] = asyncio.ensure_future(question())
            task.add_done_callback(lambda _: self._questions.pop(key, None))
        return await asyncio.shield(task)

    async def _check(self, address: str) -> bool:
        asked = asyncio.ensure_future(self._who_leads(address))
        others: asyncio.Task[bool] | None = None
        try:
            done, _ = await asyncio.wait({asked}, timeout=HEDGE_S)
            if not done:
                others = asyncio.ensure_future(self._ask_others(address))
                await asyncio.wait({asked, others}, return_when=asyncio.FIRST_COMPLETED)
                if others.done() and others.result():
                    return False
            await self._hear_sign(address, await asked)
        finally:
            for task in (asked, others):
                if task is not None:
                    task.cancel()
        return self.finder.current == address

    async def _hear_sign(self, address: str, reply: cluster_pb2.GetLeaderResponse | None) -> None:
        if reply is None:
            self.finder.failed(address, self.now())
            await self.locate(PROBE_S)
        elif self._confirmed == address and self.finder.current == address and self.finder.term in (0, reply.term):
            # It leads, as a call has just shown, so the leader's advertised address is its own.
            self.finder.same_node(reply.grpc_address, address, reply.term)
        else:
            self.finder.named(reply.grpc_address, reply.term, address, self.now())

    async def _ask_others(self, silent: str) -> bool:
        """True as soon as one of them names another leader; not before the probe of the silent one has ended."""

        def credible(by: str, reply: cluster_pb2.GetLeaderResponse) -> bool:
            return self.finder.superseded(silent, reply.grpc_address, reply.term, by, self.now())

        return await self._ask_all([one for one in self.finder.addresses if one != silent], PROBE_S, credible)

    async def _locate(self) -> bool:
        def credible(by: str, reply: cluster_pb2.GetLeaderResponse) -> bool:
            return self.finder.named(reply.grpc_address, reply.term, by, self.now())

        return await self._ask_all(self.finder.addresses, LOCATE_S, credible)

    async def _ask_all(self, addresses: list[str], within_s: float, credible: Credible) -> bool:
        """Asks who leads, again and again; True as soon as an answer is credible."""
        until = self.now() + within_s
        asked: dict[asyncio.Task[cluster_pb2.GetLeaderResponse | None], str] = {}
        try:
            while (now := self.now()) < until:
                for address in addresses:
                    # A node that has not answered yet must not hold up the others, nor be asked twice at once.
                    if address not in asked.values():
                        asked[asyncio.ensure_future(self._who_leads(address))] = address
                if await self._hear(asked, now + POLL_S, credible):
                    return True
            return False
        finally:
            for task in asked:
                task.cancel()

    async def _hear(
        self,
        asked: dict[asyncio.Task[cluster_pb2.GetLeaderResponse | None], str],
        until: float,
        credible: Credible,
    ) -> bool:
        """Takes up the answers that come until then; True as soon as one is credible."""
        while asked and (left_s := until - self.now()) > 0:
            done, _ = await asyncio.wait(asked, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                address, reply = asked.pop(task), task.result()
                if reply is not None and credible(address, reply):
                    return True
        await asyncio.sleep(max(until - self.now(), 0))
        return False

    async def _who_leads(self, address: str) -> cluster_pb2.GetLeaderResponse | None:
        call = self.node(address).cluster.GetLeader(cluster_pb2.GetLeaderRequest(), timeout=PROBE_S)
        answer = await _answered(call)
        if not isinstance(answer, Failure):
            return cast(cluster_pb2.GetLeaderResponse, answer)
        if answer.kind is Kind.UNREACHABLE:
            self._renew(address)
        return None


async def _run_out(channel: grpc.aio.Channel) -> None:
    try:
        await channel.close(RUN_OUT_S)
    except asyncio.CancelledError:
        await channel.close()
        raise


async def _answered(call: Any) -> Any:
    """The reply, or the failure as a value."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        return failure_of(error)
    except (grpc.aio.UsageError, grpc.aio.InternalError) as error:
        return Failure(Kind.UNREACHABLE, grpc.StatusCode.UNAVAILABLE, str(error))


