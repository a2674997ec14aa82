"""The rows of executions, as a node's database has them."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.engine.model import Execution, PayloadRow, SagaRecord, Signal, Table, TaskAttempt
from tests.simulation.cluster import Member
from tests.simulation.people import place


@dataclass
class Held:
    """All rows of an execution."""

    execution: Execution
    tasks: list[TaskAttempt]
    records: dict[int, SagaRecord]
    signals: list[Signal]
    payloads: dict[int, bytes]

    @property
    def place(self) -> str:
        return place(self.execution.namespace, self.execution.workflow_id)

    def payload(self, given: bytes | int) -> bytes:
        return self.payloads[given] if isinstance(given, int) else given


async def collect(member: Member) -> list[Held]:
    """Everything in the member's database."""
    node = member.node
    assert node is not None
    keys = await node._database.search(
        lambda connection: list(connection.execute("SELECT namespace, workflow_id FROM execution ORDER BY id"))
    )
    found = []
    for key in keys:
        rows = await node._database.load_execution(*key)
        held = Held(rows[0][2], [], {}, [], {})
        for table, row_key, row in rows[1:]:
            if isinstance(row, TaskAttempt):
                held.tasks.append(row)
            elif isinstance(row, SagaRecord):
                held.records[row.number] = row
            elif isinstance(row, Signal):
                held.signals.append(row)
            elif isinstance(row, PayloadRow) and table is Table.PAYLOAD:
                held.payloads[int(row_key[2])] = row.data
        found.append(held)
    return found
