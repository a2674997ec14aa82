"""Services by name, as the records that this node has applied say, and calls that go to one of their endpoints."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from orchestrator.engine.definitions.errors import DefinitionInvalid
from orchestrator.engine.resident import ServiceRow
from orchestrator.engine.services import Protocol, ServiceRecord, validate_service
from orchestrator.integrations.service_registry.breaker import Breaker, Circuit
from orchestrator.integrations.service_registry.rotation import Rotation
from orchestrator.integrations.work import Ended, Outcome

SERVICES_MAX = 1_024

logger = logging.getLogger(__name__)

Lookup = Callable[[str, str], ServiceRow | None]
"""(namespace, name) -> the record, of this node's own replicated state."""


@dataclass(frozen=True)
class Called:
    """One call of one endpoint."""

    outcome: Outcome
    reached: bool  # the request was sent, or may have been
    healthy: bool | None  # what that says of the service; None: nothing


class NotCallable(Exception):
    """No call can be made; `outcome` says why."""

    def __init__(self, error_code: str, reason: str) -> None:
        super().__init__(reason)
        self.outcome = Outcome(ended=Ended.FAILED, reason=reason, error_code=error_code)


class Service:
    """One record, and what its endpoints have been like since it was registered."""

    def __init__(self, namespace: str, record: ServiceRecord, monotonic: Callable[[], float]) -> None:
        self.record = record
        self._namespace = namespace
        self._monotonic = monotonic
        self._rotation = Rotation(record.endpoints, monotonic)
        self._breaker = None if record.breaker is None else Breaker(record.breaker, monotonic, self._say)

    async def call(self, once: Callable[[str], Awaitable[Called]], deadline: float) -> Outcome:
        """Calls an endpoint; another one if that surely was not reached. `deadline`: of the monotonic clock."""
        breaker = self._breaker
        if breaker is None:
            return (await self._tried(once, deadline)).outcome
        admitted = breaker.admit()
        if admitted is None:
            seconds = breaker.open_for_s
            until = f"for another {seconds:.1f} s" if seconds else "until calls that are under way have succeeded"
            return NotCallable("CIRCUIT_OPEN", f"the circuit of service '{self.record.name}' is open {until}").outcome
        healthy = None
        try:
            called = await self._tried(once, deadline)
            healthy = called.healthy
            return called.outcome
        finally:
            breaker.finished(admitted, healthy)

    def _say(self, circuit: Circuit) -> None:
        level = logging.WARNING if circuit is Circuit.OPEN else logging.INFO
        where = {"service": self.record.name, "namespace": self._namespace}
        logger.log(level, "the circuit of a service is %s", circuit.value, extra=where)

    async def _tried(self, once: Callable[[str], Awaitable[Called]], deadline: float) -> Called:
        tried: Counter[str] = Counter()
        while True:
            endpoint = self._rotation.next(tried)
            if tried[endpoint]:
                left = max(0.0, deadline - self._monotonic())
                await asyncio.sleep(min(self.record.retry_delay_ms / 1000, left))
            tried[endpoint] += 1
            called = await once(endpoint)
            if called.healthy:
                self._rotation.up(endpoint)
            if called.reached or called.healthy is not False:
                return called
            self._rotation.down(endpoint)
            if tried.total() >= self.record.attempts or self._monotonic() >= deadline:
                return called


class Registry:
    """The services that tasks have named."""

    def __init__(self, lookup: Lookup, monotonic: Callable[[], float]) -> None:
        self._lookup = lookup
        self._monotonic = monotonic
        self._services: OrderedDict[tuple[str, str], Service] = OrderedDict()

    def find(self, namespace: str, name: str, protocol: Protocol) -> Service:
        """Raises NotCallable."""
        row = self._lookup(namespace, name)
        if row is None:
            self._services.pop((namespace, name), None)
            raise NotCallable("SERVICE_NOT_FOUND", f"no service '{name}' is registered in namespace '{namespace}'")
        service = self._current(row)
        if service.record.protocol is not protocol:
            other = service.record.protocol
            raise NotCallable("SERVICE_PROTOCOL", f"service '{name}' is of protocol {other}, not {protocol}")
        return service

    def _current(self, row: ServiceRow) -> Service:
        key = (row.namespace, row.name)
        service = self._services.get(key)
        if service is None or service.record.document != row.document:
            # A record that was replaced begins anew: what was known is of other endpoints, or by another rule.
            try:
                record = validate_service(row.document)
            except DefinitionInvalid as error:
                # Registered by a newer version than this node's.
                raise NotCallable("SERVICE_INVALID", f"service '{row.name}': {error}") from error
            service = self._services[key] = Service(row.namespace, record, self._monotonic)
        self._services.move_to_end(key)
        if len(self._services) > SERVICES_MAX:
            self._services.popitem(last=False)
        return service
