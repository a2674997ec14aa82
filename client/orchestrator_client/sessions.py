"""The client sessions of one connection: one, or a few when very many requests are under way at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from orchestrator_client.requests import RequestLedger, Ticket
from orchestrator_client.retry import CallRetry, TryAgain
from orchestrator_client.status import Failure, Kind


class Sessions:
    """Opens them as they are needed."""

    def __init__(self, open_session: Callable[[float], Awaitable[RequestLedger]], now: Callable[[], float]) -> None:
        self._open_session = open_session
        self._now = now
        self._ledgers: list[RequestLedger] = []
        self._opening = asyncio.Lock()

    async def ticket(self, deadline: float) -> Ticket:
        """A place for a request. Raises what opening a session until the deadline does."""
        ledger = self._with_room()
        if ledger is None:
            async with self._opening:  # the first of many requests at once opens the session for all
                ledger = self._with_room()
                if ledger is None:
                    ledger = await self._open_session(deadline)
                    self._ledgers.append(ledger)
        return Ticket(ledger, self._now())

    def kept(self, ticket: Ticket | None, failure: Failure, decision: TryAgain, retry: CallRetry) -> Ticket | None:
        """The ticket, if the next attempt is to be recognised as a repetition of the one that has failed."""
        if ticket is None:
            return None
        if decision.new_session:
            self._ledgers = [ledger for ledger in self._ledgers if ledger is not ticket.ledger]
        elif failure.kind is not Kind.OVERLOADED or retry.is_in_doubt:
            return ticket
        # It certainly had no effect, and may wait for long: no number is held up for it meanwhile.
        ticket.close()
        return None

    def rested(self, seconds: float) -> None:
        """So much time has passed without a request, and `now` does not show it: virtual time was passed over."""
        for ledger in self._ledgers:
            ledger.rested(seconds)

    def _with_room(self) -> RequestLedger | None:
        now = self._now()
        self._ledgers = [ledger for ledger in self._ledgers if not ledger.is_stale(now)]
        return next((ledger for ledger in self._ledgers if ledger.has_room()), None)
