"""Stand-ins for the services of a shop: each does what it is asked once for each key, as the real ones do."""

from __future__ import annotations


class Declined(Exception):
    """The bank says no."""


class Warehouse:
    def __init__(self) -> None:
        self.taken: dict[str, tuple[str, int]] = {}

    async def take(self, sku: str, quantity: int, *, key: str) -> None:
        self.taken[key] = (sku, quantity)

    async def give_back(self, *, taken_key: str) -> None:
        """Also what was never taken."""
        self.taken.pop(taken_key, None)


class Psp:
    """A payment service."""

    def __init__(self) -> None:
        self.charged: dict[str, int] = {}

    async def charge(self, cents: int, *, key: str) -> str:
        if cents > 100_000:
            raise Declined("over the limit of the card")
        self.charged[key] = cents
        return f"receipt {key}"

    async def refund(self, *, charge_key: str) -> None:
        """Also what was never charged."""
        self.charged.pop(charge_key, None)


class Carrier:
    def __init__(self) -> None:
        self.sent: dict[str, str] = {}

    async def send(self, order_id: str, receipt: str, *, key: str) -> str:
        return self.sent.setdefault(key, f"parcel of {order_id}")
