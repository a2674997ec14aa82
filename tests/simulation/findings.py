"""What must hold of everything together, at the end of a run: what clients were told against what the cluster has."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from orchestrator.engine.model import StepOutcome, TaskStatus, WorkflowStatus
from tests.simulation import shapes, timing
from tests.simulation.held import Held
from tests.simulation.history import (
    FAILED,
    OK,
    REFUSED,
    History,
    Operation,
    linearizable,
    register_model,
    switch_model,
)
from tests.simulation.people import place
from tests.simulation.watcher import Watcher

if TYPE_CHECKING:
    from tests.simulation.workload import Work

SWITCH_KINDS = ("get", "pause", "resume", "terminate")


def problems(work: Work, watcher: Watcher, executions: list[Held]) -> Iterator[str]:
    """Everything that is wrong."""
    documents = {
        place(space.namespace, document["name"]): document for space in work.spaces for document in space.definitions
    }
    history = work.history
    by_place = {held.place: held for held in executions}
    yield from _completions(executions, watcher, work, documents)
    yield from _starts(history, executions)
    yield from _notes(history, by_place)
    yield from _switches(history, by_place)
    yield from _registers(history)
    for held in executions:
        document = documents[place(held.execution.namespace, held.execution.name)]
        yield from timing.problems(held, document, work.operator.recovered_ms, history)
        yield from _saga(held, in_order=document.get("compensationOrder") != "PARALLEL")
    yield from shapes.problems(executions, documents)


def _starts(history: History, executions: list[Held]) -> Iterator[str]:
    """Acknowledged ones are there, failed ones are not, and none is there twice."""
    # What an execution has started itself may have its correlation id, and another name.
    marks = Counter((held.execution.correlation_id, held.execution.name) for held in executions)
    places = {(held.execution.correlation_id, held.execution.name): held.place for held in executions}
    for operation in history.operations:
        if operation.kind != "start":
            continue
        mark = (operation.target, operation.detail)
        count = marks[mark]
        if count > 1:
            yield f"{count} executions came of one request: {operation}"
        elif operation.outcome == OK and places.get(mark) != operation.answer:
            yield f"an acknowledged start is lost: {operation}"
        elif operation.outcome in (FAILED, REFUSED) and count:
            yield f"a start that certainly failed took effect: {operation}"


def _completions(
    executions: list[Held], watcher: Watcher, work: Work, documents: dict[str, dict[str, Any]]
) -> Iterator[str]:
    """A completion that was accepted is there, under its token, and as somebody said it."""
    attempts = {attempt.task_id: (held, attempt) for held in executions for attempt in held.tasks}
    names = {held.place: place(held.execution.namespace, held.execution.name) for held in executions}
    forgetful = {name for name, document in documents.items() if "keepLastN" in json.dumps(document)}
    for task_id, token in watcher.accepted.items():
        if task_id not in attempts:
            owner = place(*work.handed_out[task_id][:2])
            if work.history.may_have_lost_tasks(owner) or names.get(owner) in forgetful:
                continue
            yield f"an accepted completion is lost with its attempt {task_id}"
            continue
        held, attempt = attempts[task_id]
        said = watcher.said[task_id, token]
        if not attempt.accepted or attempt.fencing_token != token or held.payload(attempt.output) not in said:
            yield f"a completion of {task_id} under {token} was accepted, of {list(said)}, and it is {attempt}"


def _notes(history: History, by_place: dict[str, Held]) -> Iterator[str]:
    """Each signal once if it was acknowledged, at most once if nobody knows, else never."""
    given: dict[str, Counter[str]] = {}
    for target, held in by_place.items():
        if held.execution.name == "switch":
            given[target] = Counter(json.loads(held.payload(signal.payload))["n"] for signal in held.signals)
    for operation in history.operations:
        if operation.kind != "note":
            continue
        count = given.get(operation.target, Counter())[operation.detail]
        if count > 1:
            yield f"a signal was taken {count} times: {operation}"
        elif count and not operation.may_have_happened:
            yield f"a signal that was certainly not taken is there: {operation}"
        elif not count and operation.outcome == OK and not _has_ended(by_place.get(operation.target)):
            yield f"an acknowledged signal is lost: {operation}"


def _has_ended(held: Held | None) -> bool:
    """Then its signals are gone with it."""
    return held is not None and held.execution.status >= WorkflowStatus.COMPLETED


def _switches(history: History, by_place: dict[str, Held]) -> Iterator[str]:
    """Pauses, resumes, terminations and reads are in an order that a single copy allows."""
    by_target: dict[str, list[Operation]] = {}
    for operation in history.operations:
        held = by_place.get(operation.target)
        if held is None or held.execution.name != "switch" or operation.kind not in SWITCH_KINDS:
            continue
        if operation.outcome == OK or (operation.kind != "get" and operation.outcome != FAILED):
            by_target.setdefault(operation.target, []).append(operation)
    for target, operations in by_target.items():
        if not linearizable(operations, "RUNNING", switch_model):
            yield f"{target} is not linearizable: {_shown(operations)}"


def _registers(history: History) -> Iterator[str]:
    """So are writes and reads of each namespace's register, which is a row of the log itself and of no workflow."""
    by_target: dict[str, list[Operation]] = {}
    read = {operation.answer for operation in history.operations if operation.kind == "read"}
    for operation in history.operations:
        # A write of which nobody knows matters if somebody has read it.
        if (operation.kind == "write" and operation.detail in read) or (
            operation.kind in ("write", "read") and operation.outcome == OK
        ):
            by_target.setdefault(operation.target, []).append(operation)
    for target, operations in by_target.items():
        failed = [one for one in operations if one.outcome in (FAILED, REFUSED)]
        for operation in failed:
            yield f"a write that certainly failed was read: {operation}"
        if not failed and not linearizable(operations, "", register_model):
            yield f"{target} is not linearizable: {_shown(operations)}"


def _shown(operations: list[Operation]) -> str:
    return "; ".join(f"[{one.invoked_at:.3f}..{one.returned_at:.3f}] {one}" for one in operations)


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
