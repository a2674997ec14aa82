"""A shop whose services know each other by events alone, as plain functions: what each hears, and what it says then.

What a service has done stands in its book once for each order, whoever has asked for it, and however often.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

PLACED, PAID, SENT = "order.placed", "payment.taken", "parcel.sent"
EVENTS = (PLACED, PAID, SENT)

# Who leads an order stands in each of its events: nobody but the services, or a workflow (shop_flows.py) that only
# waits, that takes the payment itself, or that sends the parcel, too.
CHOREOGRAPHED, WATCHED, PAYING, WHOLE = "choreographed", "watched", "paying", "whole"


@dataclass(frozen=True)
class Event:
    name: str
    order: str
    by: str
    flow: str

    @property
    def id(self) -> str:
        """The same however often it is said."""
        return f"{self.name}/{self.order}"


@dataclass
class Books:
    """(what was done, order), in the order in which it was done."""

    entries: list[tuple[str, str]] = field(default_factory=list)

    def once(self, what: str, order: str) -> None:
        if (what, order) not in self.entries:
            self.entries.append((what, order))


def payment(books: Books, heard: Event) -> Event | None:
    if heard.flow in (PAYING, WHOLE):  # the one line that a service gets for an orchestrator that calls it
        return None
    books.once("charge", heard.order)
    return Event(PAID, heard.order, "payment", heard.flow)


def shipping(books: Books, heard: Event) -> Event | None:
    if heard.flow == WHOLE:
        return None
    books.once("ship", heard.order)
    return Event(SENT, heard.order, "shipping", heard.flow)


def mail(books: Books, heard: Event) -> Event | None:
    """Goes on as it was, whoever leads the order."""
    books.once("mail", heard.order)
    return None


Service = Callable[[Books, Event], Event | None]
SERVICES: dict[str, tuple[str, Service]] = {
    "payment": (PLACED, payment),
    "shipping": (PAID, shipping),
    "mail": (SENT, mail),
}
"""By name: the event that it hears, and what it does."""
