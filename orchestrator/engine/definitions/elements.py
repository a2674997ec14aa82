"""Elements of a workflow definition, read and checked one by one and as sequences.

What an element's expressions refer to can only be checked when all elements are known: see ``parse``.
"""

from __future__ import annotations

import msgspec

from orchestrator.engine.definitions.errors import DefinitionInvalid, quoted
from orchestrator.engine.definitions.fields import Fields
from orchestrator.engine.definitions.model import TaskType
from orchestrator.engine.definitions.operators import (
    check_switch,
    check_terminate,
    check_wait,
    compensation_type,
    task_type,
)
from orchestrator.engine.definitions.tasks import TaskDefinition, read_task
from orchestrator.engine.expressions import elements_of, fields_of

TASKS_MAX = 20_000
BRANCHES_MAX = 10_000
RESERVED_REFERENCES = frozenset({"step", "workflow"})
STEP_RECORD = b'{"step":{"input":"${step.input}","output":"${step.output}"}}'

_COMMON = (
    "name taskReferenceName type inputParameters startDelay optional permissive retryCount taskDefinition"
    " description metadata"
).split()
_OF_STEPS = "compensateWith pivot".split()
_OF_TYPES = {
    TaskType.SWITCH: "evaluatorType expression decisionCases defaultCase".split(),
    TaskType.FORK_JOIN: ["forkTasks"],
    TaskType.JOIN: ["joinOn"],
}
_UNBUILT = (
    "asyncComplete joinMode joinStatus caseValueParam caseExpression loopCondition loopOver items keepLastN"
    " subWorkflowParam sink dynamicTaskNameParam dynamicForkTasksParam dynamicForkTasksInputParamName"
    " dynamicForkJoinTasksParam defaultExclusiveJoinTask scriptExpression rateLimited cacheConfig onStateChange"
    " workflowTaskType"
).split()
_KNOWN = [*_COMMON, *_OF_STEPS, *(key for keys in _OF_TYPES.values() for key in keys)]


class Element(msgspec.Struct, frozen=True):
    """One task of the definition as it was written, with its branches."""

    path: str
    reference: str
    name: str
    type: TaskType
    input: bytes  # inputParameters, a JSON object
    input_path: str
    definition: TaskDefinition | None  # inline
    retry_count: int | None = None
    start_delay_ms: int = 0
    optional: bool = False
    permissive: bool = False
    pivot: bool = False
    compensation: Element | None = None
    evaluator: str = ""
    expression: str = ""
    cases: dict[str, tuple[Element, ...]] = {}
    default: tuple[Element, ...] = ()
    forks: tuple[tuple[Element, ...], ...] = ()
    join_on: tuple[str, ...] = ()

    def branches(self) -> list[tuple[Element, ...]]:
        return [*self.cases.values(), self.default, *self.forks]


def subtree(elements: tuple[Element, ...]) -> list[Element]:
    """The elements and everything in their branches, in the order of the document."""
    found: list[Element] = []
    for element in elements:
        found.append(element)
        for branch in element.branches():
            found.extend(subtree(branch))
    return found


