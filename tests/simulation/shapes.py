"""What loops, dynamic forks, sub-workflows and events must have come to, from the documents alone."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

from orchestrator.engine.model import TaskAttempt, TaskStatus, WorkflowStatus
from tests.simulation.held import Held
from tests.simulation.kinds import TOLD

DONE = (TaskStatus.COMPLETED, TaskStatus.COMPLETED_WITH_ERRORS)
Element = dict[str, Any]


def elements_of(tasks: list[Element]) -> Iterator[Element]:
    """All of them, also those that a dynamic fork is given."""
    for element in tasks:
        yield element
        given = element.get("inputParameters", {}).get("tasks", [])
        inside = [*element.get("forkTasks", []), *element.get("decisionCases", {}).values()]
        for branch in [*inside, element.get("defaultCase", []), element.get("loopOver", []), given]:
            yield from elements_of(branch)


def problems(executions: list[Held], documents: dict[str, Element]) -> Iterator[str]:
    """`documents`: by the place of their names."""
    by_place = {held.place: held for held in executions}
    for held in executions:
        document = documents[f"{held.execution.namespace}/{held.execution.name}"]
        by_reference = {one["taskReferenceName"]: one for one in elements_of(document["tasks"])}
        newest = newest_of(held)
        for attempt in newest.values():
            element = by_reference.get(_base(attempt))
            if element is not None and attempt.status in DONE:
                for problem in _of_one(held, element, attempt, newest, by_place):
                    yield f"{held.place} {attempt.reference} #{attempt.sequence}: {problem}"
    yield from _children(executions, documents)
    yield from _events(executions)


def newest_of(held: Held) -> dict[str, TaskAttempt]:
    return {one.reference: one for one in sorted(held.tasks, key=lambda one: one.sequence) if not one.compensates}


def _base(attempt: TaskAttempt) -> str:
    suffix = "".join(f"__{number}" for number in attempt.iterations)
    return attempt.reference.removesuffix(suffix)


def _of_one(
    held: Held, element: Element, attempt: TaskAttempt, newest: dict[str, TaskAttempt], by_place: dict[str, Held]
) -> Iterator[str]:
    suffix = attempt.reference.removeprefix(element["taskReferenceName"])
    match element["type"]:
        case "DO_WHILE" if attempt.status is TaskStatus.COMPLETED:
            yield from _loop(held, element, attempt, newest, suffix)
        case "FORK_JOIN_DYNAMIC" if held.execution.status is WorkflowStatus.COMPLETED and not _cut_short(newest):
            yield from _fork(element, newest, suffix)
        case "SUB_WORKFLOW" if attempt.status is TaskStatus.COMPLETED:
            child = by_place.get(f"{held.execution.namespace}/{attempt.child}")
            if child is None or child.execution.status not in (WorkflowStatus.COMPLETED, WorkflowStatus.TERMINATED):
                yield f"it has completed, and its child is {child and child.execution}"


def _loop(
    held: Held, element: Element, attempt: TaskAttempt, newest: dict[str, TaskAttempt], suffix: str
) -> Iterator[str]:
    items = element["items"]
    if isinstance(items, str):
        # Of the input: what starts children gives them none.
        items = json.loads(held.payload(held.execution.input)).get("list", [])
    if attempt.position != len(items):
        yield f"it has ended after {attempt.position} of {len(items)} iterations"
    kept = int(element.get("inputParameters", {}).get("keepLastN", 0)) or len(items)
    for number in range(max(1, len(items) - kept + 1), len(items) + 1):
        first = newest.get(f"{element['loopOver'][0]['taskReferenceName']}{suffix}__{number}")
        if first is None or first.status not in (*DONE, *TERMINAL):
            yield f"iteration {number} begins with {first}"


TERMINAL = tuple(status for status in TaskStatus if status not in (TaskStatus.SCHEDULED, TaskStatus.IN_PROGRESS))


def _fork(element: Element, newest: dict[str, TaskAttempt], suffix: str) -> Iterator[str]:
    """Each of its tasks was made and has ended, and none beside them."""
    given = element["inputParameters"]
    if "forkTaskName" in given:
        task = given["forkTaskName"]
        expected = [f"_{task}_{number}" for number in range(len(given["forkTaskInputs"]))]
    else:
        expected = [one["taskReferenceName"] for one in given["tasks"]]
    for reference in expected:
        # Where a definition has several such forks, theirs say of which one they are.
        names = (f"{reference}{suffix}", f"_{element['taskReferenceName']}{reference}{suffix}")
        made = next((newest[name] for name in names if name in newest), None)
        if made is None or made.status not in TERMINAL:
            yield f"its task {reference}{suffix} is {made}"


def _children(executions: list[Held], documents: dict[str, Element]) -> Iterator[str]:
    """A child is that of one task, and a task's only child. What ran again, or forgets iterations, lets go of some."""
    told: Counter[tuple[str, str]] = Counter()
    for held in executions:
        told.update((held.execution.namespace, one.child) for one in held.tasks if one.child and not one.compensates)
    for place, count in told.items():
        if count > 1:
            yield f"{place} is the child of {count} attempts"
    by_place = {held.place: held for held in executions}
    for held in executions:
        execution = held.execution
        parent = by_place.get(f"{execution.namespace}/{execution.parent}")
        if parent is None or parent.execution.run > 1:
            continue
        if _forgets(documents[f"{parent.execution.namespace}/{parent.execution.name}"]):
            continue
        if not told[execution.namespace, execution.workflow_id]:
            yield f"{held.place} is a child of {execution.parent}, none of whose tasks knows it"


def _cut_short(newest: dict[str, TaskAttempt]) -> bool:
    """By a TERMINATE, which leaves undone what has not begun."""
    return any(one.type == "TERMINATE" and one.status is TaskStatus.COMPLETED for one in newest.values())


def _forgets(document: Element) -> bool:
    return any("keepLastN" in element.get("inputParameters", {}) for element in elements_of(document["tasks"]))


def _events(executions: list[Held]) -> Iterator[str]:
    """Each event is handled once, whoever led."""
    handled: Counter[tuple[str, str]] = Counter()
    for held in executions:
        if held.execution.name == TOLD:
            given = json.loads(held.payload(held.execution.input))
            handled[held.execution.namespace, given["conductor.event.messageId"]] += 1
    for event, count in handled.items():
        if count > 1:
            yield f"{event} was handled {count} times"
    for held in executions:
        for attempt in held.tasks:
            published = attempt.type == "EVENT" and attempt.status is TaskStatus.COMPLETED
            if published and not handled[held.execution.namespace, attempt.task_id]:
                yield f"{held.place} {attempt.reference} has published {attempt.task_id}, and nobody has handled it"
