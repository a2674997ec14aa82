"""The database and its flusher, as whoever applies the log sees them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.engine.machine import Machine
from orchestrator.engine.model import ExecutionKey, Row, RowKey, Table
from orchestrator.engine.state import State
from orchestrator.storage.database import Database
from orchestrator.storage.flusher import Flusher


class Store:
    """Reads executions, and stages what has changed with the configuration as of that index."""

    def __init__(self, database: Database, flusher: Flusher, configuration: Callable[[int], bytes]) -> None:
        self._database = database
        self._flusher = flusher
        self._configuration = configuration

    def may_have(self, execution: ExecutionKey) -> bool:
        return self._database.names.may_have(execution)

    async def load_execution(self, namespace: str, workflow_id: str) -> Sequence[tuple[Table, RowKey, Row]]:
        return await self._database.load_execution(namespace, workflow_id)

    def stage(self, changes: Sequence[Any], index: int, term: int, chain: bytes, *, checkpoint: bool) -> None:
        self._flusher.stage(changes, index, term, self._configuration(index), chain, checkpoint=checkpoint)

    @property
    def has_room(self) -> bool:
        return self._flusher.has_room

    async def wait_room(self) -> None:
        await self._flusher.wait_room()


def restored_machine(database: Database) -> Machine:
    """A machine over what the database holds. Blocks: it reads all resident rows."""
    state = State(*database.identity)
    for table, key, row in database.load_resident():
        state.restore(table, key, row)
    state.restore_done()
    machine = Machine(state)
    machine.chain = database.applied().chain_hash or machine.chain
    return machine
