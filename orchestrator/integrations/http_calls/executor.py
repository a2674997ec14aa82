"""Makes the request of an HTTP task, and says of each failure whether it may have taken effect all the same.

It may have if the request was sent and no status came back; if a gateway answered that it had no answer itself; and if
the server did it, and its answer is not fit to be an output. It can't have if no connection was made.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

import httpx

from orchestrator import __version__
from orchestrator.engine.expressions import PAYLOAD_BYTES_MAX
from orchestrator.engine.services import Protocol, ServiceRecord, Tls
from orchestrator.integrations.http_calls.answer import FAILURE_BYTES_MAX, Answer, BodyInvalid, outcome_of, read_body
from orchestrator.integrations.http_calls.connections import Busy, Connections
from orchestrator.integrations.http_calls.request import HttpRequest, InputInvalid, read_request
from orchestrator.integrations.service_registry.registry import Called, Lookup, NotCallable, Registry
from orchestrator.integrations.service_registry.tls_files import TlsUnusable
from orchestrator.integrations.work import Ended, Outcome, Work, unexpected

CONNECT_MS = 3_000
READ_MS = 3_000
TOTAL_MS = 60_000
REDIRECTS_MAX = 5

_REDIRECTS = frozenset((301, 302, 303, 307, 308))
_SAFE_METHODS = frozenset(("GET", "HEAD"))

logger = logging.getLogger(__name__)


@dataclass
class _Flight:
    """One request on its way."""

    deadline: float  # of the monotonic clock
    bytes_max: int  # of the answer
    is_sent: bool = False
    answer: Answer | None = None

    async def trace(self, event: str, info: object) -> None:
        """httpcore tells what it does; from here on the server may act."""
        if event.endswith(".send_request_headers.started"):
            self.is_sent = True


@dataclass(frozen=True)
class _Plan:
    """Whatever a request needs, from the task, the record of its service and the defaults."""

    request: HttpRequest
    headers: tuple[tuple[str, str], ...]  # the record's and the task's
    ours: tuple[tuple[str, str], ...]
    tls: Tls | None
    connect_ms: int
    read_ms: int
    deadline: float = field(default=0.0)


class _Failed(Exception):
    """`healthy`: what it says of the service. `certain`: it had no effect, whatever was sent."""

    def __init__(
        self, error_code: str, reason: str, *, healthy: bool | None = None, certain: bool = False
    ) -> None:
        super().__init__(reason)
        self.error_code = error_code
        self.healthy = healthy
        self.certain = certain


class HttpExecutor:
    """One of a node. `service`: the record by namespace and name, of the node's own replicated state.

    `bytes_max`: of an answer, which has to be the output of a task.
    """

    def __init__(
        self, service: Lookup, monotonic: Callable[[], float], bytes_max: int = PAYLOAD_BYTES_MAX
    ) -> None:
        self._monotonic = monotonic
        self._bytes_max = bytes_max
        self._registry = Registry(service, monotonic)
        self._connections = Connections()

    async def execute(self, work: Work) -> Outcome:
        """Never raises but CancelledError."""
        try:
            return await self._execute(work)
        except InputInvalid as error:
            return Outcome(ended=Ended.FAILED, reason=str(error), error_code="HTTP_INVALID")
        except NotCallable as error:
            return error.outcome
        except Exception as error:  # noqa: BLE001 - it is logged, and an outcome
            reason = unexpected(logger, "an HTTP task", work, error)
            return Outcome(ended=Ended.FAILED, reason=reason, error_code="HTTP_INTERNAL", outcome_unknown=True)

    async def close(self) -> None:
        """Closes all connections; requests under way fail."""
        await self._connections.close()

    async def _execute(self, work: Work) -> Outcome:
        request = read_request(work.input)
        if not request.service:
            plan = self._plan(work, request, None)
            return (await self._once(plan, request.uri)).outcome
        service = self._registry.find(work.namespace, request.service, Protocol.HTTP)
        plan = self._plan(work, request, service.record)

        async def once(endpoint: str) -> Called:
            return await self._once(plan, joined(endpoint, request.path))

        return await service.call(once, plan.deadline)

    def _plan(self, work: Work, request: HttpRequest, record: ServiceRecord | None) -> _Plan:
        connect_ms = request.connect_ms or (record.connect_ms if record is not None else CONNECT_MS)
        read_ms = request.read_ms or (record.read_ms if record is not None else READ_MS)
        total_ms = request.total_ms or (record.total_ms if record is not None else 0)
        # Whoever wants to wait longer for an answer means it.
        total_ms = total_ms or max(TOTAL_MS, connect_ms + read_ms)
        if work.timeout_ms:
            total_ms = min(total_ms, work.timeout_ms)
        of_record = record.headers if record is not None else ()
        return _Plan(
            request=request,
            headers=merged(work.trace, request.defaults, of_record, request.headers),
            ours=(("Idempotency-Key", work.idempotency_key), ("Fencing-Token", str(work.fencing_token))),
            tls=record.tls if record is not None else None,
            connect_ms=connect_ms,
            read_ms=read_ms,
            deadline=self._monotonic() + total_ms / 1000,
        )

    async def _once(self, plan: _Plan, uri: str) -> Called:
        flight = _Flight(plan.deadline, self._bytes_max)
        try:
            async with asyncio.timeout(max(0.0, plan.deadline - self._monotonic())):
                answer = await self._send(plan, uri, flight)
            if len(answer.body) > PAYLOAD_BYTES_MAX:
                # It takes long to read.
                outcome = await asyncio.to_thread(outcome_of, answer, plan.request.terminal)
            else:
                outcome = outcome_of(answer, plan.request.terminal)
            return Called(outcome, reached=True, healthy=answer.status < 500)
        except TimeoutError:
            failed = _Failed("HTTP_TIMEOUT", "the time for the whole request has passed", healthy=False)
        except Busy as error:
            failed = _Failed("HTTP_BUSY", str(error))
        except TlsUnusable as error:
            failed = _Failed("HTTP_TLS", str(error))
        except httpx.InvalidURL as error:
            failed = _Failed("HTTP_INVALID", f"uri: {error}")
        except BodyInvalid as error:
            failed = _Failed("HTTP_RESPONSE_INVALID", str(error))
        except httpx.TransportError as error:
            failed = _read_error(error)
        except _Failed as error:
            failed = error
        return _failed(flight, failed, plan.request.terminal)

    async def _send(self, plan: _Plan, uri: str, flight: _Flight) -> Answer:
        """Follows redirects of GET and HEAD, within their scheme."""
        method, body = plan.request.method, plan.request.body
        headers, first = plan.headers, _url(uri)
        url = first
        for _ in range(REDIRECTS_MAX + 1):
            async with self._connections.to(url, plan.tls, plan.connect_ms / 1000) as transport:
                request = self._request(plan, url, merged(headers, plan.ours), method, body, flight)
                answer = await _exchange(transport, request, flight)
            following = _location(answer) if method in _SAFE_METHODS and answer.status in _REDIRECTS else ""
            if not following:
                return answer
            url = url.join(following)
            if url.scheme != first.scheme:
                raise _redirected(flight, f"redirected from {first.scheme} to {url.scheme}")
            if (url.host, url.port) != (first.host, first.port):
                # What may be secret in them was meant for whom the task names.
                headers = plan.request.defaults
        raise _redirected(flight, f"redirected more than {REDIRECTS_MAX} times")

    def _request(
        self,
        plan: _Plan,
        url: httpx.URL,
        headers: tuple[tuple[str, str], ...],
        method: str,
        body: bytes | None,
        flight: _Flight,
    ) -> httpx.Request:
        left = max(0.001, flight.deadline - self._monotonic())
        connect, read = min(left, plan.connect_ms / 1000), min(left, plan.read_ms / 1000)
        extensions: dict[str, object] = {
            "timeout": {"connect": connect, "pool": None, "read": read, "write": read},
            "trace": flight.trace,
        }
        if plan.tls is not None and plan.tls.server_name:
            extensions["sni_hostname"] = plan.tls.server_name
        # A compressed answer saves little below the limit of a payload.
        basic = (("User-Agent", f"orchestrator/{__version__}"), ("Accept-Encoding", "identity"))
        pairs = [(name.encode("ascii"), value.strip().encode("latin-1")) for name, value in merged(basic, headers)]
        return httpx.Request(method, url, headers=pairs, content=body, extensions=extensions)


async def _exchange(transport: httpx.AsyncHTTPTransport, request: httpx.Request, flight: _Flight) -> Answer:
    flight.answer = None
    response = await transport.handle_async_request(request)
    try:
        status = response.status_code
        answer = Answer(
            status=status,
            phrase=response.reason_phrase,
            headers=tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in response.headers.raw),
            body=b"",
            charset=response.charset_encoding or "",
            is_whole=False,
        )
        flight.answer = answer
        most = flight.bytes_max if answer.is_success else FAILURE_BYTES_MAX
        body, is_whole = await read_body(
            response.aiter_raw(), response.headers.get("content-encoding", ""), most
        )
        return Answer(
            status=status,
            phrase=answer.phrase,
            headers=answer.headers,
            body=body,
            charset=answer.charset,
            is_whole=is_whole,
            bytes_max=flight.bytes_max,
        )
    finally:
        await response.aclose()


def _url(uri: str) -> httpx.URL:
    url = httpx.URL(uri)
    if url.scheme not in ("http", "https") or not url.host:
        raise _Failed("HTTP_INVALID", "uri: it is not of the form http://host/path or https://...")
    if url.userinfo:
        raise _Failed("HTTP_INVALID", "uri: a name and a password belong into the header Authorization")
    return url


def _location(answer: Answer) -> str:
    return next((value for name, value in answer.headers if name.lower() == "location"), "")


def _redirected(flight: _Flight, reason: str) -> _Failed:
    flight.answer = None
    return _Failed("HTTP_REDIRECT", reason, certain=True)


def joined(endpoint: str, path: str) -> str:
    """The endpoint's own path and the task's, with one slash between them; a query may follow."""
    if not path:
        return endpoint
    return endpoint.rstrip("/") + (path if path[0] in "/?" else f"/{path}")


def merged(*layers: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
    """Headers of all layers; a later layer's replace those of the same name, whatever its case."""
    found: dict[str, list[tuple[str, str]]] = {}
    for layer in layers:
        for name in {name.lower(): None for name, _ in layer}:
            found[name] = [(spelt, value) for spelt, value in layer if spelt.lower() == name]
    return tuple(pair for pairs in found.values() for pair in pairs)


