"""What an execution runs: its compiled definition, and what the walk looks up in it. Derived from BUNDLE rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

import msgspec

from orchestrator.engine.definitions.bundle import compile_bundle, make_bundle
from orchestrator.engine.definitions.model import CompiledDefinition, TaskNode
from orchestrator.engine.model import Bundle, Row, RowKey, Table, TaskDefinitionRow
from orchestrator.engine.state import State

_BUNDLES_REMEMBERED = 1024


class Plan(msgspec.Struct, frozen=True):
    definition: CompiledDefinition
    undoes: dict[str, TaskNode]  # step -> its compensation
    permissive: tuple[str, ...]  # permissive tasks that are not optional
    # (FORK_JOIN, branch) -> those of its JOIN's references that stand somewhere in the branch
    joined_in: dict[tuple[str, int], tuple[str, ...]]

    def node(self, reference: str) -> TaskNode:
        return self.definition.nodes[reference]


def plan_of(state: State, digest: bytes) -> Plan:
    plan = state.plans.get(digest)
    if plan is None:
        bundle = cast(Bundle, state.resident[Table.BUNDLE][(digest,)])
        plan = state.plans[digest] = _make_plan(compile_bundle(bundle.document))
    return cast(Plan, plan)


def _make_plan(definition: CompiledDefinition) -> Plan:
    nodes = definition.nodes
    joined_in: dict[tuple[str, int], list[str]] = {}
    for node in nodes.values():
        if node.join is None:
            continue
        for reference in dict.fromkeys(nodes[node.join].join_on):
            inner = nodes[reference]
            while inner.parent is not None and inner.parent != node.reference:
                inner = nodes[inner.parent]
            if inner.parent == node.reference:
                joined_in.setdefault((node.reference, inner.branch), []).append(reference)
    return Plan(
        definition=definition,
        undoes={node.reference: node.compensate_with for node in nodes.values() if node.compensate_with is not None},
        permissive=tuple(node.reference for node in nodes.values() if node.permissive and not node.optional),
        joined_in={key: tuple(references) for key, references in joined_in.items()},
    )


class _TaskDocuments(Mapping[str, bytes]):
    """The registered task definitions of a namespace, by name."""

    def __init__(self, state: State, namespace: str) -> None:
        self._rows = cast(dict[RowKey, TaskDefinitionRow], state.resident[Table.TASK_DEFINITION])
        self._namespace = namespace

    def __getitem__(self, name: str) -> bytes:
        return self._rows[self._namespace, name].document

    def __iter__(self) -> Iterator[str]:
        keys = sorted(cast(dict[tuple[str, str], Row], self._rows))
        return (name for namespace, name in keys if namespace == self._namespace)

    def __len__(self) -> int:
        return sum(1 for _ in self)


def bundle_for(state: State, namespace: str, document: bytes) -> tuple[bytes, bytes]:
    """(digest, text) of the document with the task definitions as they are registered now.

    Raises DefinitionError. What was made is remembered until any definition changes.
    """
    made = state.bundles_made.get((namespace, document))
    if made is None:
        if len(state.bundles_made) >= _BUNDLES_REMEMBERED:
            state.bundles_made.clear()
        made = make_bundle(document, _TaskDocuments(state, namespace))
        state.bundles_made[namespace, document] = made
    return made
