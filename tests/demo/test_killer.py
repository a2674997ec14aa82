"""The leader is killed at moments that the seed decides, and only while enough orders are in flight."""

import asyncio

import killer
import pytest
from clock import Stopwatch
from killer import IN_FLIGHT_MIN, Killer
from scoreboard import Scoreboard


class FakeCluster:
    """Two nodes that lead in turn."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.leader = "a"

    async def wait_leader(self) -> str:
        return self.leader

    async def wait_ready(self) -> str:
        self.calls.append("ready")
        return self.leader

    async def kill_node(self, name: str) -> None:
        self.calls.append(f"kill {name}")
        self.leader = "b" if name == "a" else "a"

    def start_node(self, name: str) -> None:
        self.calls.append(f"start {name}")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(killer, "DOWN_S", (0.0, 0.0))
    monkeypatch.setattr(killer, "POLL_S", 0.0)


async def turns(count: int = 20) -> None:
    """Lets the killer look around that many times."""
    for _ in range(count):
        await asyncio.sleep(0)


def acknowledge(board: Scoreboard, count: int) -> None:
    for _ in range(count):
        board.acknowledged(1.0, "client-1")


def finish(board: Scoreboard, count: int) -> None:
    for _ in range(count):
        board.finished(shipped=True)


async def test_each_kill_waits_for_its_moment_and_the_node_comes_back() -> None:
    cluster, board = FakeCluster(), Scoreboard(orders=100, seed=3)
    job = asyncio.create_task(Killer(cluster, 2, board, Stopwatch()).kill_now_and_then())
    acknowledge(board, IN_FLIGHT_MIN + 2)
    await turns()
    assert cluster.calls == []
    acknowledge(board, 50 - board.acknowledged_count)
    await turns()
    assert cluster.calls == ["kill a", "start a", "ready"]
    acknowledge(board, 50)
    await job
    assert cluster.calls[3:] == ["kill b", "start b", "ready"]
    assert [kill.node for kill in board.kills] == ["a", "b"]


async def test_nobody_is_killed_while_too_little_is_in_flight() -> None:
    cluster, board = FakeCluster(), Scoreboard(orders=100, seed=3)
    job = asyncio.create_task(Killer(cluster, 1, board, Stopwatch()).kill_now_and_then())
    acknowledge(board, 90)
    finish(board, 81)
    await turns()
    assert cluster.calls == []
    acknowledge(board, 1)
    await job
    assert cluster.calls[0] == "kill a"


async def test_when_the_orders_are_over_it_gives_up() -> None:
    cluster, board = FakeCluster(), Scoreboard(orders=20, seed=3)
    job = asyncio.create_task(Killer(cluster, 1, board, Stopwatch()).kill_now_and_then())
    acknowledge(board, 20)
    finish(board, 11)
    await job
    assert board.kills == []


@pytest.mark.parametrize("orders", [30, 300])
def test_the_seed_decides_the_moments(orders: int) -> None:
    def moments(seed: int, kills: int = 2) -> list[int]:
        return Killer(FakeCluster(), kills, Scoreboard(orders, seed), Stopwatch())._moments

    assert moments(1) == moments(1) != moments(2)
    for seed in range(50):
        first, second = moments(seed)
        assert orders / 8 - 1 <= first <= orders * 3 / 8 + 1
        assert orders * 5 / 8 - 1 <= second <= orders * 7 / 8 + 1
