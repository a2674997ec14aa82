"""From a checked definition to what the engine walks: flat, by reference name, every default filled in."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from orchestrator.engine.definitions.elements import Element, subtree
from orchestrator.engine.definitions.model import (
    INPUT_CHECK,
    NO_LIMITS,
    OUTPUT_CHECK,
    STRUCTURAL,
    UNCHECKED,
    Announcements,
    CompiledDefinition,
    Loop,
    RetryPolicy,
    Switch,
    TaskNode,
    TaskType,
    Timeouts,
)
from orchestrator.engine.definitions.parse import ParsedWorkflow
from orchestrator.engine.definitions.schemas import NO_SCHEMAS, resolve
from orchestrator.engine.definitions.sinks import is_expression, is_stream
from orchestrator.engine.definitions.tasks import (
    CALL_RETRY,
    COMPENSATION_RETRY,
    EMPTY,
    OPERATOR_RETRY,
    OPERATOR_TIMEOUTS,
    TaskDefinition,
)
from orchestrator.engine.expressions import Template, dump_string, merge_objects, overlay_template, parse_template


def compile_definition(
    workflow: ParsedWorkflow, tasks: Mapping[str, TaskDefinition], gathered: bytes, versions: Mapping[str, int]
) -> CompiledDefinition:
    """`tasks`: the registered task definitions that the workflow names; `gathered`: the registered schemas;
    `versions`: those of sub-workflows that are named without one."""
    compiler = Compiler(workflow.inputs, workflow.references, tasks, gathered, workflow.announcements, versions)
    compiler.sequence(workflow.elements, None, 0, 0)
    first = workflow.elements[0].reference
    compiler.nodes.update((node.reference, node) for node in _checks(workflow, gathered, first))
    return CompiledDefinition(
        name=workflow.name,
        version=workflow.version,
        first=first if compiler.nodes[INPUT_CHECK].input_schema is None else INPUT_CHECK,
        nodes=compiler.nodes,
        top=_references(workflow.elements),
        output=workflow.output,
        input_template=workflow.input_template,
        variables=workflow.variables,
        timeout_ms=workflow.timeout_ms,
        timeout_policy=workflow.timeout_policy,
        compensation_order=workflow.compensation_order,
        compensation_grace_ms=workflow.compensation_grace_ms,
        retention_ms=workflow.retention_ms,
        retention_count=workflow.retention_count,
        restartable=workflow.restartable,
        failure_workflow=workflow.failure_workflow,
        failure_version=workflow.failure_version,
        rate_limit=workflow.rate_limit,
        masked_fields=workflow.masked_fields,
        status_event=workflow.status_event,
        task_event=workflow.task_event,
        publishes=_publishes(workflow, compiler.nodes.values()),
    )


def _publishes(workflow: ParsedWorkflow, nodes: Iterable[TaskNode]) -> bool:
    if is_stream(workflow.status_event) or is_stream(workflow.task_event):
        return True
    for node in nodes:
        for one in (node, node.compensate_with):
            if one is None:
                continue
            announced = [each.sink for told in one.announcements.values() for each in told]
            if any(is_stream(sink) for sink in (one.sink, *announced)):
                return True
    return False


def _checks(workflow: ParsedWorkflow, gathered: bytes, first: str) -> list[TaskNode]:
    """What looks at the payloads of the workflow itself: at its input at first, at its output at last."""
    node = TaskNode(
        reference=INPUT_CHECK,
        name=TaskType.SCHEMA_CHECK.value,
        type=TaskType.SCHEMA_CHECK,
        path="inputSchema",
        input=EMPTY,
        retry=OPERATOR_RETRY,
        timeouts=OPERATOR_TIMEOUTS,
        next=first,
        input_schema=resolve(workflow.schemas.input, gathered),
    )
    schema = resolve(workflow.schemas.output, gathered)
    at_end = replace(node, reference=OUTPUT_CHECK, path="outputSchema", next=None, input_schema=schema)
    return [node, at_end]


class Compiler:
    """Makes nodes of elements. `references`: those that exist; None if that is not known."""

    def __init__(
        self,
        inputs: Mapping[str, Template],
        references: frozenset[str] | None,
        tasks: Mapping[str, TaskDefinition],
        gathered: bytes,
        announcements: Mapping[str, Announcements],
        versions: Mapping[str, int],
    ) -> None:
        self.nodes: dict[str, TaskNode] = {}
        self._inputs = inputs
        self._references = references
        self._tasks = tasks
        self._gathered = gathered
        self._announcements = announcements
        self._versions = versions

    def sequence(self, elements: tuple[Element, ...], parent: str | None, branch: int, loops: int) -> None:
        """`loops`: how many are around it."""
        for position, element in enumerate(elements):
            following = elements[position + 1].reference if position + 1 < len(elements) else None
            node = self._node(element, loops)
            if element.type == TaskType.JOIN:
                node = replace(node, forked_by=elements[position - 1].reference)
            self.nodes[element.reference] = replace(node, next=following, parent=parent, branch=branch)
            self._branches(element, following, loops)

    def _branches(self, element: Element, following: str | None, loops: int) -> None:
        node = self.nodes[element.reference]
        branches: list[tuple[Element, ...]] = []
        if element.type == TaskType.SWITCH:
            branches = [*element.cases.values(), element.default]
            cases = {case: _references(branch) for case, branch in element.cases.items()}
            default = _references(element.default)
            switch = Switch(element.evaluator, element.expression, element.output_key, cases, default)
            node = replace(node, switch=switch)
        elif element.type == TaskType.DO_WHILE:
            branches, loops = [element.body], loops + 1
            node = replace(node, loop=_loop(element))
        elif element.type == TaskType.FORK_JOIN_DYNAMIC:
            node = replace(node, join=following)
        elif element.type == TaskType.FORK_JOIN:
            branches = [branch for branch in element.forks if branch]
            fork = tuple(_references(branch) for branch in branches)
            node = replace(node, fork=fork, join=following)
        self.nodes[element.reference] = node
        for number, branch in enumerate(branches):
            self.sequence(branch, element.reference, number, loops)

    def _node(self, element: Element, loops: int, is_compensation: bool = False) -> TaskNode:
        definition = element.definition or self._tasks.get(element.name)
        parameters = self._chosen(element, self._inputs[element.reference], is_compensation)
        undo = element.compensation
        is_checked = definition is not None and element.type not in UNCHECKED and not is_compensation
        schemas = definition.schemas if definition is not None and is_checked else NO_SCHEMAS
        return TaskNode(
            reference=element.reference,
            name=element.name,
            type=element.type,
            path=element.path,
            input=parameters if definition is None else self._overlaid(parameters, definition),
            retry=_retry(element, definition, is_compensation),
            timeouts=_timeouts(element, definition),
            start_delay_ms=element.start_delay_ms,
            optional=element.optional,
            permissive=element.permissive,
            pivot=element.pivot,
            compensate_with=None if undo is None else self._node(undo, loops, is_compensation=True),
            join_on=element.join_on,
            instead=element.instead,
            reported=element.reported,
            loops=loops,
            script=element.script,
            parameter=element.parameter,
            dynamic_fork=element.dynamic_fork,
            async_complete=element.async_complete,
            sink=element.sink,
            sink_expression=parse_template(dump_string(element.sink), "") if is_expression(element.sink) else None,
            limits=NO_LIMITS if element.definition is None else element.definition.limits,
            queue=_queue(element, definition),
            runtime_metadata=_runtime_metadata(element, definition),
            announcements=self._announcements.get(element.reference, {}),
            input_schema=resolve(schemas.input, self._gathered),
            output_schema=resolve(schemas.output, self._gathered),
        )

    def _chosen(self, element: Element, parameters: Template, is_compensation: bool) -> Template:
        """The input of a SUB_WORKFLOW says which version of it is meant."""
        version = self._versions.get(element.sub_workflow, 0)
        if not version:
            return parameters
        given = merge_objects(parameters.source, b'{"subWorkflowVersion":%d}' % version)
        return parse_template(given, element.input_path, step=is_compensation)

    def _overlaid(self, parameters: Template, definition: TaskDefinition) -> Template:
        template = overlay_template(parameters, definition.input)
        if self._references is None:
            return template
        # A task definition serves many workflows: what it mentions need not exist in this one, and is null then.
        references = tuple(reference for reference in template.references if reference in self._references)
        return replace(template, references=references)


def _retry(element: Element, definition: TaskDefinition | None, is_compensation: bool) -> RetryPolicy:
    if element.type in STRUCTURAL:
        return OPERATOR_RETRY
    if is_compensation and (definition is None or not definition.states_retry):
        policy = COMPENSATION_RETRY
    else:
        policy = _DEFAULT_RETRY.get(element.type, OPERATOR_RETRY) if definition is None else definition.retry
    if element.retry_count is None:
        return policy
    return replace(policy, count=element.retry_count, forgives_losses=False)


def _queue(element: Element, definition: TaskDefinition | None) -> str:
    """Nodes take the work of a system task wherever it is to be isolated."""
    if definition is None or not definition.queue_suffix or element.type != TaskType.SIMPLE:
        return ""
    return element.name + definition.queue_suffix


def _runtime_metadata(element: Element, definition: TaskDefinition | None) -> tuple[str, ...]:
    """What nodes do themselves asks for nothing: only workers are given values."""
    return () if definition is None or element.type != TaskType.SIMPLE else definition.runtime_metadata


def _timeouts(element: Element, definition: TaskDefinition | None) -> Timeouts:
    if definition is not None:
        return definition.timeouts
    return Timeouts() if element.type == TaskType.SIMPLE else OPERATOR_TIMEOUTS


_DEFAULT_RETRY = {
    TaskType.SIMPLE: RetryPolicy(),
    TaskType.HTTP: CALL_RETRY,
    TaskType.GRPC: CALL_RETRY,
    # As often as what it becomes.
    TaskType.DYNAMIC: CALL_RETRY,
}


def _loop(element: Element) -> Loop:
    return Loop(
        condition=element.condition,
        items=element.items,
        body=_references(element.body),
        inside=tuple(_outputs(element.body)),
        seen=tuple(inner.reference for inner in subtree(element.body)),
        is_condition_local=_is_local(element.condition, element.reference),
    )


def _outputs(elements: tuple[Element, ...]) -> list[str]:
    """Whose outputs belong to an iteration; what is in an inner loop belongs to that."""
    found = []
    for element in elements:
        found.append(element.reference)
        if element.type != TaskType.DO_WHILE:
            for branch in element.branches():
                found.extend(_outputs(branch))
    return found


_COUNTER = r"(?:iteration|loopIndex|loopItem)"
# After the name of the loop: `.iteration`, `['iteration']`, and the same where the name itself is in brackets.
_ONLY_COUNTERS = re.compile(rf"(?:['\"]\])?(?:\.{_COUNTER}\b|\[['\"]{_COUNTER}['\"]\])")


def _is_local(condition: str, reference: str) -> bool:
    """Whether the script asks the loop's own output for its counters only: all of it grows with each iteration."""
    return all(_ONLY_COUNTERS.match(rest) for rest in condition.split(reference)[1:])


def _references(elements: tuple[Element, ...]) -> tuple[str, ...]:
    return tuple(element.reference for element in elements)
