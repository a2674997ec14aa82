"""Kills the leader with SIGKILL while orders are in flight, and starts the node again after some seconds."""

from __future__ import annotations

import asyncio
import random
from typing import Protocol

from clock import Stopwatch
from scoreboard import Scoreboard

# A kill with less in flight would prove little.
IN_FLIGHT_MIN = 10
DOWN_S = (2.0, 4.0)
POLL_S = 0.02


class Cluster(Protocol):
    """What a killer needs of a cluster."""

    async def wait_leader(self) -> str: ...

    async def wait_ready(self) -> str: ...

    async def kill_node(self, name: str) -> None: ...

    def start_node(self, name: str) -> None: ...


class Killer:
    """The seed decides after how many acknowledgements each kill comes, and how long the node stays down."""

    def __init__(self, cluster: Cluster, kills: int, board: Scoreboard, stopwatch: Stopwatch) -> None:
        self._cluster = cluster
        self._board = board
        self._stopwatch = stopwatch
        self._chance = random.Random(board.seed)
        # One in each of so many equal parts of the run, but not in the first and last quarter of its part.
        self._moments = [
            round(board.orders * (part + self._chance.uniform(0.25, 0.75)) / kills) for part in range(kills)
        ]

    async def kill_now_and_then(self) -> None:
        """Returns when all kills are done and the nodes are back, or too few orders are left for another."""
        for moment in self._moments:
            down_s = self._chance.uniform(*DOWN_S)
            leader = await self._victim(moment)
            if leader is None:
                return
            self._board.killed(self._stopwatch.s, leader)
            await self._cluster.kill_node(leader)
            await asyncio.sleep(down_s)
            self._cluster.start_node(leader)
            self._board.happened(self._stopwatch.s, f"node {leader} is started again")
            await self._cluster.wait_ready()

    async def _victim(self, moment: int) -> str | None:
        """The leader, once enough orders are acknowledged and enough are in flight; None if that can't be any more."""
        board = self._board
        while True:
            if board.acknowledged_count >= moment and board.in_flight >= IN_FLIGHT_MIN:
                leader = await self._cluster.wait_leader()
                if board.in_flight >= IN_FLIGHT_MIN:
                    return leader
            elif board.acknowledged_count == board.orders:
                return None
            await asyncio.sleep(POLL_S)
