"""Values of runtimeMetadata on a cluster: they come from the node that leads, and stay nowhere."""

from __future__ import annotations

from orchestrator.testing import Cluster
from orchestrator_client import Retry, TaskContext, Workflow, task

SEEN: list[dict[str, str]] = []


@task(runtime_metadata=["KEY", "MISSING"], retry=Retry.exponential(first_ms=20_000, attempts=3))
async def pay(order: str, ctx: TaskContext) -> str:
    SEEN.append(dict(ctx.runtime_metadata))
    if len(SEEN) == 1:
        raise OSError("the bank is down")
    return f"paid {order}"


flow = Workflow("paying", input=dict[str, str])
receipt = flow.step(pay, flow.input["order"])
flow.returns(receipt=receipt)


async def test_the_leader_gives_its_own_values_and_keeps_none(cluster: Cluster) -> None:
    SEEN.clear()
    for node in cluster.nodes:
        cluster.environment(node)["CONDUCTOR_ENV_KEY"] = f"secret-of-{node}"
        cluster.environment(node)["MISSING"] = "secret-without-the-prefix"
    cluster.serve(pay)
    first = await cluster.elected()
    run = await cluster.client.start(flow, {"order": "order-seventeen"}, id="w")
    await cluster.advance(seconds=10)
    assert [{"KEY": f"secret-of-{first}"}] == SEEN
    cluster.kill_leader()
    second = await cluster.elected()
    assert (await run.result()).receipt == "paid order-seventeen"
    assert second != first
    assert [{"KEY": f"secret-of-{first}"}, {"KEY": f"secret-of-{second}"}] == SEEN
    # What everybody may read, and what is written: journals, database and snapshots of all nodes.
    shown = f"{await cluster.client.get('w', tasks=True)!r} {await cluster.client.conductor.get('w')!r}"
    await cluster.advance(seconds=5)
    disks = [cluster._machine(node).disk for node in cluster.nodes]
    written = b"".join(disk.contents(path) or b"" for disk in disks for path in disk.files(""))
    assert "order-seventeen" in shown and b"order-seventeen" in written
    assert "secret-" not in shown and b"secret-" not in written
    for text, expected in (("order-seventeen", 1), ("secret-of", 0), (f"secret-of-{first}", 0), ("secret-without", 0)):
        client = cluster.client
        assert len([found async for found in client.search(free_text=text)]) == expected
        assert bool([found async for found in client.search_tasks(free_text=text)]) == bool(expected)
