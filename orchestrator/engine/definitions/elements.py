"""Elements of a workflow definition, read and checked one by one and as sequences.

What an element's expressions refer to can only be checked when all elements are known: see ``parse``.
"""

from __future__ import annotations

import msgspec

from orchestrator.engine.definitions.errors import DefinitionInvalid, DefinitionUnimplemented, quoted
from orchestrator.engine.definitions.fields import Fields
from orchestrator.engine.definitions.model import (
    INPUT_CHECK,
    NO_LIMITS,
    OUTPUT_CHECK,
    UNCHECKED,
    DynamicFork,
    Script,
    TaskType,
)
from orchestrator.engine.definitions.operators import (
    check_call,
    check_loop,
    check_terminate,
    check_wait,
    compensation_type,
    newest_of,
    read_decision,
    read_dynamic_fork,
    read_script,
    read_sub_workflow,
    read_switch,
    reported_type,
    task_type,
)
from orchestrator.engine.definitions.schemas import SchemaUse
from orchestrator.engine.definitions.sinks import Announced, check_event, events_of, read_announcements, read_task_sink
from orchestrator.engine.definitions.tasks import TaskDefinition, read_task
from orchestrator.engine.expressions import assemble_object, elements_of, fields_of, merge_objects, text_of

TASKS_MAX = 20_000
BRANCHES_MAX = 10_000
RESERVED_REFERENCES = frozenset({"step", "workflow", INPUT_CHECK, OUTPUT_CHECK})
STEP_RECORD = b'{"step":{"input":"${step.input}","output":"${step.output}"}}'

_COMMON = (
    "name taskReferenceName type inputParameters startDelay optional permissive retryCount taskDefinition"
    " description metadata asyncComplete onStateChange"
    # Of an earlier day of Conductor: nobody reads it any more.
    " callbackFromWorker"
).split()
_OF_STEPS = "compensateWith pivot".split()
_OF_TYPES = {
    TaskType.SWITCH: "evaluatorType expression decisionCases defaultCase caseValueParam caseExpression".split(),
    TaskType.INLINE: "evaluatorType expression scriptExpression".split(),
    TaskType.DO_WHILE: "loopCondition loopOver items evaluatorType".split(),
    TaskType.FORK_JOIN: ["forkTasks"],
    TaskType.FORK_JOIN_DYNAMIC: (
        "dynamicForkTasksParam dynamicForkTasksInputParamName dynamicForkJoinTasksParam".split()
    ),
    # What ends a JOIN is in its branches: a script beside them, which editors write out, is read by nobody.
    TaskType.JOIN: "joinOn joinMode evaluatorType expression".split(),
    TaskType.EXCLUSIVE_JOIN: "joinOn defaultExclusiveJoinTask".split(),
    TaskType.DYNAMIC: ["dynamicTaskNameParam"],
    TaskType.SUB_WORKFLOW: ["subWorkflowParam"],
    TaskType.EVENT: ["sink"],
}
_UNBUILT = ["cacheConfig"]
_OF_ANY = frozenset(key for keys in _OF_TYPES.values() for key in keys)
# Of another type they say nothing, and editors leave them there. All others are work that would not be done.
_SAYS_NOTHING = frozenset(
    "joinOn joinMode defaultExclusiveJoinTask evaluatorType expression caseValueParam caseExpression"
    " scriptExpression".split()
)
_KNOWN = [*_COMMON, *_OF_STEPS, *sorted(_OF_ANY), "rateLimited", "workflowTaskType", "joinStatus"]
_COMPENSABLE = frozenset((TaskType.SIMPLE, TaskType.HTTP, TaskType.GRPC, TaskType.SUB_WORKFLOW))
_ASYNC = frozenset((TaskType.EVENT, TaskType.HTTP, TaskType.GRPC))
_FORKS = frozenset((TaskType.FORK_JOIN, TaskType.FORK_JOIN_DYNAMIC))
_JOINS = frozenset((TaskType.JOIN, TaskType.EXCLUSIVE_JOIN))
JOIN_MODES = ("SYNC", "ASYNC")


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
    instead: tuple[str, ...] = ()
    reported: str = ""
    script: Script | None = None
    parameter: str = ""
    output_key: str = ""
    body: tuple[Element, ...] = ()
    condition: str = ""
    items: bool = False
    dynamic_fork: DynamicFork | None = None
    async_complete: bool = False
    sink: str = ""
    announced: tuple[Announced, ...] = ()
    sub_workflow: str = ""  # of which it means the version that is the newest when the workflow begins

    def branches(self) -> list[tuple[Element, ...]]:
        return [*self.cases.values(), self.default, *self.forks, self.body]


