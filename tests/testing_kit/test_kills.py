"""Every entry of a test's log is the last of its leader once, in two ways, and what the test then sees is told."""

from __future__ import annotations

import inspect
import time
import unittest
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator.testing import Cluster, NotRepeatable, Stuck, every_leader_kill, fail
from orchestrator.testing.kills import ONLY, Kill
from orchestrator_api.v1.common_pb2 import RequestIdentity
from orchestrator_client import Client, ClusterError, Run, TerminalError, Workflow, WorkflowFailed
from orchestrator_client.attempts import WorkerSession
from orchestrator_client.requests import Ticket
from tests.testing_kit.shop import ORDER, charge, reserve, saga, ship

runs: list[Cluster] = []


@pytest.fixture(autouse=True)
def no_runs_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    runs.clear()
    monkeypatch.delenv(ONLY, raising=False)


async def money_back(cluster: Cluster) -> None:
    runs.append(cluster)
    calls = cluster.serve(reserve, charge, fail(ship, TerminalError("NO_TRUCKS")))
    run = await cluster.client.start(saga, ORDER, id="order-1")
    with pytest.raises(WorkflowFailed) as failed:
        await run.result()
    assert failed.value.compensation.state == "COMPLETE"
    assert calls.effects == ["reserve", "charge", "refund", "release"]
    assert len({call.key for call in calls.all}) == len(calls.all) == 5


def failure_of(decorated: Callable[..., None], kind: type[BaseException] = AssertionError) -> tuple[BaseException, str]:
    """What it raises, and the note that says at which kill."""
    with pytest.raises(kind) as failed:
        decorated()
    return failed.value, "\n".join(getattr(failed.value, "__notes__", []))


# One run without a kill, then two for each of ten entries: session, definitions, worker, start and five results.
@pytest.mark.parametrize(("nodes", "entries"), [(3, 10), (1, 10)])
def test_a_saga_survives_every_kill_in_seconds(nodes: int, entries: int) -> None:
    real = time.process_time()
    every_leader_kill(nodes=nodes, seed=7)(money_back)()
    assert len(runs) == 1 + 2 * entries
    assert time.process_time() - real < 20


@every_leader_kill(seed=3)
async def test_an_outcome_that_is_due_in_days(cluster: Cluster) -> None:
    workflow = Workflow("later")
    workflow.wait(duration_ms=3 * 86_400_000)
    workflow.returns(tracking=workflow.step(ship, workflow.input.order, "r"))
    cluster.serve(ship)
    began = cluster.now
    run = await cluster.client.start(workflow, {"order": ORDER}, id="later")
    assert (await run.result()).tracking == "tracking 17"
    assert 3 * 86_400 <= (cluster.now - began).total_seconds() < 3 * 86_400 + 10


@pytest.mark.parametrize(("moment", "seen_before"), [("written", False), ("committed", True)])
def test_the_moment_is_what_it_says(moment: str, seen_before: bool) -> None:
    """What was written by the leader alone is lost; what was committed has happened, though nobody was told."""
    found: list[Any] = []

    async def test(cluster: Cluster) -> None:
        run = await cluster.client.start(saga, ORDER, id="order-1")
        await cluster.advance(seconds=5)
        leader = cluster._members[await cluster.elected()]
        assert leader.node is not None
        journal: Any = leader.node.log._core.journal
        found.append([journal.term_at(index) for index in range(1, leader.node.log.last_index + 1)])
        assert (await run.get()).status == "RUNNING"

    # Of its entries, the last one is the start.
    every_leader_kill(seed=1)(test)()
    without = found[0]
    found.clear()
    every_leader_kill(seed=1, only=f"4:{moment}")(test)()
    [terms] = found
    old, new = terms[0], terms[-1]
    assert old < new
    # The client's session, the tasks and the workflow are of the old term; the start is, or was said again.
    assert terms.count(old) == without.count(old) - (0 if seen_before else 1)


def test_the_message_names_the_entry_and_how_to_replay_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(cluster: Cluster) -> None:
        runs.append(cluster)
        leader = await cluster.elected()
        cluster.serve(reserve, charge, ship)
        await (await cluster.client.start(saga, ORDER, id="order-1")).result()
        assert cluster.leader == leader

    decorated = every_leader_kill(seed=7)(test)
    error, note = failure_of(decorated)
    assert "the leader, was killed when entry 1 of 8 (OpenClientSession)" in note
    assert f"to replay only this: {ONLY}=1:written (seed 7, 3 nodes)" in note
    assert len(runs) == 2
    monkeypatch.setenv(ONLY, "6:committed")
    runs.clear()
    error, note = failure_of(decorated)
    assert "(CompleteTask reserve of order-1 COMPLETED) was on a majority of disks, and nobody had been told" in note
    assert len(runs) == 1
    assert isinstance(error, AssertionError)
    monkeypatch.setenv(ONLY, "last")
    with pytest.raises(ValueError, match="such as '17:committed', not 'last'"):
        decorated()


def test_a_failure_without_a_kill_says_so() -> None:
    async def test(cluster: Cluster) -> None:
        await (await cluster.client.start(saga, ORDER, id="order-1")).result()

    error, note = failure_of(every_leader_kill()(test), Stuck)
    assert "none serves it" in str(error)
    assert note == "every_leader_kill: that was the run without a kill"


