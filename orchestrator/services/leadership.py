"""What a leader does besides replicating: one object that begins and ends all services together.

`begin` is called once this node leads and has applied everything before its term, `end` when it leads no longer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Protocol, get_args

from orchestrator.engine import pending
from orchestrator.engine.effects import AnyEffect
from orchestrator.integrations.work import Executor
from orchestrator.replication.errors import NotLeader, OutcomeUnknown
from orchestrator.services.checkpoints import INTERVAL_SECONDS, Checkpointer
from orchestrator.services.conditions import Conditions
from orchestrator.services.dispatcher import Dispatcher
from orchestrator.services.liveness import Liveness
from orchestrator.services.notifier import Notifier
from orchestrator.services.ports import CurrentMachine, Submit
from orchestrator.services.scheduler import Scheduler
from orchestrator.services.ticker import Ticker

logger = logging.getLogger(__name__)

# A service whose proposal was refused goes on after this, if this node still leads.
RESUME_SECONDS = 0.2


class Service(Protocol):
    async def run(self) -> None:
        """Until cancelled. Raises NotLeader, OutcomeUnknown."""


class Leadership:
    """The services of a leader."""

    def __init__(
        self,
        *,
        submit: Submit,
        machine: CurrentMachine,
        log_time_ms: Callable[[], int],
        monotonic: Callable[[], float],
        on_fatal: Callable[[BaseException], None],
        services: Sequence[Service] = (),
        checkpoint_seconds: float = INTERVAL_SECONDS,
        scripts: Executor | None = None,
    ) -> None:
        self._machine = machine
        self._on_fatal = on_fatal
        self.notifier = Notifier()
        self.liveness = Liveness(submit, machine, monotonic)
        self.dispatcher = Dispatcher(machine, self.liveness.session_seen)
        parts = (self.liveness, self.dispatcher, self.notifier)
        self._performs = {
            kind: [part.performs[kind] for part in parts if kind in part.performs] for kind in get_args(AnyEffect)
        }
        self._ticker = Ticker(submit, machine, log_time_ms)
        self._checkpointer = Checkpointer(submit, checkpoint_seconds)
        self._services = services
        self._scheduler = Scheduler(submit, machine, log_time_ms, monotonic)
        self._conditions = Conditions(submit, machine, scripts)
        self._tasks: list[asyncio.Task[None]] = []
        self._leading = False

    @property
    def leading(self) -> bool:
        """Between `begin` and `end`."""
        return self._leading

    def begin(self, term: int) -> None:
        """Takes up what is owed, as the state says, and starts the services."""
        self._leading = True
        owed = pending.effects_owed(self._machine().state)
        self.liveness.begin(owed)
        logger.info("leads now", extra={"term": term, "owed_effects": len(owed)})
        own: tuple[Service, ...] = (self._ticker, self.liveness, self._checkpointer, self._scheduler, self._conditions)
        for service in (*own, *self._services):
            self._tasks.append(asyncio.create_task(self._run(service), name=type(service).__name__))

    def end(self, reason: str) -> None:
        """Stops the services; worker streams and waiters are sent elsewhere."""
        if self._leading:
            logger.info("leads no longer", extra={"why": reason})
        self._leading = False
        for task in self._tasks:
            task.cancel()
        self._tasks.clear()
        self.dispatcher.end(reason)
        self.notifier.wake_all()

    def entry_applied(self, effects: Sequence[AnyEffect]) -> None:
        """Performs the effects if this node leads; otherwise they are the leader's to perform."""
        if not self._leading:
            return
        for effect in effects:
            for performs in self._performs[type(effect)]:
                performs(effect)
        self._ticker.entry_applied()
        self._checkpointer.entry_applied()
        self._scheduler.entry_applied()
        self._conditions.entry_applied()

    def time_passed(self) -> None:
        """Log time has moved on by more than what has passed on the loop."""
        self._ticker.entry_applied()

    async def _run(self, service: Service) -> None:
        while True:
            try:
                await service.run()
            except (NotLeader, OutcomeUnknown):
                # The end of the term, and `end` follows; or leadership was to be handed over and nobody took it.
                await asyncio.sleep(RESUME_SECONDS)
            except Exception as error:  # noqa: BLE001 - a leader without one of its services must not go on
                self._on_fatal(error)
                return