def _read_error(error: httpx.TransportError) -> _Failed:
    reason = str(error) or type(error).__name__
    match error:
        case httpx.ConnectTimeout():
            return _Failed("HTTP_CONNECT_TIMEOUT", "no connection within the time for it", healthy=False)
        case httpx.TimeoutException():
            return _Failed("HTTP_TIMEOUT", "no answer within the time for it", healthy=False)
        case httpx.LocalProtocolError() | httpx.UnsupportedProtocol():
            return _Failed("HTTP_INVALID", reason, certain=True)
        case httpx.ConnectError():
            code = "HTTP_TLS" if _is_tls(error) else "HTTP_CONNECT"
            return _Failed(code, f"can't connect: {reason}", healthy=False)
        case _:
            return _Failed("HTTP_CONNECTION_LOST", f"the connection was lost: {reason}", healthy=False)


def _is_tls(error: BaseException | None) -> bool:
    """Whether the cause of all was the handshake."""
    while error is not None:
        if isinstance(error, ssl.SSLError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _failed(flight: _Flight, error: _Failed, terminal: frozenset[int]) -> Called:
    answer = flight.answer
    if answer is not None and not answer.is_success:
        # The status came, and says enough.
        return Called(outcome_of(answer, terminal), reached=True, healthy=answer.status < 500)
    unknown = flight.is_sent and not error.certain
    outcome = Outcome(
        ended=Ended.FAILED, reason=str(error), error_code=error.error_code, outcome_unknown=unknown
    )
    return Called(outcome, reached=flight.is_sent, healthy=error.healthy)
