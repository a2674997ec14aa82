"""System work on three real nodes in virtual time: whatever happens to a node, work is done once by whoever lives."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

import pytest

from orchestrator.engine.model import SessionKind
from orchestrator.integrations.executors import ExecutorFactory
from orchestrator.integrations.work import Ended, Executor, Kind, Outcome, Work
from orchestrator.testing.machine import Machine
from orchestrator_client.client import Client
from orchestrator_client.execution import Execution, WorkflowStatus
from tests.simulation.cluster import Member
from tests.simulation.failover import Drive, QuietCluster
from tests.simulation.outside import Outside
from tests.simulation.people import Person, Space
from tests.simulation.run import Trouble, repeatable, run_seed, simulating

CALL = {
    "name": "calls", "version": 1, "schemaVersion": 2, "timeoutSeconds": 0,
    "tasks": [{
        "name": "call", "taskReferenceName": "call", "type": "HTTP",
        "inputParameters": {"uri": "http://there"},
        "taskDefinition": {"name": "call", "retryCount": 1, "retryDelaySeconds": 0},
    }],
}
SCRIPT = {
    "name": "scripts", "version": 1, "schemaVersion": 2,
    "tasks": [{
        "name": "script", "taskReferenceName": "script", "type": "INLINE",
        "inputParameters": {"evaluatorType": "javascript", "expression": "1 + 1"},
    }],
}
# For as long as a call takes; far longer than an election, and than a session outlives its node.
SLOW_SECONDS = 60.0


class Calls:
    """The world's end of all calls: who made which, and which were cut off."""

    def __init__(self, cluster: QuietCluster) -> None:
        self.cluster = cluster
        self.made: list[tuple[str, str]] = []  # (workflow id, node)
        self.cancelled: list[tuple[str, str]] = []

    def executor(self, machine: Machine) -> Executor:
        return Caller(self, machine)

    def node_of(self, workflow_id: str) -> Member | None:
        """Who makes the call now."""
        found = [node for made, node in self.made if made == workflow_id]
        return self.cluster.members[found[-1]] if found else None


class Caller:
    """The executor of one node."""

    def __init__(self, calls: Calls, machine: Machine) -> None:
        self.calls = calls
        self.machine = machine

    async def execute(self, work: Work) -> Outcome:
        call = (work.workflow_id, self.machine.name)
        self.calls.made.append(call)
        try:
            await asyncio.sleep(SLOW_SECONDS)
        except asyncio.CancelledError:
            self.calls.cancelled.append(call)
            raise
        return Outcome(ended=Ended.COMPLETED, output=f'{{"by":"{self.machine.name}"}}'.encode())

    async def close(self) -> None:
        pass


class Evaluator:
    """Has the result at once."""

    async def execute(self, work: Work) -> Outcome:
        return Outcome(ended=Ended.COMPLETED, output=b'{"result":2}')

    async def close(self) -> None:
        pass


class Evaluating(Person):
    """Runs one workflow of a script."""

    def __init__(self, cluster: QuietCluster) -> None:
        self.ended: Execution | None = None
        super().__init__(cluster, "evaluating", Space("default", [SCRIPT], ["scripts"]))

    async def live(self) -> None:
        client: Client = await self.client
        await client.register(SCRIPT, overwrite=True)
        self.ended = await (await client.start("scripts", {}, register=False)).wait()


class Starter(Person):
    """Starts workflows of one call each, and sees how they end."""

    patience_seconds = 60.0

    def __init__(self, cluster: QuietCluster) -> None:
        self.ended: dict[str, Execution] = {}
        super().__init__(cluster, "starter", Space("default", [CALL], ["calls"]))

    async def live(self) -> None:
        client: Client = await self.client
        await client.register(CALL, overwrite=True)
        await asyncio.gather(*(self._call(client, f"w{number}") for number in range(6)))

    async def _call(self, client: Client, workflow_id: str) -> None:
        run = await client.start("calls", {}, id=workflow_id, register=False)
        self.ended[workflow_id] = await run.wait(tasks=True)


class World(Drive):
    """A cluster in which six calls are being made."""

    def __init__(self, cluster: QuietCluster, call_slots: int) -> None:
        super().__init__(cluster)
        self.calls = Calls(cluster)
        for member in cluster.members.values():
            member.config = replace(member.config, call_slots=call_slots)
            member.machine.executors = self._executors(member.machine)

    def _executors(self, machine: Machine) -> ExecutorFactory:
        return lambda config, surroundings: {Kind.HTTP: self.calls.executor(machine), Kind.SCRIPT: Evaluator()}

    def begin(self) -> None:
        cluster = self.cluster
        self.do(lambda: [member.start() for member in cluster.members.values()])
        self.until(lambda: cluster.ready, "the cluster forms")
        self.until(lambda: len(self.sessions()) == 6, "every node opens its sessions")
        self.starter: Starter = self.do(lambda: Starter(cluster))
        self.until(lambda: len(self.calls.made) == 6, "every call is made")
        assert sorted(node for _, node in self.calls.made) == ["n1", "n1", "n2", "n2", "n3", "n3"]

    def end(self) -> None:
        self.until_ended()
        assert self.cluster.watcher.violations == []
        assert {one.status for one in self.starter.ended.values()} == {WorkflowStatus.COMPLETED}

    def until_ended(self) -> None:
        for _ in range(10):
            if len(self.starter.ended) == 6 or self.cluster.watcher.violations:
                return
            self.advance(SLOW_SECONDS / 2)
        raise AssertionError(f"only {sorted(self.starter.ended)} have ended")

    def sessions(self) -> list[str]:
        leader = self.cluster.leading()
        if leader is None or leader.node is None:
            return []
        found = leader.node._machine().state.sessions.values()
        return sorted(one.worker_id for one in found if one.kind is SessionKind.STREAM)

    def leader(self) -> Member:
        leader = self.cluster.leading()
        assert leader is not None
        return leader

    def calls_by(self, member: Member) -> list[str]:
        return sorted(workflow_id for workflow_id, node in self.calls.made if node == member.name)


