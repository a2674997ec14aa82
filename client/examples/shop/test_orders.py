"""Does the money come back, whatever happens? Virtual time, in-process: a few seconds for all of it.

    pip install pytest, and then, in this folder:  python -m pytest test_orders.py
"""

from __future__ import annotations

import pytest
from orders import Order, carrier, charge, order_saga, psp, refund, reserve, ship, warehouse

from orchestrator.testing import Cluster, crash, every_leader_kill, fail, late
from orchestrator_client import TerminalError, WorkflowFailed

ORDER = Order("1", "chair", 2, 12_000)


@every_leader_kill(nodes=3, seed=7)  # reruns the test, killing the leader at each log entry in turn
async def test_no_trucks_means_money_back(cluster: Cluster) -> None:
    calls = cluster.serve(reserve, charge, fail(ship, TerminalError("NO_TRUCKS")))
    run = await cluster.client.start(order_saga, ORDER, id="order-1")
    with pytest.raises(WorkflowFailed) as failed:
        await run.result()
    assert failed.value.compensation.state == "COMPLETE"
    assert calls.effects == ["reserve", "charge", "refund", "release"]  # distinct idempotency keys
    assert not psp.charged and not warehouse.taken


@every_leader_kill(nodes=3, seed=7)
async def test_an_order_is_shipped_and_paid_once(cluster: Cluster) -> None:
    psp.charged.clear()  # it is the same service in each of the runs
    carrier.sent.clear()
    cluster.serve(reserve, charge, ship)
    run = await cluster.client.start(order_saga, ORDER, id="order-1")
    assert (await run.result()).tracking == "parcel of 1"
    assert list(psp.charged.values()) == [12_000]
    assert len(carrier.sent) == 1


async def test_a_bank_that_answers_too_late_is_undone(cluster: Cluster) -> None:
    calls = cluster.serve(reserve, late(charge, seconds=60), ship)
    run = await cluster.client.start(order_saga, ORDER)
    with pytest.raises(WorkflowFailed) as failed:
        await run.result()
    assert failed.value.compensation.done[0].outcome_unknown
    assert calls.effects == ["reserve", "charge", "refund", "release"]
    assert len(calls.of(charge)) == 5


async def test_a_worker_that_dies_after_charging_charges_once(cluster: Cluster) -> None:
    psp.charged.clear()
    calls = cluster.serve(reserve, crash(charge, after_effect=True), ship)
    await (await cluster.client.start(order_saga, ORDER)).result()
    assert [call.attempt for call in calls.of(charge)] == [1, 2]
    assert list(psp.charged.values()) == [12_000]


async def test_a_declined_card_is_no_reason_to_try_again(cluster: Cluster) -> None:
    calls = cluster.serve(reserve, charge, ship)
    run = await cluster.client.start(order_saga, Order("2", "car", 1, 2_000_000))
    with pytest.raises(WorkflowFailed, match="CARD_DECLINED: over the limit"):
        await run.result()
    assert [call.name for call in calls.all] == ["reserve", "charge", "release"]
    assert not calls.of(refund)
