"""What three real nodes, in virtual time, tell of what they have done: on the page that Prometheus reads."""

from __future__ import annotations

from orchestrator.testing import Cluster
from orchestrator.testing.plugin import cluster
from tests.telemetry.prometheus import Promtool, samples
from tests.testing_kit.shop import ORDER, charge, reserve, saga, ship

__all__ = ["cluster"]  # the fixture


def pages(cluster: Cluster) -> dict[str, bytes]:
    nodes = {name: member.node for name, member in cluster._members.items()}
    return {name: node.metrics.page()[0] for name, node in nodes.items() if node is not None}


async def test_what_happens_once_is_counted_by_the_leader_and_the_rest_by_every_node(cluster: Cluster) -> None:
    cluster.serve(reserve, charge, ship)
    for number in range(3):
        await (await cluster.client.start(saga, ORDER, id=f"order-{number}")).result()
    leader = await cluster.elected()
    await cluster.advance(seconds=2)  # the followers have applied everything
    found = {name: samples(page) for name, page in pages(cluster).items()}
    for name, values in found.items():
        leads = name == leader
        assert values["orchestrator_is_leader"] == leads
        assert values["orchestrator_voters"] == 3 and values["orchestrator_term"] > 0
        assert values["orchestrator_live_workflows"] == 0 and values["orchestrator_fsync_seconds_count"] > 0
        assert values["orchestrator_apply_seconds_count"] > 0
        assert values["orchestrator_workflows_started_total"] == (3 if leads else 0)
        ended = values.get("orchestrator_workflows_ended_total{status=COMPLETED,workflow=order}")
        assert ended == (3 if leads else None)
        ended = values.get("orchestrator_task_attempts_ended_total{status=COMPLETED,task=charge}")
        assert ended == (3 if leads else None)
        assert values["orchestrator_schedule_to_start_seconds_count"] == (9 if leads else 0)
        assert values.get("orchestrator_compensating_workflows") == (0 if leads else None)
        assert len([one for one in values if one.startswith("orchestrator_follower_lag")]) == (2 if leads else 0)
        assert values["orchestrator_disk_free_limit_bytes"] > 0


async def test_promtool_takes_the_page_of_a_node_that_works(cluster: Cluster, promtool: Promtool) -> None:
    cluster.serve(reserve, charge, ship)
    await (await cluster.client.start(saga, ORDER)).result()
    for page in pages(cluster).values():
        promtool("check", "metrics", given=page)
