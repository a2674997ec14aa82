"""What must hold of everything together, at the end of a run: what clients were told against what the cluster has."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from orchestrator.engine.definitions.model import TaskType
from orchestrator.engine.model import (
    Execution,
    PayloadRow,
    SagaRecord,
    Signal,
    StepOutcome,
    Table,
    TaskAttempt,
    TaskStatus,
)
from tests.simulation.cluster import Member
from tests.simulation.history import FAILED, OK, REFUSED, History, Operation, linearizable, switch_model
from tests.simulation.watcher import Watcher

SWITCH_KINDS = ("get", "pause", "resume", "terminate")


@dataclass
class Held:
    """All rows of an execution."""

    execution: Execution
    tasks: list[TaskAttempt]
    records: dict[int, SagaRecord]
    signals: list[Signal]
    payloads: dict[int, bytes]

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


def problems(
    history: History, watcher: Watcher, executions: list[Held], definitions: list[dict[str, Any]]
) -> Iterator[str]:
    """Everything that is wrong."""
    parallel = {document["name"] for document in definitions if document.get("compensationOrder") == "PARALLEL"}
    yield from _completions(executions, watcher)
    by_id = {held.execution.workflow_id: held for held in executions}
    yield from _starts(history, executions)
    yield from _notes(history, by_id)
    yield from _switches(history, by_id)
    for held in executions:
        yield from _times(held)
        yield from _saga(held, in_order=held.execution.name not in parallel)


def _starts(history: History, executions: list[Held]) -> Iterator[str]:
    """Acknowledged ones are there, failed ones are not, and none is there twice."""
    marks = Counter(held.execution.correlation_id for held in executions)
    ids = {held.execution.correlation_id: held.execution.workflow_id for held in executions}
    for operation in history.operations:
        if operation.kind != "start":
            continue
        count = marks[operation.target]
        if count > 1:
            yield f"{count} executions came of one request: {operation}"
        elif operation.outcome == OK and ids.get(operation.target) != operation.answer:
            yield f"an acknowledged start is lost: {operation}"
        elif operation.outcome in (FAILED, REFUSED) and count:
            yield f"a start that certainly failed took effect: {operation}"


def _completions(executions: list[Held], watcher: Watcher) -> Iterator[str]:
    """A completion that was accepted is there, under its token, and as somebody said it."""
    attempts = {attempt.task_id: (held, attempt) for held in executions for attempt in held.tasks}
    for task_id, token in watcher.accepted.items():
        if task_id not in attempts:
            yield f"an accepted completion is lost with its attempt {task_id}"
            continue
        held, attempt = attempts[task_id]
        said = watcher.said[task_id, token]
        if not attempt.accepted or attempt.fencing_token != token or held.payload(attempt.output) not in said:
            yield f"a completion of {task_id} under {token} was accepted, of {list(said)}, and it is {attempt}"


def _notes(history: History, by_id: dict[str, Held]) -> Iterator[str]:
    """Each signal once if it was acknowledged, at most once if nobody knows, else never."""
    given: dict[str, Counter[str]] = {}
    for workflow_id, held in by_id.items():
        if held.execution.name == "switch":
            given[workflow_id] = Counter(json.loads(held.payload(signal.payload))["n"] for signal in held.signals)
    for operation in history.operations:
        if operation.kind != "note":
            continue
        count = given.get(operation.target, Counter())[operation.detail]
        if count > 1:
            yield f"a signal was taken {count} times: {operation}"
        elif count and not operation.may_have_happened:
            yield f"a signal that was certainly not taken is there: {operation}"
        elif not count and operation.outcome == OK and by_id[operation.target].execution.status != 7:
            yield f"an acknowledged signal is lost: {operation}"


def _switches(history: History, by_id: dict[str, Held]) -> Iterator[str]:
    """Pauses, resumes, terminations and reads are in an order that a single copy allows."""
    by_target: dict[str, list[Operation]] = {}
    for operation in history.operations:
        held = by_id.get(operation.target)
        if held is None or held.execution.name != "switch" or operation.kind not in SWITCH_KINDS:
            continue
        if operation.outcome == OK or (operation.kind != "get" and operation.outcome != FAILED):
            by_target.setdefault(operation.target, []).append(operation)
    for target, operations in by_target.items():
        if not linearizable(operations, "RUNNING", switch_model):
            shown = "; ".join(f"[{one.invoked_at:.3f}..{one.returned_at:.3f}] {one}" for one in operations)
            yield f"{target} is not linearizable: {shown}"


def _times(held: Held) -> Iterator[str]:
    """No timer fired early; every attempt was accepted once at most, and ended after it began."""
    for attempt in held.tasks:
        what = f"{held.execution.workflow_id} {attempt.reference} #{attempt.sequence}"
        if attempt.ended_ms and attempt.ended_ms < attempt.scheduled_ms:
            yield f"{what} ended before it was scheduled"
        if attempt.type == TaskType.WAIT and attempt.status is TaskStatus.COMPLETED and not attempt.signal:
            asked = json.loads(held.payload(attempt.input) or b"{}").get("duration", "")
            if asked == "5 seconds" and attempt.ended_ms - attempt.started_ms < 5_000:
                yield f"{what} waited {attempt.ended_ms - attempt.started_ms} ms instead of 5 s"


def _saga(held: Held, *, in_order: bool) -> Iterator[str]:
    """Nothing was undone twice; first what nobody knows of, then what completed, the last first."""
    execution = held.execution
    undone_first = [(held.records[number].outcome is StepOutcome.COMPLETED, -number) for number in execution.done]
    if in_order and [known for known, _ in undone_first] != sorted(known for known, _ in undone_first):
        yield f"{execution.workflow_id} undid a step before one of unknown outcome: {undone_first}"
    numbers = [number for known, number in undone_first if known]
    if in_order and numbers != sorted(numbers):
        yield f"{execution.workflow_id} did not undo its steps in reverse order: {execution.done}"
    done = Counter(execution.done)
    if any(count > 1 for count in done.values()):
        yield f"{execution.workflow_id} undid a step twice: {execution.done}"
    undone: Counter[int] = Counter(
        attempt.compensates for attempt in held.tasks if attempt.compensates and attempt.status is TaskStatus.COMPLETED
    )
    for number, count in undone.items():
        if count > 1:
            yield f"{execution.workflow_id} completed {count} compensations of record {number}"


def unfinished(operations: list[Operation]) -> list[Any]:
    """Calls that never returned."""
    return [operation for operation in operations if operation.returned_at == float("inf")]
