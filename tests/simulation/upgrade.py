"""Two releases for a simulated cluster: one that knows behaviour level 1, and one that knows level 2 as well."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from msgspec import structs

from orchestrator.engine.commands import RaiseBehaviour, StartWorkflow
from orchestrator.engine.handlers import starting, system
from orchestrator.engine.results import AnyResult
from orchestrator.engine.step import Step
from orchestrator.replication.release import Release
from orchestrator_api.v1 import cluster_pb2 as pb
from orchestrator_client import errors
from orchestrator_client.client import Client
from tests.simulation.cluster import Member
from tests.simulation.failover import Callers, Drive, QuietCluster

OLD = Release("1.0.0", 1, 1)
NEW = Release("1.1.0", 1, 2)
# What executions have that are started at level 2; the others have 0.
PRIORITY = 7
CHECKPOINT_MS = 500
Handlers = dict[type, Callable[[Any, Any], AnyResult]]


def start_as_of_level_2(step: Step, command: StartWorkflow) -> AnyResult:
    """What the new release does otherwise, as it has to be written."""
    if step.level >= 2:
        command = structs.replace(command, priority=PRIORITY)
    return starting.start_workflow(step, command)


def start_without_asking(step: Step, command: StartWorkflow) -> AnyResult:
    """... and as it must not be."""
    return starting.start_workflow(step, structs.replace(command, priority=PRIORITY))


class Upgrade(Drive):
    """What an operator does, one node after the other, while callers call."""

    def __init__(self, cluster: QuietCluster, start: Callable[[Any, Any], AnyResult] = start_as_of_level_2) -> None:
        super().__init__(cluster)
        self.dice = cluster.dice("upgrade")
        # The entries that have raised the level, on whichever node.
        self.raised_at: set[int] = set()
        self.new_handlers: Handlers = {StartWorkflow: start, RaiseBehaviour: self._raise}
        for member in cluster.members.values():
            self.gets(member, OLD)
        self.callers: Callers = self.started()

    def _raise(self, step: Step, command: RaiseBehaviour) -> AnyResult:
        if command.level != step.level:
            self.raised_at.add(step.ids.index)
        return system.raise_behaviour(step, command)

    def gets(self, member: Member, release: Release) -> None:
        """From its next start on."""
        member.release = release
        member.handlers = self.new_handlers if release is NEW else {}

    def exchange(self, member: Member, release: Release) -> None:
        """Stopped in order or not, and started as this release, which catches up."""
        if self.dice.random() < 0.5:
            stopping = self.do(lambda: member.machine.spawn(member.stop(), "stops"))
            self.until(lambda: stopping.done() or not member.machine.running, f"{member.name} stops")
        else:
            self.do(member.machine.kill)
        self.advance(self.dice.uniform(0, 1.0))
        self.gets(member, release)
        self.do(member.start)
        self.until(lambda: self.cluster.ready, "all nodes serve")
        self.advance(self.dice.uniform(0.1, 0.6))

    def lead(self, wanted: Release) -> None:
        """A node of this release leads."""
        for _ in range(20):
            self.until(lambda: self.cluster.leading() is not None, "somebody leads")
            leader = self.cluster.leading()
            assert leader is not None
            if leader.release is wanted:
                return
            self.do(leader.machine.kill)
            self.until(lambda: self.cluster.leading(other_than=leader) is not None, "another one leads")  # noqa: B023 - run now
            self.do(leader.start)
            self.until(lambda: self.cluster.ready, "all nodes serve")
        raise AssertionError(f"no node of {wanted} ever leads")

    def in_order(self) -> list[Member]:
        members = list(self.cluster.members.values())
        self.dice.shuffle(members)
        return members

    def raise_level(self) -> pb.RaiseBehaviourResponse | errors.OrchestratorError:
        """What an operator is answered."""
        return self.asked(lambda node: node.cluster.RaiseBehaviour, pb.RaiseBehaviourRequest())

    def asked(self, method: Callable[[Any], Any], request: Any) -> Any:
        """The answer, or the error."""

        async def ask(client: Client) -> Any:
            try:
                return await client.connection.call(method, request)
            except errors.OrchestratorError as error:
                return error

        asked = self.do(lambda: self.callers.machine.spawn(ask(self.callers.client.result()), "asks"))
        self.until(asked.done, "an answer to the operator")
        return asked.result()

    def settled(self) -> None:
        """Callers are done, and all nodes have applied the same."""
        self.callers.stopped = True
        self.until(self.callers.life.done, "the callers are answered")
        members = self.cluster.members.values()

        def same() -> bool:
            nodes = [member.node for member in members if member.node is not None]
            return len(nodes) == len(members) and len({node._applier.applied_index for node in nodes}) == 1

        self.until(same, "all nodes have applied the same")

    def priorities(self) -> dict[str, dict[str, int]]:
        """Of every execution that was acknowledged, by node."""

        async def look(member: Member) -> dict[str, int]:
            assert member.node is not None
            backend, found = member.node.backend, {}
            for workflow_id in self.callers.acknowledged:
                execution = await backend.execution("default", workflow_id)
                assert execution is not None, f"{member.name} has lost {workflow_id}"
                found[workflow_id] = execution.execution.priority
            return found

        answers = {}
        for name, member in self.cluster.members.items():
            looking = self.do(lambda member=member: member.machine.spawn(look(member), "looks"))  # type: ignore[misc]  # run now
            self.until(looking.done, f"{name} is looked at")
            answers[name] = looking.result()
        return answers


def levels(cluster: QuietCluster) -> set[int]:
    """Of all nodes that serve."""
    nodes = [member.node for member in cluster.members.values()]
    return {node._machine().state.meta.behaviour_level for node in nodes if node is not None}


def of_two_releases(seed: int, scratch: Path, **settings: int) -> QuietCluster:
    """One whose nodes compare what they hold all the time."""
    cluster = QuietCluster(seed, 3, scratch, verbose=False)
    for member in cluster.members.values():
        changed: dict[str, Any] = {"checkpoint_interval_ms": CHECKPOINT_MS} | settings
        member.config = dataclasses.replace(member.config, **changed)
    return cluster