Story = Callable[[World], None]


def on_three_nodes(story: Story, *, call_slots: int = 64) -> Any:
    """A test of the story for each of some seeds."""

    def test(seed: int) -> None:
        # Nothing of the cluster is held when it is cleaned up.
        with simulating(verbose=False) as scratch:
            tell(story, QuietCluster(seed, 3, scratch, verbose=False), call_slots)

    test.__name__, test.__doc__ = story.__name__, story.__doc__
    return pytest.mark.parametrize("seed", range(3))(test)


def tell(story: Story, cluster: QuietCluster, call_slots: int) -> None:
    with repeatable(cluster):
        world = World(cluster, call_slots)
        world.begin()
        story(world)


@on_three_nodes
def test_calls_are_made_once_while_leaders_change(world: World) -> None:
    """The leader is cut off, another one leads, twice: nobody's call is cut off or made again."""
    for _ in range(2):
        leader = world.leader()
        world.cluster.network.block([
            pair for other in world.cluster.members if other != leader.name
            for pair in ((leader.name, other), (other, leader.name))
        ])
        world.until(lambda gone=leader: world.cluster.leading(other_than=gone) is not None, "another node leads")
        world.advance(1.0)
        world.cluster.network.heal()
        world.until(lambda: world.cluster.ready, "all nodes serve")
    world.end()
    assert len(world.calls.made) == 6
    assert world.calls.cancelled == []


@on_three_nodes
def test_only_what_the_dead_leader_did_itself_is_done_again(world: World) -> None:
    """The others' calls go on: each is made exactly once."""
    leader = world.leader()
    lost = world.calls_by(leader)
    leader.machine.kill()
    world.until(lambda: world.cluster.leading(other_than=leader) is not None, "another node leads")
    world.end()
    assert world.calls.cancelled == []
    again = [workflow_id for workflow_id, _ in world.calls.made[6:]]
    assert sorted(again) == lost
    for workflow_id, execution in world.starter.ended.items():
        first, *more = execution.tasks
        assert [one.error_code for one in execution.tasks] == (["WORKER_LOST", ""] if workflow_id in lost else [""])
        assert all(one.fencing_token > first.fencing_token for one in more)
        assert {one.attempt for one in execution.tasks} == {1}


@on_three_nodes
def test_a_dead_nodes_work_waits_for_its_session_to_end(world: World) -> None:
    """It may only seem dead: nobody else begins before the leader has given it up."""
    follower = next(one for one in world.cluster.members.values() if one is not world.leader())
    lost = world.calls_by(follower)
    follower.machine.kill()
    world.advance(5.0)
    assert len(world.calls.made) == 6
    world.until(lambda: len(world.calls.made) == 6 + len(lost), "the work is handed out again")
    assert {node for workflow_id, node in world.calls.made[6:]} <= set(world.cluster.members) - {follower.name}
    follower.start()
    world.end()


@partial(on_three_nodes, call_slots=2)
def test_scripts_do_not_wait_for_slow_calls(world: World) -> None:
    """Though no node could make one more call."""
    evaluating: Evaluating = world.do(lambda: Evaluating(world.cluster))
    world.until(lambda: evaluating.ended is not None, "the script to be evaluated")
    assert evaluating.ended is not None and evaluating.ended.status is WorkflowStatus.COMPLETED
    assert world.starter.ended == {}
    world.end()


@on_three_nodes
def test_a_node_that_is_told_to_stop_hands_its_work_on(world: World) -> None:
    """At once, not when its session would have ended; by then it has stopped it."""
    leader = world.leader()
    lost = world.calls_by(leader)
    stopping = world.do(lambda: leader.machine.spawn(leader.node.stop(), "stop"))  # type: ignore[union-attr]  # it serves
    world.until(lambda: len(world.calls.made) == 6 + len(lost), "the work is handed out again")
    assert sorted(workflow_id for workflow_id, _ in world.calls.cancelled) == lost
    world.until(stopping.done, "the node stops")
    leader.machine.kill()
    world.end()
    assert len(world.calls.made) == 6 + len(lost)


@pytest.mark.parametrize("seed", range(20, 40))
def test_calls_come_to_an_end_whatever_happens(seed: int) -> None:
    """With all the faults of a seed; no node executes what another one has been handed."""
    result = run_seed(seed, Trouble(3.0), calls=True)
    replay = f"python -m tests.simulation --seed {seed} --trouble 3 --calls"
    assert not result.violations, "\n".join([*result.violations[:5], f"replay: {replay}"])


def test_nodes_are_given_calls_to_make() -> None:
    """And they are part of the story that a seed decides."""
    first, second = (run_seed(21, Trouble(3.0), calls=True) for _ in range(2))
    assert first.calls > 10
    assert first.trace_hash == second.trace_hash


def test_the_same_work_on_two_nodes_is_noticed() -> None:
    said: list[str] = []
    outside = Outside(Random(0), lambda who, what: None, said.append)
    work = Work(
        kind=Kind.HTTP, namespace="default", workflow_id="w", task_id="t", name="n", reference="r", input=b"{}",
        parameters=b"{}", idempotency_key="k", fencing_token=7,
    )
    outside.called(work, "n1#1")
    outside.called(work, "n1#1")
    assert said == []
    outside.called(work, "n1#2")
    assert said == ["the call for t under 7 is made by n1#1 and by n1#2"]
