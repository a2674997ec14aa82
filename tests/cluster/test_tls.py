"""Three nodes with TLS on every port: work goes on while certificates are replaced and the old ones end."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator.cli.app import cli
from orchestrator.cli.local_cluster import LocalCluster
from orchestrator.tls.authority import Authority, Made
from orchestrator_api.v1 import cluster_pb2
from orchestrator_client import TLS, Client, NoLeader
from tests.cluster.ledger import Ledger
from tests.cluster.nodes import metric
from tests.cluster.workload import PATIENCE_S, Number, arithmetic, eventually, expected_total, working
from tests.tls import making

NODES = ("a", "b", "c")
Sign = Callable[[Authority, str], Made]
# The first certificates are good for so long: for starting the nodes and some work, on a machine that is busy.
FIRST_SECONDS = 30
# A script is work of the nodes: whoever executes it calls the leader's gRPC port.
SCRIPT = {"name": "scripted", "version": 1, "outputParameters": {"twice": "${s.output.result}"}, "tasks": [
    {"name": "s", "taskReferenceName": "s", "type": "INLINE",
     "inputParameters": {"evaluatorType": "javascript", "expression": "$.x * 2", "x": "${workflow.input.x}"}}]}


def settings(by: Authority, made: Made) -> Mapping[str, str]:
    files = {"certificate": made.certificate_file, "key": made.key_file, "authority": by.file}
    return {f"{port}_tls_{what}": str(file) for port in ("peer", "grpc") for what, file in files.items()} | {
        "grpc_tls_client_authority": str(by.file)}


def short_lived(by: Authority, name: str) -> Made:
    began = making.now() - datetime.timedelta(days=1, seconds=-FIRST_SECONDS)
    return by.sign_node(name, [making.HOST], began, 1)


def client_files(by: Authority, name: str) -> TLS:
    made = making.client(by, name)
    return TLS(by.file, made.certificate_file, made.key_file)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return making.authority(tmp_path)


@pytest.fixture
def sign() -> Sign:
    """Makes the nodes' first certificates."""
    return making.node


@pytest.fixture
async def cluster(tmp_path: Path, authority: Authority, sign: Sign) -> AsyncIterator[LocalCluster]:
    made = LocalCluster(tmp_path / "nodes", tls=client_files(authority, "looks"))
    made.own_settings = {name: settings(authority, sign(authority, name)) for name in NODES}
    async with made:
        yield made


class Work:
    """Workflows one after the other, of workers' and of nodes' tasks; each must end well."""

    def __init__(self, client: Client, ledger: Ledger) -> None:
        self._client = client
        self._flow, self.tasks = arithmetic(ledger)
        self._started = 0

    async def some(self) -> None:
        for _ in range(5):
            self._started += 1
            x = self._started
            run = await self._client.start(self._flow, Number(x), id=f"work-{x}")
            scripted = await self._client.start("scripted", {"x": x}, id=f"script-{x}", register=False)
            assert (await run.result(PATIENCE_S)).total == expected_total(x)["total"]
            assert (await scripted.result(PATIENCE_S)).twice == 2 * x


async def restart(cluster: LocalCluster, name: str) -> None:
    await cluster.kill_node(name)
    cluster.start_node(name)
    await cluster.wait_ready()


async def lead(cluster: LocalCluster, client: Client, name: str) -> None:
    async def leads() -> bool:
        if await cluster.leader() != name:
            request = cluster_pb2.TransferLeadershipRequest(node=name)
            await client.connection.call(lambda node: node.cluster.TransferLeadership, request)
        return await cluster.leader() == name

    await eventually(leads, f"{name} to lead")


async def all_execute(cluster: LocalCluster, work: Work) -> None:
    """Each node does work of the nodes: so it has reached the leader, and shown what it believes."""
    before = {name: await metric(node, "orchestrator_system_work_ended_total") for name, node in cluster.nodes.items()}

    async def executed() -> bool:
        await work.some()
        now = {name: await metric(node, "orchestrator_system_work_ended_total") for name, node in cluster.nodes.items()}
        return all(now[name] > before[name] for name in NODES)

    await eventually(executed, "each node to execute scripts")