def subtree(elements: tuple[Element, ...]) -> list[Element]:
    """The elements and everything in their branches, in the order of the document."""
    found: list[Element] = []
    for element in elements:
        found.append(element)
        for branch in element.branches():
            found.extend(subtree(branch))
    return found


def used_schemas(elements: tuple[Element, ...]) -> list[SchemaUse]:
    """By the inline task definitions of the elements and of everything in their branches."""
    definitions = [element.definition for element in subtree(elements) if element.definition is not None]
    return [use for definition in definitions for use in definition.schemas.uses()]


def check_events(workflow: str, elements: list[Element]) -> None:
    """Refuses tasks whose events nobody could publish."""
    for element in elements:
        for one in (element, element.compensation):
            if one is not None:
                for event, path in events_of(workflow, one.reference, one.sink, one.announced):
                    check_event(event, path or f"{one.path}.sink")


class ElementReader:
    """Reads the elements of one definition by the rules of a behaviour level.

    Reference names are unique over all of them, compensations included.
    """

    def __init__(self, level: int) -> None:
        self._level = level
        self._paths: dict[str, str] = {}

    def sequence(self, items: list[bytes], path: str) -> tuple[Element, ...]:
        elements = tuple(self.element(item, f"{path}[{position}]") for position, item in enumerate(items))
        for position, element in enumerate(elements):
            following = elements[position + 1] if position + 1 < len(elements) else None
            if element.type in _FORKS and (following is None or following.type != TaskType.JOIN):
                raise DefinitionInvalid(element.path, f"a {element.type.value} must be followed by a JOIN")
            if element.type == TaskType.JOIN:
                _check_join(elements[position - 1] if position else None, element)
        return elements

    def element(self, raw: bytes, path: str) -> Element:
        # The type first: of an element that can't be executed at all, nothing else needs to be said.
        kind = task_type(Fields(raw, path, fields_of(raw)))
        fields = Fields(raw, path, _KNOWN, _UNBUILT)
        for key in sorted(_OF_ANY.difference(_OF_TYPES.get(kind, ()), _SAYS_NOTHING)):
            if fields.is_set(key):
                owners = " or ".join(owner.value for owner, keys in _OF_TYPES.items() if key in keys)
                raise fields.invalid(key, f"only a {owners} task has this field")
        element = self._read(fields, kind, fields.name("taskReferenceName"))
        parameters = Fields(element.input, element.input_path, fields_of(element.input))
        return self._of_type(element, fields, parameters)

    def _of_type(self, element: Element, fields: Fields, parameters: Fields) -> Element:
        """What elements of single types have besides."""
        kind, changed = element.type, msgspec.structs.replace
        match kind:
            case TaskType.WAIT:
                check_wait(parameters)
            case TaskType.TERMINATE:
                check_terminate(fields, parameters)
            case TaskType.SWITCH:
                return self._switch(element, fields, parameters)
            case TaskType.FORK_JOIN:
                return self._fork(element, fields)
            case TaskType.FORK_JOIN_DYNAMIC:
                return changed(element, dynamic_fork=read_dynamic_fork(fields, parameters))
            case TaskType.DO_WHILE:
                return self._loop(element, fields, parameters)
            case TaskType.INLINE:
                script, parameter, given = read_script(fields, parameters, element.input)
                return changed(element, script=script, parameter=parameter, input=given)
            case TaskType.JSON_JQ_TRANSFORM:
                if not parameters.has("queryExpression"):
                    raise parameters.invalid("queryExpression", "a JSON_JQ_TRANSFORM needs one")
            case TaskType.DYNAMIC:
                parameter = fields.name("dynamicTaskNameParam")
                if not parameters.has(parameter):
                    raise fields.invalid("dynamicTaskNameParam", f"there is no input parameter {quoted(parameter)}")
                return changed(element, parameter=parameter)
            case TaskType.SUB_WORKFLOW:
                return changed(element, input=read_sub_workflow(fields, element.input), sub_workflow=newest_of(fields))
            case TaskType.EVENT:
                return changed(element, sink=read_task_sink(fields, self._level))
            case TaskType.HTTP | TaskType.GRPC:
                check_call(kind, parameters)
            case TaskType.JOIN:
                if fields.text("joinMode", JOIN_MODES[0]) not in JOIN_MODES:
                    raise fields.invalid("joinMode", "it is SYNC or ASYNC; a JOIN ends with the last branch either way")
            case TaskType.START_WORKFLOW:
                if not parameters.has("startWorkflow"):
                    raise parameters.invalid("startWorkflow", "a START_WORKFLOW needs the request to start")
            case _:
                pass
        return element

    def _read(self, fields: Fields, kind: TaskType, reference: str) -> Element:
        """What elements of all types have in common."""
        self._claim(fields, reference)
        name = fields.task_name("name", "" if kind == TaskType.SIMPLE else kind.value)
        definition = fields.raw("taskDefinition")
        compensation = None
        if fields.is_set("compensateWith"):
            if kind not in _COMPENSABLE:
                raise fields.invalid("compensateWith", "only a SIMPLE, HTTP, GRPC or SUB_WORKFLOW task can be undone")
            compensation = self._compensation(fields.object("compensateWith"), fields.at("compensateWith"), reference)
        return Element(
            path=fields.path,
            reference=reference,
            name=name,
            type=kind,
            input=fields.object("inputParameters"),
            input_path=fields.at("inputParameters"),
            definition=_inline(definition, fields.at("taskDefinition"), name, kind) if definition else None,
            retry_count=fields.integer("retryCount", 0) if fields.has("retryCount") else None,
            start_delay_ms=fields.seconds("startDelay", 0),
            optional=fields.flag("optional"),
            permissive=fields.flag("permissive"),
            pivot=fields.flag("pivot"),
            compensation=compensation,
            join_on=fields.texts("joinOn") if kind in _JOINS else (),
            instead=fields.texts("defaultExclusiveJoinTask") if kind == TaskType.EXCLUSIVE_JOIN else (),
            reported=reported_type(fields),
            # A worker says itself when it is done.
            async_complete=fields.flag("asyncComplete") and kind in _ASYNC,
            announced=read_announcements(fields, self._level),
        )

    def _compensation(self, raw: bytes, path: str, step: str) -> Element:
        kind = compensation_type(Fields(raw, path, fields_of(raw)))
        fields = Fields(raw, path, [*_COMMON, *_OF_STEPS, "subWorkflowParam"], _UNBUILT)
        for key in ("compensateWith", "pivot", "optional", "permissive"):
            if fields.is_set(key):
                raise fields.invalid(key, "a compensation can't have this")
        element = self._read(fields, kind, fields.name("taskReferenceName", f"{step}__compensation"))
        if element.definition is not None and element.definition.schemas.uses():
            message = "no schema keeps what was done from being undone: leave it out, or set enforceSchema to false"
            raise DefinitionUnimplemented(element.definition.schemas.uses()[0].path, message)
        if not fields.has("inputParameters"):
            element = msgspec.structs.replace(element, input=STEP_RECORD)
        if kind == TaskType.SUB_WORKFLOW:
            given = read_sub_workflow(fields, element.input)
            return msgspec.structs.replace(element, input=given, sub_workflow=newest_of(fields))
        if kind != TaskType.SIMPLE:
            check_call(kind, Fields(element.input, element.input_path, fields_of(element.input)))
        return element

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
        read = read_decision if element.reported else read_switch
        evaluator, expression = read(fields, parameters)
        cases: dict[str, tuple[Element, ...]] = {}
        for case, branch in fields.mapping("decisionCases").items():
            path = f"{fields.at('decisionCases')}.{case}"
            cases[case] = self.sequence(_items(branch, path), path)
        default = self.sequence(fields.items("defaultCase"), fields.at("defaultCase"))
        if not cases and not default:
            raise fields.invalid("decisionCases", "a SWITCH needs decisionCases or a defaultCase")
        if element.reported:
            # An empty case of a DECISION is none at all, and the default's turn.
            cases = {case: branch for case, branch in cases.items() if branch}
        key = "caseOutput" if element.reported else "evaluationResult"
        return msgspec.structs.replace(
            element, evaluator=evaluator, expression=expression, output_key=key, cases=cases, default=default
        )

    def _loop(self, element: Element, fields: Fields, parameters: Fields) -> Element:
        # Conditions are JavaScript, whatever evaluator is named.
        condition = fields.text("loopCondition")
        items = _list_of(fields, "items")
        goes_through = items is not None or _list_of(parameters, "_items") is not None
        if not condition and not goes_through:
            items = _list_of(parameters, "items")
            goes_through = items is not None
        body = self.sequence(fields.items("loopOver"), fields.at("loopOver"))
        if not body:
            raise fields.invalid("loopOver", "a DO_WHILE needs a task to repeat")
        if not condition and not goes_through:
            raise fields.invalid("loopCondition", "a DO_WHILE needs a loopCondition or items")
        check_loop(parameters)
        given = element.input
        if items is not None:
            given = merge_objects(given, assemble_object([("_items", items)]))
        return msgspec.structs.replace(element, body=body, condition=condition, items=goes_through, input=given)

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


