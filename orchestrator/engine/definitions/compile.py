"""From a checked definition to what the engine walks: flat, by reference name, every default filled in."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from orchestrator.engine.definitions.elements import Element
from orchestrator.engine.definitions.model import (
    NO_LIMITS,
    CompiledDefinition,
    RetryPolicy,
    Switch,
    TaskNode,
    TaskType,
    Timeouts,
)
from orchestrator.engine.definitions.parse import ParsedWorkflow
from orchestrator.engine.definitions.tasks import (
    COMPENSATION_RETRY,
    OPERATOR_RETRY,
    OPERATOR_TIMEOUTS,
    TaskDefinition,
)
from orchestrator.engine.expressions import Template, overlay_template


def compile_definition(workflow: ParsedWorkflow, tasks: Mapping[str, TaskDefinition]) -> CompiledDefinition:
    """`tasks`: the registered task definitions that the workflow names."""
    compiler = _Compiler(workflow.inputs, workflow.references, tasks)
    compiler.sequence(workflow.elements, None, 0)
    return CompiledDefinition(
        name=workflow.name,
        version=workflow.version,
        first=workflow.elements[0].reference,
        nodes=compiler.nodes,
        top=_references(workflow.elements),
        output=workflow.output,
        input_template=workflow.input_template,
        variables=workflow.variables,
        timeout_ms=workflow.timeout_ms,
        timeout_policy=workflow.timeout_policy,
        compensation_order=workflow.compensation_order,
        compensation_grace_ms=workflow.compensation_grace_ms,
        joins_of={reference: tuple(joins) for reference, joins in compiler.joins_of.items()},
        retention_ms=workflow.retention_ms,
        retention_count=workflow.retention_count,
        rate_limit=workflow.rate_limit,
    )


class _Compiler:
    def __init__(
        self, inputs: Mapping[str, Template], references: frozenset[str], tasks: Mapping[str, TaskDefinition]
    ) -> None:
        self.nodes: dict[str, TaskNode] = {}
        self.joins_of: dict[str, list[str]] = {}
        self._inputs = inputs
        self._references = references
        self._tasks = tasks

    def sequence(self, elements: tuple[Element, ...], parent: str | None, branch: int) -> None:
        for position, element in enumerate(elements):
            following = elements[position + 1].reference if position + 1 < len(elements) else None
            node = self._node(element)
            if element.type == TaskType.JOIN:
                node = self._join(node, element, elements[position - 1])
            self.nodes[element.reference] = msgspec.structs.replace(node, next=following, parent=parent, branch=branch)
            self._branches(element, following)

    def _branches(self, element: Element, following: str | None) -> None:
        node = self.nodes[element.reference]
        if element.type == TaskType.SWITCH:
            branches = [*element.cases.values(), element.default]
            cases = {case: _references(branch) for case, branch in element.cases.items()}
            switch = Switch(element.evaluator, element.expression, cases, _references(element.default))
            self.nodes[element.reference] = msgspec.structs.replace(node, switch=switch)
        else:
            branches = [branch for branch in element.forks if branch]
            if element.type == TaskType.FORK_JOIN:
                fork = tuple(_references(branch) for branch in branches)
                self.nodes[element.reference] = msgspec.structs.replace(node, fork=fork, join=following)
        for number, branch in enumerate(branches):
            self.sequence(branch, element.reference, number)

    def _join(self, node: TaskNode, element: Element, fork: Element) -> TaskNode:
        join_on = element.join_on or tuple(branch[-1].reference for branch in fork.forks if branch)
        for reference in join_on:
            self.joins_of.setdefault(reference, []).append(element.reference)
        return msgspec.structs.replace(node, join_on=join_on)

    def _node(self, element: Element, is_compensation: bool = False) -> TaskNode:
        definition = element.definition or self._tasks.get(element.name)
        parameters = self._inputs[element.reference]
        undo = element.compensation
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
            compensate_with=None if undo is None else self._node(undo, is_compensation=True),
            limits=NO_LIMITS if element.definition is None else element.definition.limits,
        )

    def _overlaid(self, parameters: Template, definition: TaskDefinition) -> Template:
        template = overlay_template(parameters, definition.input)
        # A task definition serves many workflows: what it mentions need not exist in this one, and is null then.
        references = tuple(reference for reference in template.references if reference in self._references)
        return msgspec.structs.replace(template, references=references)


def _retry(element: Element, definition: TaskDefinition | None, is_compensation: bool) -> RetryPolicy:
    if element.type != TaskType.SIMPLE:
        return OPERATOR_RETRY
    if is_compensation and (definition is None or not definition.states_retry):
        policy = COMPENSATION_RETRY
    else:
        policy = RetryPolicy() if definition is None else definition.retry
    if element.retry_count is None:
        return policy
    return msgspec.structs.replace(policy, count=element.retry_count)


def _timeouts(element: Element, definition: TaskDefinition | None) -> Timeouts:
    if definition is not None:
        return definition.timeouts
    return Timeouts() if element.type == TaskType.SIMPLE else OPERATOR_TIMEOUTS


def _references(elements: tuple[Element, ...]) -> tuple[str, ...]:
    return tuple(element.reference for element in elements)
