"""How a node stands: what it tells its peers of itself, what follows from what they tell, whether it is in service."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from orchestrator.config import Config
from orchestrator.draining import Service
from orchestrator.replication.applier import Applier
from orchestrator.replication.clock import LogClock
from orchestrator.replication.disk_room import DiskRoom
from orchestrator.replication.log import ReplicatedLog, Role
from orchestrator.replication.skew import SkewWatch
from orchestrator.services.checkpoints import ContentCheck
from orchestrator.services.gauges import Gauges

GOSSIP_SECONDS = 0.2
# A node that is further behind than this is not ready to serve.
CAUGHT_UP_ENTRIES = 1_000


class NodeStanding:
    """`leading`: this node leads, and has applied everything before its term."""

    def __init__(
        self,
        config: Config,
        *,
        log: ReplicatedLog,
        log_clock: LogClock,
        skew: SkewWatch,
        applier: Applier,
        service: Service,
        content: ContentCheck,
        disk_room: DiskRoom,
        gauges: Gauges,
        leading: Callable[[], bool],
    ) -> None:
        self._config = config
        self._log = log
        self._log_clock = log_clock
        self._skew = skew
        self._applier = applier
        self._service = service
        self._content = content
        self._disk_room = disk_room
        self._gauges = gauges
        self._leading = leading

    def say(self) -> None:
        """Something has changed that the peers are to hear soon."""
        self._log.set_gossip(
            {
                "grpc_address": str(self._config.grpc_address),
                "role": self._log.role.value,
                "term": self._log.term,
                "commit_index": self._log.commit_index,
                "applied_index": self._applier.applied_index,
                "log_time_ms": self._log_clock.peek_ms() if self._leading() else 0,
                "stands_back": int(self._skew.is_off or self._service.is_drained),
                **self._content.facts(),
                **self._service.facts,
                **self._disk_room.facts,
            }
        )

    @property
    def is_ready(self) -> bool:
        if self._log.leader is None or self._service.is_drained:
            return False
        if self._log.role is Role.LEADER:
            return self._leading()
        return self._log.commit_index - self._applier.applied_index < CAUGHT_UP_ENTRIES

    async def tell(self, set_healthy: Callable[[bool], Awaitable[None]]) -> None:
        """Tells the peers how this node is, and compares checkpoints, until it is cancelled."""
        while True:
            self._disk_room.look(self._log.other_voters(), self._log.peer_gossip())
            self.say()
            self._gauges.led_by(self._log.leader)
            self._content.compare(self._log.peer_gossip())
            await set_healthy(self.is_ready)
            await asyncio.sleep(GOSSIP_SECONDS)

    async def keep_time(self) -> None:
        """Follows the leader's log time while nothing is logged; hands over when this node's clock is off."""
        while True:
            await asyncio.sleep(GOSSIP_SECONDS)
            leader = self._log.leader
            told = self._log.peer_gossip().get(leader or "", {}).get("log_time_ms")
            if leader != self._config.node and isinstance(told, int) and told:
                self._log_clock.observe(told, live=True)
            await self._skew.look(leading=self._leading())
            self._log.stand_back("clock", self._skew.is_off)
            await self._service.look()
