"""Whether this node is in service: one that is drained votes and acknowledges, and leaves everything else to others.

That it is drained stands in a file of its data directory, so it lasts over restarts of the node, which are what a node
is drained for; a new data directory begins in service. The other nodes hear of it in the gossip.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path

from orchestrator.replication import in_service
from orchestrator.replication.errors import NoSuccessor
from orchestrator.replication.files import Files, replace_file
from orchestrator.replication.frames import GossipValue
from orchestrator.replication.log import ReplicatedLog, Role
from orchestrator.system_work import SystemWork

logger = logging.getLogger(__name__)

FILE_NAME = "drained"
# Whoever would take over may be just short of the leader's log, or about to be connected.
TAKE_OVER_SECONDS = 3.0
AGAIN_SECONDS = 0.3
# Between two attempts of a drained leader to give the lead away.
PAUSE_SECONDS = 5.0


class Service:
    """Made before the log starts; `start` once it has. `drain_seconds` is what system tasks have to end.

    `off_loop` runs what blocks.
    """

    def __init__(
        self, files: Files, data_dir: Path, log: ReplicatedLog, system: SystemWork, *, drain_seconds: float,
        off_loop: Callable[[Callable[[], None]], Awaitable[None]],
    ) -> None:
        self._files = files
        self._path = data_dir / FILE_NAME
        self._log = log
        self._system = system
        self._drain_seconds = drain_seconds
        self._off_loop = off_loop
        self._serving = False
        self._changing = asyncio.Lock()
        self._look_at = float("-inf")
        self.is_drained = files.exists(self._path)

    @property
    def facts(self) -> dict[str, GossipValue]:
        """For the gossip."""
        return in_service.facts(self.is_drained)

    def start(self) -> None:
        """The log has started."""
        self._log.stand_back("drained", self.is_drained)

    def begin_work(self) -> None:
        """The node's gRPC service is open."""
        self._serving = True
        if not self.is_drained:
            self._system.start()

    async def drain(self) -> None:
        """Returns once this node does not lead, and has ended or handed back what it executed. Raises NoSuccessor."""
        async with self._changing:
            await self._give_lead_away()
            if not self.is_drained:
                await self._off_loop(lambda: replace_file(self._files, self._path, b""))
                self.is_drained = True
                logger.info("is drained")
            self._log.stand_back("drained", True)
            await self._system.leave(self._drain_seconds)

    async def undrain(self) -> None:
        """In service again; it leads when it is elected, or handed the lead."""
        async with self._changing:
            if self.is_drained:
                await self._off_loop(self._forget)
                self.is_drained = False
                logger.info("is in service again")
            self._log.stand_back("drained", False)
            if self._serving:
                self._system.start()

    async def look(self) -> None:
        """A few times a second: who leads although it is drained, as nobody else could, gives it away when one can."""
        now = asyncio.get_running_loop().time()
        if self.is_drained and self._log.role is Role.LEADER and not self._changing.locked() and now >= self._look_at:
            await self._log.transfer_leadership(self._others())
            # Nothing is appended during an attempt, and one that fails may fail again.
            self._look_at = asyncio.get_running_loop().time() + PAUSE_SECONDS

    async def stop(self, *, failed: bool) -> None:
        """The lead goes first, so that clients wait for nothing else; then what the node executes."""
        self._log.stand_back("stopping", True)
        if failed:
            await self._system.stop(None)
            return
        await self._hand_over()
        await self._system.stop(self._drain_seconds)
        # The others may have been stopped meanwhile, and have handed it back.
        await self._hand_over()

    def _forget(self) -> None:
        self._files.remove(self._path)
        self._files.sync_directory(self._path.parent)

    async def _hand_over(self) -> None:
        """And stays until another one leads, for its vote may be needed for that."""
        if self._log.role is not Role.LEADER or not await self._log.transfer_leadership():
            return
        await self._log.wait_leader(TAKE_OVER_SECONDS)

    async def _give_lead_away(self) -> None:
        deadline = asyncio.get_running_loop().time() + TAKE_OVER_SECONDS
        while self._log.role is Role.LEADER and not await self._log.transfer_leadership(self._others()):
            if asyncio.get_running_loop().time() > deadline:
                raise NoSuccessor
            await asyncio.sleep(AGAIN_SECONDS)

    def _others(self) -> set[str]:
        return in_service.in_service((peer.name for peer in self._log.status().peers), self._log.peer_gossip())