class ElementReader:
    """Reads the elements of one definition. Reference names are unique over all of them, compensations included."""

    def __init__(self) -> None:
        self._paths: dict[str, str] = {}

    def sequence(self, items: list[bytes], path: str) -> tuple[Element, ...]:
        elements = tuple(self.element(item, f"{path}[{position}]") for position, item in enumerate(items))
        for position, element in enumerate(elements):
            following = elements[position + 1] if position + 1 < len(elements) else None
            if element.type == TaskType.FORK_JOIN and (following is None or following.type != TaskType.JOIN):
                raise DefinitionInvalid(element.path, "a FORK_JOIN must be followed by a JOIN")
            if element.type == TaskType.JOIN:
                _check_join(elements[position - 1] if position else None, element)
        return elements

    def element(self, raw: bytes, path: str) -> Element:
        # The type first: of an element that can't be executed at all, nothing else needs to be said.
        kind = task_type(Fields(raw, path, fields_of(raw)))
        fields = Fields(raw, path, _KNOWN, _UNBUILT)
        for owner, keys in _OF_TYPES.items():
            for key in keys:
                if kind != owner and fields.is_set(key):
                    raise fields.invalid(key, f"only a {owner.value} task has this field")
        element = self._read(fields, kind, fields.name("taskReferenceName"))
        parameters = Fields(element.input, element.input_path, fields_of(element.input))
        if kind == TaskType.WAIT:
            check_wait(parameters)
        elif kind == TaskType.TERMINATE:
            check_terminate(fields, parameters)
        elif kind == TaskType.SWITCH:
            return self._switch(element, fields, parameters)
        elif kind == TaskType.FORK_JOIN:
            return self._fork(element, fields)
        return element

    def _read(self, fields: Fields, kind: TaskType, reference: str) -> Element:
        """What elements of all types have in common."""
        self._claim(fields, reference)
        name = fields.task_name("name", "" if kind == TaskType.SIMPLE else kind.value)
        definition = fields.raw("taskDefinition")
        compensation = None
        if fields.is_set("compensateWith"):
            if kind != TaskType.SIMPLE:
                raise fields.invalid("compensateWith", "only a worker's task can be compensated")
            compensation = self._compensation(fields.object("compensateWith"), fields.at("compensateWith"), reference)
        return Element(
            path=fields.path,
            reference=reference,
            name=name,
            type=kind,
            input=fields.object("inputParameters"),
            input_path=fields.at("inputParameters"),
            definition=read_task(definition, fields.at("taskDefinition"), name) if definition else None,
            retry_count=fields.integer("retryCount", 0) if fields.has("retryCount") else None,
            start_delay_ms=fields.seconds("startDelay", 0),
            optional=fields.flag("optional"),
            permissive=fields.flag("permissive"),
            pivot=fields.flag("pivot"),
            compensation=compensation,
            join_on=fields.texts("joinOn"),
        )

    def _compensation(self, raw: bytes, path: str, step: str) -> Element:
        kind = compensation_type(Fields(raw, path, fields_of(raw)))
        fields = Fields(raw, path, [*_COMMON, *_OF_STEPS], _UNBUILT)
        for key in ("compensateWith", "pivot", "optional", "permissive"):
            if fields.is_set(key):
                raise fields.invalid(key, "a compensation can't have this")
        element = self._read(fields, kind, fields.name("taskReferenceName", f"{step}__compensation"))
        if fields.has("inputParameters"):
            return element
        return msgspec.structs.replace(element, input=STEP_RECORD)

    def _claim(self, fields: Fields, reference: str) -> None:
        key = "taskReferenceName"
        if reference in RESERVED_REFERENCES:
            raise fields.invalid(key, f"{quoted(reference)} is a reserved name")
        if reference in self._paths:
            raise fields.invalid(key, f"{quoted(reference)} is the name of {self._paths[reference]} already")
        self._paths[reference] = fields.path
        if len(self._paths) > TASKS_MAX:
            raise DefinitionInvalid(fields.path, f"a workflow may have {TASKS_MAX} tasks")

    def _switch(self, element: Element, fields: Fields, parameters: Fields) -> Element:
        evaluator, expression = fields.name("evaluatorType"), fields.name("expression")
        check_switch(fields, parameters)
        cases: dict[str, tuple[Element, ...]] = {}
        for case, branch in fields.mapping("decisionCases").items():
            path = f"{fields.at('decisionCases')}.{case}"
            cases[case] = self.sequence(_items(branch, path), path)
        default = self.sequence(fields.items("defaultCase"), fields.at("defaultCase"))
        if not cases and not default:
            raise fields.invalid("decisionCases", "a SWITCH needs decisionCases or a defaultCase")
        return msgspec.structs.replace(
            element, evaluator=evaluator, expression=expression, cases=cases, default=default
        )

    def _fork(self, element: Element, fields: Fields) -> Element:
        forks = []
        for position, branch in enumerate(fields.items("forkTasks")):
            path = f"{fields.at('forkTasks')}[{position}]"
            forks.append(self.sequence(_items(branch, path), path))
        if not any(forks):
            raise fields.invalid("forkTasks", "a FORK_JOIN needs a branch with a task")
        if len(forks) > BRANCHES_MAX:
            raise fields.invalid("forkTasks", f"a FORK_JOIN may have {BRANCHES_MAX} branches")
        return msgspec.structs.replace(element, forks=tuple(forks))


def _items(raw: bytes | msgspec.Raw, path: str) -> list[bytes]:
    if bytes(raw)[:1] != b"[":
        raise DefinitionInvalid(path, "it must be a list")
    return [bytes(item) for item in elements_of(raw)]


def _check_join(previous: Element | None, join: Element) -> None:
    if previous is None or previous.type != TaskType.FORK_JOIN:
        raise DefinitionInvalid(join.path, "a JOIN must follow a FORK_JOIN")
    inside = {element.reference for branch in previous.forks for element in subtree(branch)}
    seen: set[str] = set()
    for position, reference in enumerate(join.join_on):
        path = f"{join.path}.joinOn[{position}]"
        if reference not in inside:
            raise DefinitionInvalid(path, f"{quoted(reference)} is not in a branch of {quoted(previous.reference)}")
        if reference in seen:
            raise DefinitionInvalid(path, f"{quoted(reference)} is named twice")
        seen.add(reference)
