"""Long answers: other calls are served meanwhile, and what is answered is one state of the execution."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import grpc
import pytest

from orchestrator.engine.choices import DeleteEffects, TerminateCompensation
from orchestrator.engine.commands import DeleteWorkflow, TerminateWorkflow
from orchestrator.engine.execution_state import ExecutionState
from orchestrator.rpc import slices
from orchestrator.rpc.errors import RpcFailure
from orchestrator.rpc.slices import Slices, drawn
from tests.engine.driver import simple, workflow
from tests.rpc.bench import Bench

NAMES = [f"a{number}" for number in range(10)]


@pytest.fixture
def long(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """An execution of which tasks end one after the other; a slice is two of them."""
    monkeypatch.setattr(slices, "PIECES_MAX", 2)
    fork = {"name": "f", "taskReferenceName": "f", "type": "FORK_JOIN", "forkTasks": [[simple(name)] for name in NAMES]}
    join = {"name": "j", "taskReferenceName": "j", "type": "JOIN", "joinOn": NAMES}
    bench.driver.worker("s", *NAMES, slots=20)
    bench.driver.register(workflow("flow", fork, join))
    bench.driver.start("flow")
    return bench


def statuses(begun: Callable[[], None] = lambda: None) -> Callable[[ExecutionState], Slices[list[str]]]:
    def draw(held: ExecutionState) -> Slices[list[str]]:
        begun()
        found = []
        for name in NAMES:
            attempt = held.latest(name)
            assert attempt is not None
            found.append(attempt.status.name)
            yield 1
        return found

    return draw


async def turns(what: Callable[[], None], count: int) -> None:
    for _ in range(count):
        what()
        await asyncio.sleep(0)


async def test_the_loop_turns_between_slices(long: Bench) -> None:
    turned: list[int] = []
    other = asyncio.ensure_future(turns(lambda: turned.append(1), 100))
    assert await drawn(long.backend(), long.driver.hot(), statuses()) == ["IN_PROGRESS"] * 10
    assert 3 <= len(turned) <= 10
    await other


async def test_it_is_begun_again_when_the_execution_changes(long: Bench) -> None:
    names = iter(NAMES)
    begun: list[int] = []
    drawing = asyncio.ensure_future(
        drawn(long.backend(), long.driver.hot(), statuses(lambda: begun.append(1)))
    )
    await turns(lambda: None, 2)
    long.driver.give(next(names))
    assert await drawing == ["COMPLETED", *["IN_PROGRESS"] * 9]
    assert len(begun) == 2


async def test_of_what_never_rests_it_is_made_in_one_go(long: Bench) -> None:
    names = iter(NAMES)
    begun: list[int] = []
    backend, held = long.backend(), long.driver.hot()
    drawing = asyncio.ensure_future(drawn(backend, held, statuses(lambda: begun.append(1))))
    await turns(lambda: None if drawing.done() else long.driver.give(next(names)), 9)
    # One had ended before it was begun.
    assert (await drawing).count("COMPLETED") == slices.TRIES + 1
    assert len(begun) == slices.TRIES + 1


async def test_what_is_deleted_meanwhile_is_not_found(long: Bench) -> None:
    drawing = asyncio.ensure_future(drawn(long.backend(), long.driver.hot(), statuses()))
    await turns(lambda: None, 2)
    long.driver.ok(TerminateWorkflow("default", "w", "", TerminateCompensation.SKIP))
    long.driver.now_ms += 1
    long.driver.ok(DeleteWorkflow("default", "w", DeleteEffects.KEEP))
    with pytest.raises(RpcFailure) as failed:
        await drawing
    assert failed.value.code is grpc.StatusCode.NOT_FOUND