def _inline(raw: bytes, path: str, name: str, kind: TaskType) -> TaskDefinition:
    definition = read_task(raw, path, name, is_inline=True)
    if kind != TaskType.SIMPLE and definition.limits != NO_LIMITS:
        key = "concurrentExecLimit" if definition.limits.at_once else "rateLimitPerFrequency"
        raise DefinitionUnimplemented(f"{path}.{key}", "limits hold for workers' tasks only: this is not supported yet")
    if kind in UNCHECKED and definition.schemas.uses():
        message = f"no schema is enforced for a {kind.value}: leave it out, or set enforceSchema to false"
        raise DefinitionUnimplemented(definition.schemas.uses()[0].path, message)
    return definition


def _list_of(fields: Fields, key: str) -> bytes | None:
    """What a loop goes through; a blank string says nothing."""
    raw = fields.raw(key)
    return None if raw is None or (raw[:1] == b'"' and not text_of(raw).strip()) else raw


def _items(raw: bytes, path: str) -> list[bytes]:
    if raw[:1] != b"[":
        raise DefinitionInvalid(path, "it must be a list")
    return elements_of(raw)


def _check_join(previous: Element | None, join: Element) -> None:
    if previous is None or previous.type not in _FORKS:
        raise DefinitionInvalid(join.path, "a JOIN must follow a FORK_JOIN or a FORK_JOIN_DYNAMIC")
    if previous.type == TaskType.FORK_JOIN_DYNAMIC:
        # It waits for all that was forked: what that is, is not known before.
        return
    looped = {one.reference for branch in previous.forks for one in subtree(branch) for one in subtree(one.body)}
    inside = {element.reference for branch in previous.forks for element in subtree(branch)}
    seen: set[str] = set()
    for position, reference in enumerate(join.join_on):
        path = f"{join.path}.joinOn[{position}]"
        if reference not in inside:
            raise DefinitionInvalid(path, f"{quoted(reference)} is not in a branch of {quoted(previous.reference)}")
        if reference in looped:
            raise DefinitionInvalid(path, f"{quoted(reference)} is in a loop: join the loop")
        if reference in seen:
            raise DefinitionInvalid(path, f"{quoted(reference)} is named twice")
        seen.add(reference)
