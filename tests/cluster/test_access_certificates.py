"""Access rules for certificates on real nodes, which know each other by theirs: no token or secret is shown."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from orchestrator.cli.local_cluster import LocalCluster
from orchestrator.tls.authority import Authority
from orchestrator_client import Client, PermissionDenied, Unauthenticated
from tests.cluster.ledger import Ledger
from tests.cluster.test_tls import NODES, SCRIPT, client_files, settings
from tests.cluster.workload import PATIENCE_S, Number, arithmetic, expected_total, within, working
from tests.tls import making

NAMES = (*NODES, "looks", "owner", "app", "worker")
RULES = "".join(f'[[certificate]]\ncommon_name = "{name}"\n' for name in NAMES) + """
[[grant]]
to = ["a", "b", "c"]
role = "node"
[[grant]]
to = ["looks"]
role = "reader"
namespaces = ["none"]
[[grant]]
to = ["owner"]
role = "admin"
namespaces = ["*"]
[[grant]]
to = ["app"]
role = "starter"
namespaces = ["default"]
workflows = ["arithmetic", "scripted"]
[[grant]]
to = ["worker"]
role = "worker"
namespaces = ["default"]
tasks = ["*"]
"""


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return making.authority(tmp_path)


@pytest.fixture
async def cluster(tmp_path: Path, authority: Authority) -> AsyncIterator[LocalCluster]:
    (tmp_path / "access.toml").write_text(RULES)
    made = LocalCluster(tmp_path / "nodes", tls=client_files(authority, "looks"))
    made.own_settings = {
        name: {**settings(authority, making.node(authority, name)), "access_file": str(tmp_path / "access.toml")}
        for name in NODES
    }
    async with made:
        yield made


async def test_everybody_is_who_the_certificate_says_also_after_the_leader_has_died(
    cluster: LocalCluster, authority: Authority, ledger: Ledger
) -> None:
    def who(name: str) -> Client:
        return Client(cluster.endpoints, tls=client_files(authority, name))

    flow, tasks = arithmetic(ledger)
    async with who("owner") as owner, who("app") as app, who("worker") as worker, who("stranger") as stranger:
        await owner.register(flow, SCRIPT)
        async with working(worker, tasks):
            for x in range(4):
                if x == 2:
                    leader = await cluster.wait_leader()
                    await cluster.kill_node(leader)
                run = await app.start(flow, Number(x))
                scripted = await app.start("scripted", {"x": x})
                result = await within(run.result(PATIENCE_S), "the result")
                assert result.total == expected_total(x)["total"]
                assert (await within(scripted.result(PATIENCE_S), "the script's result"))["twice"] == 2 * x
                with pytest.raises(PermissionDenied):
                    await worker.start(flow, Number(x))
                with pytest.raises(PermissionDenied):
                    await app.terminate(run.workflow_id)
                with pytest.raises(Unauthenticated):
                    await stranger.start(flow, Number(x))
