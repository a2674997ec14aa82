"""A node's connection to whoever leads: what it needs to know of that, it knows itself."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from orchestrator_client.channels import ChannelFactory
from orchestrator_client.connection import POLL_S, Connection, Version

LeaderKnown = Callable[[], tuple[str, int]]
"""The address of the leader's gRPC service, empty if nobody is known to lead, and the term."""


class NodeConnection(Connection):
    """Asks the node that it is a part of, and not all the others, who would be busy with that while nobody leads."""

    def __init__(
        self,
        address: str,
        leader: LeaderKnown,
        *,
        namespace: str,
        open_channel: ChannelFactory,
        dice: random.Random,
        version: Version | None = None,
    ) -> None:
        super().__init__(
            [address],
            namespace=namespace,
            open_channel=open_channel,
            deadline_s=0,
            rng=dice,
            version=version,
            renews_token=True,  # what a node shows is made for each call
        )
        self._address = address
        self._leader = leader

    async def locate(self, within_s: float) -> bool:
        """True once the node knows of a leader that has not just been found silent, False if not in time."""
        until = self.now() + within_s
        while True:
            address, term = self._leader()
            if self.finder.named(address, term, self._address, self.now()):
                return True
            left_s = until - self.now()
            if left_s <= 0:
                return False
            await asyncio.sleep(min(POLL_S, left_s))