def test_a_sample_is_drawn_by_the_seed() -> None:
    async def test(cluster: Cluster) -> None:
        runs.append(cluster)
        cluster.serve(reserve, charge, ship)
        await (await cluster.client.start(saga, ORDER)).result()

    every_leader_kill(at_most=5)(test)()
    assert len(runs) == 6
    runs.clear()
    every_leader_kill(moments=["committed"])(test)()
    assert len(runs) == 9


def test_a_test_that_takes_another_way_each_time_is_told() -> None:
    starts = iter(range(100))

    async def test(cluster: Cluster) -> None:
        cluster.serve(reserve, charge, ship)
        await (await cluster.client.start(saga, ORDER, id=f"order-{next(starts)}")).result()

    error, _ = failure_of(every_leader_kill(moments=["committed"])(test), NotRepeatable)
    assert "StartWorkflow order-0) without a kill, and is (StartWorkflow order-" in str(error)
    with pytest.raises(NotRepeatable, match="entry 500 did not come in this run"):
        every_leader_kill(only="500:committed")(test)()


# -- mistakes that it finds ----------------------------------------------------------------------------------------


def test_it_finds_a_worker_that_says_its_results_once(monkeypatch: pytest.MonkeyPatch) -> None:
    welcomed = WorkerSession._welcomed

    def forgetful(self: WorkerSession, frame: Any) -> Any:
        events = welcomed(self, frame)
        self._results = {}
        return events

    monkeypatch.setattr(WorkerSession, "_welcomed", forgetful)
    error, note = failure_of(every_leader_kill(seed=7)(money_back), Stuck)
    assert "order-1 waits for 'reserve' (attempt 1 on worker-1)" in str(error)
    assert "(CompleteTask reserve of order-1 COMPLETED) was on its own disk and nowhere else" in note


def test_it_finds_a_client_whose_requests_take_effect_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(cluster: Cluster) -> None:
        await cluster.client.start(saga, ORDER)
        assert len([found async for found in cluster.client.search()]) == 1

    every_leader_kill(seed=7)(test)()

    def another_each_time(self: Ticket, request: RequestIdentity) -> None:
        self.sequence = self.ledger.begin(0.0)
        self.ledger.identify(request, self.sequence)

    monkeypatch.setattr(Ticket, "identify", another_each_time)
    _, note = failure_of(every_leader_kill(seed=7)(test))
    assert "(StartWorkflow order) was on a majority of disks, and nobody had been told" in note


@pytest.mark.parametrize("with_an_id", [False, True])
def test_it_finds_an_order_that_is_placed_twice(with_an_id: bool) -> None:
    """A user's own mistake: who is told that the outcome is not known starts again, as something else."""

    async def place_order(client: Client) -> Run:
        for timeout_s in (0.05, 60):
            try:
                if with_an_id:
                    return await client.start(saga, ORDER, id="17", if_exists="return", timeout_s=timeout_s)
                return await client.start(saga, ORDER, timeout_s=timeout_s)
            except ClusterError:
                continue
        raise AssertionError("a minute without a leader")

    async def test(cluster: Cluster) -> None:
        await cluster.client.register(saga)
        calls = cluster.serve(reserve, charge, ship)
        await (await place_order(cluster.client)).result()
        await cluster.advance(minutes=1)
        assert calls.effects == ["reserve", "charge", "ship"]

    decorated = every_leader_kill(seed=7)(test)
    if with_an_id:
        decorated()
    else:
        _, note = failure_of(decorated)
        assert "StartWorkflow order" in note
        assert f"{ONLY}=" in note


# -- as a decorator ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["one", "two"])
@every_leader_kill(at_most=1)
async def test_other_arguments_are_pytests(cluster: Cluster, word: str, request: pytest.FixtureRequest) -> None:
    assert word in request.node.name
    assert request.node.name.startswith("test_other_arguments")


class TestInAClass:
    @every_leader_kill(at_most=1)
    async def test_of_a_class(self, cluster: Cluster) -> None:
        assert isinstance(self, TestInAClass)
        assert cluster.leader


class TestOfUnittest(unittest.TestCase):
    @every_leader_kill(at_most=1)
    async def test_of_a_case(self, cluster: Cluster) -> None:
        assert cluster.leader in cluster.nodes


class TestOfUnittestThatIsAsync(unittest.IsolatedAsyncioTestCase):
    @every_leader_kill(at_most=1)
    async def test_of_an_async_case(self, cluster: Cluster) -> None:
        assert cluster.leader in cluster.nodes


def test_what_is_decorated_is_a_plain_test() -> None:
    decorated = every_leader_kill()(money_back)
    assert not inspect.iscoroutinefunction(decorated)
    assert not inspect.signature(decorated).parameters
    assert (decorated.__name__, decorated.__module__) == ("money_back", __name__)
    with pytest.raises(TypeError, match="must be an `async def`"):
        every_leader_kill()(lambda cluster: None)  # type: ignore[arg-type, return-value]  # that is the point

    async def none() -> None:
        """Takes no cluster."""

    with pytest.raises(TypeError, match="must take a parameter `cluster`"):
        every_leader_kill()(none)


def test_a_kill_is_written_and_read() -> None:
    assert str(Kill.parse("17:written")) == "17:written"
