"""Linearizable reads without a log entry: one heartbeat round, started after the read came, echoed by a majority.

Readers that come while a round is under way share the next one. A read needs the leader's own no-op to be committed:
before that it does not know what its predecessors committed.
"""

from __future__ import annotations

import asyncio

from orchestrator.replication.errors import LostLeadership, NotLeader
from orchestrator.replication.state import Role, SyncObj


class ReadBarrier:
    def __init__(self, raft: SyncObj) -> None:
        self._raft = raft
        self.round = 0
        self._echoed: dict[str, int] = {}
        # The commit index when the round under way began; None when none is.
        self._read_index: int | None = None
        self._sharing: list[asyncio.Future[int]] = []
        self._waiting: list[asyncio.Future[int]] = []

    async def wait(self) -> int:
        if self._raft.role is not Role.LEADER:
            raise NotLeader(self._raft.leader)
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        self._raft.wake()
        return await future

    def begin(self) -> bool:
        """Starts a round when readers wait for one; the caller then sends heartbeats to all."""
        raft = self._raft
        if not self._waiting or self._read_index is not None or not self.ready():
            return False
        self.round += 1
        self._read_index = raft.commit_index
        self._sharing, self._waiting = self._waiting, []
        self._finish_if_echoed()
        return self._read_index is not None

    def ready(self) -> bool:
        """The no-op of this leader's own term is committed."""
        raft = self._raft
        return raft.role is Role.LEADER and raft.no_op_index is not None and raft.commit_index >= raft.no_op_index

    def echoed(self, name: str, round_: int) -> None:
        """A follower heard the heartbeat of `round_`, in this very term."""
        if round_ > self._echoed.get(name, 0):
            self._echoed[name] = round_
            self._finish_if_echoed()

    def _finish_if_echoed(self) -> None:
        if self._read_index is None:
            return
        count = 1 + sum(1 for name in self._raft.other_voters if self._echoed.get(name, -1) >= self.round)
        if count >= self._raft.majority:
            for future in self._sharing:
                if not future.done():
                    future.set_result(self._read_index)
            self._sharing = []
            self._read_index = None
            if self._waiting:
                self._raft.wake()

    def peers_changed(self, renewed: set[str]) -> None:
        """Echoes of who had the name before mean nothing; those of the others may be a majority now."""
        for name in renewed:
            self._echoed.pop(name, None)
        self._finish_if_echoed()

    def term_began(self) -> None:
        """Echoes of an earlier term mean nothing in this one."""
        self._echoed.clear()
        self.round += 1

    def fail(self) -> None:
        """Leadership is gone."""
        waiting = self._sharing + self._waiting
        self._sharing, self._waiting, self._read_index = [], [], None
        for future in waiting:
            if not future.done():
                future.set_exception(
                    LostLeadership("leadership was lost before a quorum confirmed the read; ask the new leader")
                )