async def all_taken(cluster: LocalCluster) -> bool:
    """Whether each node has taken both of its new certificates."""
    name, taken = "orchestrator_certificate_reloads_total", 'outcome="taken"'
    read = [metric(node, name, taken) for node in cluster.nodes.values()]
    return all(count >= 2 for count in await asyncio.gather(*read))


@pytest.mark.long
@pytest.mark.parametrize("sign", [short_lived])
async def test_certificates_are_replaced_while_work_goes_on_and_the_old_ones_end(
    cluster: LocalCluster, authority: Authority, ledger: Ledger
) -> None:
    ends = max(making.kept(authority, name).ends for name in NODES)
    async with Client(cluster.endpoints, tls=client_files(authority, "worker")) as client:
        work = Work(client, ledger)
        await client.register(SCRIPT)
        async with working(client, work.tasks):
            await work.some()
            assert making.now() < ends, "the machine is too slow for certificates as short as these"
            for name in NODES:
                authority.renew(name, making.now(), 30)
            await eventually(lambda: all_taken(cluster), "the nodes to take the new certificates")
            await eventually(lambda: making.now() > ends, "the old certificates to end")
            await work.some()
            # The others have called this leader before, with what has ended since, and call it again.
            leader = await cluster.wait_leader()
            await restart(cluster, leader)
            await lead(cluster, client, leader)
            await all_execute(cluster, work)
            for name in NODES:
                if name != leader:
                    await restart(cluster, name)
                    await all_execute(cluster, work)


async def test_who_has_no_certificate_of_the_authority_gets_no_answer_and_is_told_why(
    cluster: LocalCluster, authority: Authority, tmp_path: Path
) -> None:
    foreign = making.authority(tmp_path, "foreign")
    stranger = making.client(foreign, "stranger")
    for tls, words in (
        (None, "speaks TLS, and this client does not"),
        (TLS(authority.file), "asks for a certificate of the client"),
        (TLS(authority.file, stranger.certificate_file, stranger.key_file), "does not accept the client's certificate"),
        (TLS(foreign.file, stranger.certificate_file, stranger.key_file), "is not believed"),
    ):
        async with Client(cluster.endpoints, tls=tls, deadline_s=2) as client:
            with pytest.raises(NoLeader, match=words):
                await client.status()
    ops = making.client(authority, "ops")
    flags = ["--tls-authority", authority.file, "--tls-certificate", ops.certificate_file, "--tls-key", ops.key_file]
    asked = ["--endpoint", ",".join(cluster.endpoints), "cluster", "status"]
    for given, code in ((flags, 0), ([], 5)):
        result = await asyncio.to_thread(CliRunner().invoke, cli, [*map(str, given), *asked])
        assert result.exit_code == code, result.output
        assert given or "speaks TLS, and this client does not" in result.output


async def test_a_node_with_the_certificate_of_another_is_refused(
    cluster: LocalCluster, authority: Authority, ledger: Ledger
) -> None:
    """All are on one host, for which the certificate is good, too: the name makes the difference."""
    leader = await cluster.wait_leader()
    impostor, other = (name for name in NODES if name != leader)
    own = cluster.own_settings[impostor]
    async with Client(cluster.endpoints, tls=client_files(authority, "worker")) as client:
        work = Work(client, ledger)
        await client.register(SCRIPT)
        async with working(client, work.tasks):
            await cluster.stop_node(impostor)
            cluster.own_settings[impostor] = cluster.own_settings[other]
            cluster.prepare()
            cluster.start_node(impostor)

            async def refused() -> bool:
                return "claims to be node" in cluster.nodes[leader].log_tail(1_000)

            await eventually(refused, "the leader to refuse it")
            await work.some()
            seen = await cluster.status(impostor)
            assert seen is not None and not seen.leader
            await cluster.stop_node(impostor)
            cluster.own_settings[impostor] = own
            cluster.prepare()
            cluster.start_node(impostor)
            await cluster.wait_ready()
            await work.some()
