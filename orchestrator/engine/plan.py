"""What an execution runs: its compiled definition, and what the walk looks up in it. Derived from BUNDLE rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, cast

import msgspec

from orchestrator.engine.definitions.bundle import compile_bundle, make_bundle
from orchestrator.engine.definitions.model import CompiledDefinition, TaskNode, TaskType
from orchestrator.engine.model import Row, RowKey, Table
from orchestrator.engine.resident import Bundle, TaskDefinitionRow
from orchestrator.engine.schema_texts import SchemaDocuments
from orchestrator.engine.state import State

_BUNDLES_REMEMBERED = 1024


class Joined(NamedTuple):
    """A reference in a branch of a FORK_JOIN, for which a JOIN waits: that of this fork, or of one around it."""

    reference: str
    join: str
    inner: str  # the outermost FORK_JOIN that it stands in inside of the branch; "": none


class Plan(msgspec.Struct, frozen=True):
    """The tasks of a definition, or of an expansion, and what the walk looks up about them."""

    nodes: dict[str, TaskNode]
    outermost: tuple[str, ...]  # the first of each outermost sequence
    joins_of: dict[str, tuple[str, ...]]  # reference -> JOINs that wait for it
    exclusively: dict[str, tuple[str, ...]]  # reference -> EXCLUSIVE_JOINs that may take its output
    undoes: dict[str, TaskNode]  # step -> its compensation
    permissive: tuple[str, ...]  # permissive tasks that are not optional
    # (FORK_JOIN, branch) -> what JOINs wait for that stands somewhere in the branch
    joined_in: dict[tuple[str, int], tuple[Joined, ...]]
    tells: bool = False  # whether anybody is to be told of changes of a task
    of: CompiledDefinition | None = None  # None: of an expansion

    @property
    def definition(self) -> CompiledDefinition:
        assert self.of is not None
        return self.of


def plan_of(state: State, digest: bytes) -> Plan:
    plan = state.plans.get(digest)
    if plan is None:
        bundle = cast(Bundle, state.resident[Table.BUNDLE][(digest,)])
        definition = compile_bundle(bundle.document)
        plan = state.plans[digest] = _plan_of(definition)
    return cast(Plan, plan)


def compiled(state: State, bundled: tuple[bytes, bytes]) -> Plan:
    """The plan of a bundle that no execution may have yet: (digest, text)."""
    digest, text = bundled
    if digest in state.plans:
        return cast(Plan, state.plans[digest])
    return _plan_of(compile_bundle(text))


def _plan_of(definition: CompiledDefinition) -> Plan:
    plan = make_plan(definition.nodes)
    return msgspec.structs.replace(plan, of=definition, tells=plan.tells or bool(definition.task_event))


def make_plan(nodes: dict[str, TaskNode]) -> Plan:
    joined_in: dict[tuple[str, int], list[Joined]] = {}
    joins_of: dict[str, list[str]] = {}
    exclusively: dict[str, list[str]] = {}
    followers = {node.next for node in nodes.values()}
    for node in nodes.values():
        if node.type == TaskType.JOIN:
            for reference in dict.fromkeys(node.join_on):
                joins_of.setdefault(reference, []).append(node.reference)
        if node.type == TaskType.EXCLUSIVE_JOIN:
            for reference in dict.fromkeys((*node.join_on, *node.instead)):
                exclusively.setdefault(reference, []).append(node.reference)
        if node.type != TaskType.FORK_JOIN or node.join is None:
            continue
        for reference in dict.fromkeys(nodes[node.join].join_on):
            for branch, inner in _branches_around(nodes, reference, node.reference):
                joined_in.setdefault(branch, []).append(Joined(reference, node.join, inner))
    return Plan(
        nodes=nodes,
        outermost=tuple(
            node.reference for node in nodes.values() if node.parent is None and node.reference not in followers
        ),
        joins_of={reference: tuple(joins) for reference, joins in joins_of.items()},
        exclusively={reference: tuple(joins) for reference, joins in exclusively.items()},
        undoes={node.reference: node.compensate_with for node in nodes.values() if node.compensate_with is not None},
        permissive=tuple(node.reference for node in nodes.values() if node.permissive and not node.optional),
        joined_in={key: tuple(references) for key, references in joined_in.items()},
        tells=any(
            one.announcements for node in nodes.values() for one in (node, node.compensate_with) if one is not None
        ),
    )


def _branches_around(nodes: dict[str, TaskNode], reference: str, fork: str) -> Iterator[tuple[tuple[str, int], str]]:
    """The branches in which the reference stands, up to that of the fork, each with the FORK_JOIN next inside of it."""
    node, inner = nodes[reference], ""
    while node.parent is not None and node.reference != fork:
        above = nodes[node.parent]
        if above.type == TaskType.FORK_JOIN:
            yield (above.reference, node.branch), inner
            inner = above.reference
        node = above


class TaskDocuments(Mapping[str, bytes]):
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
    """(digest, text) of the document with the task definitions, schemas and sub-workflows as they are registered now.

    Raises DefinitionError. What was made is remembered until any definition changes.
    """
    made = state.bundles_made.get((namespace, document))
    if made is None:
        if len(state.bundles_made) >= _BUNDLES_REMEMBERED:
            state.bundles_made.clear()

        def newest(name: str) -> int:
            return state.highest_version.get((namespace, name), [0])[-1]

        made = make_bundle(document, TaskDocuments(state, namespace), SchemaDocuments(state, namespace), newest)
        state.bundles_made[namespace, document] = made
    return made
