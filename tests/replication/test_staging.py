"""What is applied reaches the store when somebody asks for it, also in the middle of the next entry."""

from __future__ import annotations

import asyncio
from typing import Any

from orchestrator.codec.entries import EntryHeader, encode_entry
from orchestrator.engine.commands import PauseWorkflow, RegisterTasks
from orchestrator.engine.machine import Machine
from orchestrator.engine.state import State
from orchestrator.replication.applier import Applier
from orchestrator.replication.clock import LogClock
from orchestrator.replication.log import Entry, EntryKind

START_MS = 1_750_000_000_000


class Surroundings:
    """The log of two entries, of which the second waits for an execution that is not in memory; and its store."""

    def __init__(self) -> None:
        commands = (RegisterTasks("default", (b'{"name": "charge"}',)), PauseWorkflow("default", "cold"))
        self.entries = [
            Entry(index, 1, EntryKind.COMMANDS, encode_entry(EntryHeader(1, 0, START_MS, "a"), [(None, command)]))
            for index, command in enumerate(commands, start=1)
        ]
        self.loading, self.loaded = asyncio.Event(), asyncio.Event()
        self.staged: list[int] = []
        self.applier = Applier(
            log=self, machine=Machine(State("c", 0)), store=self, clock=self, log_clock=LogClock(self, dict),
            observer=self, applied_index=0, applied_term=0, replayed_until=0, hot_executions_max=100,
            hot_bytes_max=1 << 20,
        )

    def monotonic(self) -> float:
        return 0.0

    def wall_ms(self) -> int:
        return START_MS

    async def committed(self, after: int) -> list[Entry]:
        if after >= len(self.entries):
            await asyncio.Event().wait()
        return self.entries[after:]

    def may_have(self, execution: tuple[str, str]) -> bool:
        return True

    async def load_execution(self, namespace: str, workflow_id: str) -> list[Any]:
        self.loading.set()
        await self.loaded.wait()
        return []

    has_room = True

    async def wait_room(self) -> None:
        return

    def stage(self, changes: Any, index: int, term: int, chain: bytes, *, checkpoint: bool) -> None:
        self.staged.append(index)

    def entry_applied(self, index: int, term: int, results: Any, effects: Any) -> None:
        return

    def snapshot_installed(self) -> Machine:
        raise AssertionError("there is none")


async def test_what_was_applied_is_with_the_store_although_the_next_entry_is_under_way() -> None:
    around = Surroundings()
    running = asyncio.create_task(around.applier.run())
    await around.loading.wait()
    assert (around.applier.applied_index, around.staged) == (1, [])
    # A reader that has seen entry 1 acknowledged asks for it now.
    staging = asyncio.create_task(around.applier.stage_now())
    await asyncio.sleep(0)
    assert not staging.done()
    around.loaded.set()
    await asyncio.wait_for(staging, 10)
    assert around.staged == [2]
    await asyncio.wait_for(around.applier.stage_now(), 10)
    assert around.staged == [2]
    running.cancel()
