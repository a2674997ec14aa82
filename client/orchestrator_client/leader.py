"""Which node to call: what is known of the leader, learned from answers, refusals and silence. No I/O."""

from __future__ import annotations

from collections.abc import Iterable

SUSPECT_S = 2.0


class LeaderFinder:
    """Holds one opinion, `current`, for all calls of a client, and revises it by what calls report.

    An address that did not answer is suspect for a while: that others still name it does not count, unless they
    name it for a later term. So followers which have not noticed a leader's death can't send clients back to it, and
    a leader whose advertised address can't be reached from here is found through the endpoints that were given.
    """

    def __init__(self, endpoints: Iterable[str]) -> None:
        self._endpoints = list(dict.fromkeys(endpoints))
        if not self._endpoints:
            raise ValueError("a client needs at least one endpoint, such as 'localhost:7400'")
        self.current = self._endpoints[0]
        # The highest term that anyone has told.
        self.term = 0
        # Addresses that were named but not given; they are tried too.
        self._learned: list[str] = []
        # When an address was last found silent, and the highest term known then.
        self._suspects: dict[str, tuple[float, int]] = {}
        # Advertised addresses of nodes that are reached by another one, e.g. through a forwarded port.
        self._aliases: dict[str, str] = {}

    @property
    def addresses(self) -> list[str]:
        """All addresses worth asking."""
        return [*self._endpoints, *self._learned]

    def named(self, address: str, term: int, by: str, now: float) -> bool:
        """The node `by` names the leader. True if calls should now go there."""
        if not address or term < self.term:
            return False
        address = self._aliases.get(address, address)
        if address != by and self._is_suspect(address, term, now):
            return False
        self.term = term
        if address == by:
            self._suspects.pop(address, None)
        self._move(address)
        return True

    def confirmed(self, address: str) -> None:
        """A call that only the leader executes was executed there."""
        if self._suspects:
            self._suspects.pop(address, None)

    def superseded(self, address: str, leader: str, term: int, by: str, now: float) -> bool:
        """While `address` is silent, `by` names the leader. True if that is another one, and news."""
        named = self._aliases.get(leader, leader)
        if not named or term < self.term:
            return False
        # An address that was not given may be the silent node's other name, unless its term is another.
        if named == address or not (term > self.term > 0 or named in self._endpoints):
            self.term = term
            return False
        return self.named(leader, term, by, now)

    def same_node(self, advertised: str, reached_as: str, term: int = 0) -> None:
        """The node that leads, reached under one address, calls itself by another."""
        self.term = max(self.term, term)
        if advertised and advertised != reached_as and advertised not in self._endpoints:
            self._aliases[advertised] = reached_as

    def refused(self, address: str, hint: str, now: float) -> None:
        """The node does not lead; it may name who does: itself, if it has been elected and is not ready yet."""
        if hint == address:
            return
        if hint and self._aliases.get(hint) == address:
            del self._aliases[hint]
        hint = self._aliases.get(hint, hint)
        if hint and hint != address and not self._is_suspect(hint, self.term, now):
            self._move(hint)
        elif self.current == address:
            self._rotate(now)

    def failed(self, address: str, now: float) -> None:
        """The node did not answer."""
        self._suspects[address] = (now, self.term)
        if self.current == address:
            self._rotate(now)

    def _is_suspect(self, address: str, term: int, now: float) -> bool:
        since, known_term = self._suspects.get(address, (float("-inf"), 0))
        # If no term was known, any could be the one in which it led.
        return now - since < SUSPECT_S and (known_term == 0 or term <= known_term)

    def _rotate(self, now: float) -> None:
        addresses = self.addresses
        start = addresses.index(self.current) if self.current in addresses else -1
        ring = [addresses[(start + step) % len(addresses)] for step in range(1, len(addresses) + 1)]
        trusted = [address for address in ring if not self._is_suspect(address, self.term, now)]
        self.current = trusted[0] if trusted else ring[0]

    def _move(self, address: str) -> None:
        if address not in self._endpoints and address not in self._learned:
            self._learned.append(address)
        self.current = address
