"""Nodes that speak TLS: everything works as without, and who has no certificate of their authority is nobody."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from orchestrator.cli.app import cli
from orchestrator.cli.local_cluster import LocalCluster
from orchestrator.replication.tls import TlsContexts, TlsUnusable, peer_contexts
from orchestrator_client import Client
from tests.replication.certificates import Authority, Files, needs_openssl
from tests.replication.cluster import Cluster, wait_until, within
from tests.replication.test_snapshots import SMALL, leave_behind

pytestmark = needs_openssl


def contexts(files: Files) -> TlsContexts:
    return peer_contexts(files.certificate, files.key, files.authority)


def speaking(files: Files) -> Callable[[], TlsContexts]:
    return lambda: contexts(files)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def counted(cluster: Cluster, name: str) -> int:
    return cluster[name].log.status().counters.get("tls", 0)


async def dial(cluster: Cluster, context: ssl.SSLContext | None, data: bytes = b"") -> None:
    """As a stranger would; what it meets may come as an error or as the end."""
    host, port = cluster["n1"].identity().address_of("n1")
    with contextlib.suppress(OSError):
        reader, writer = await asyncio.open_connection(host, port, ssl=context)
        writer.write(data)
        assert await within("the stranger to be dropped", reader.read()) == b""
        writer.close()


async def test_a_log_is_replicated_over_tls(tmp_path: Path, authority: Authority) -> None:
    async with Cluster(tmp_path, tls=speaking(authority.sign("node"))) as cluster:
        for number in range(20):
            await cluster.put(b"%d" % number)
        await cluster.converged()
        leader = await cluster.leader()
        links: Any = leader.log._transport._links.values()
        for link in links:
            found = link._connection.transport.get_extra_info("ssl_object")
            assert found is not None and found.version() == "TLSv1.3"
        follower = cluster.others(leader)[0]
        await follower.kill()
        await cluster.put(b"alone", [node for node in cluster.nodes.values() if node is not follower])
        await follower.start()
        await cluster.converged()


async def test_a_snapshot_comes_over_tls(tmp_path: Path, authority: Authority) -> None:
    async with Cluster(tmp_path, settings=SMALL, tls=speaking(authority.sign("node"))) as cluster:
        leader, follower = await leave_behind(cluster)
        await follower.start()
        await wait_until("the snapshot to be installed", lambda: follower.installs)
        await cluster.put(b"after")
        await cluster.converged()
        assert follower.applied == leader.applied


async def test_strangers_are_dropped_and_counted_and_harm_nobody(tmp_path: Path, authority: Authority) -> None:
    foreign = Authority(tmp_path, "foreign")
    without_certificate = ssl.create_default_context(cafile=authority.certificate)
    foreign_certificate = ssl.create_default_context(cafile=authority.certificate)
    stranger = foreign.sign("stranger")
    foreign_certificate.load_cert_chain(stranger.certificate, stranger.key)
    async with Cluster(tmp_path, tls=speaking(authority.sign("node"))) as cluster:
        await cluster.put(b"x")
        await cluster.converged()
        terms = [node.log.term for node in cluster.nodes.values()]
        before = counted(cluster, "n1")
        for number, (context, data) in enumerate(
            [(None, b"GET / HTTP/1.1\r\n\r\n"), (without_certificate, b"x"), (foreign_certificate, b"x")], start=1
        ):
            await dial(cluster, context, data)
            total = before + number
            await wait_until("the stranger to be counted", lambda total=total: counted(cluster, "n1") == total)
        await cluster.put(b"y")
        await cluster.converged()
        assert [node.log.term for node in cluster.nodes.values()] == terms


@pytest.mark.parametrize("what", ["of a foreign authority", "for another host", "none"])
async def test_a_node_without_the_right_certificate_stays_outside(
    tmp_path: Path, authority: Authority, what: str
) -> None:
    right = speaking(authority.sign("node"))
    wrong: Callable[[], TlsContexts] = {
        "of a foreign authority": lambda: contexts(Authority(tmp_path, "foreign").sign("node")),
        # It may dial, but nobody reaches it: the others do not believe that it is who they dial.
        "for another host": lambda: contexts(authority.sign("elsewhere", "IP:127.0.0.2")),
        "none": lambda: (None, None),
    }[what]
    async with Cluster(tmp_path, tls=right) as cluster:
        await cluster.put(b"x")
        await cluster.converged()
        outsider = cluster.others(await cluster.leader())[0]
        others = [node for node in cluster.nodes.values() if node is not outsider]
        await outsider.stop()
        outsider.tls = wrong
        await outsider.start()
        before = [counted(cluster, node.name) for node in others]
        await wait_until(
            "both others to refuse it",
            lambda: all(counted(cluster, node.name) > seen for node, seen in zip(others, before, strict=True)),
        )
        await cluster.put(b"y", others)
        await cluster.converged(others)
        assert b"y" not in outsider.applied
        await outsider.stop()
        outsider.tls = right
        await outsider.start()
        await cluster.converged()


async def test_processes_speak_tls(tmp_path: Path, authority: Authority) -> None:
    files = authority.sign("node")
    settings = {
        "peer_tls_certificate": str(files.certificate),
        "peer_tls_key": str(files.key),
        "peer_tls_authority": str(files.authority),
    }
    async with LocalCluster(tmp_path / "nodes", node_settings=settings) as cluster, Client(cluster.endpoints) as client:
        await client.register({"name": "x", "version": 1, "tasks": [
            {"name": "w", "taskReferenceName": "w", "type": "WAIT", "inputParameters": {"signal": "end"}}]})
        run = await client.start("x", {}, id="1", register=False)
        await cluster.kill_node(await cluster.wait_leader())
        assert str((await run.get()).status) == "RUNNING"


def test_files_that_do_not_fit_are_refused_by_the_name_of_their_setting(tmp_path: Path, authority: Authority) -> None:
    files, other = authority.sign("node"), authority.sign("other")
    text = tmp_path / "text"
    text.write_text("no PEM")
    for given, words in [
        (Files(tmp_path / "gone", files.key, files.authority), ["peer_tls_certificate", "gone", "No such file"]),
        (Files(files.certificate, tmp_path / "gone", files.authority), ["peer_tls_key", "gone", "No such file"]),
        (Files(files.certificate, files.key, tmp_path / "gone"), ["peer_tls_authority", "gone", "No such file"]),
        (Files(files.certificate, other.key, files.authority), ["peer_tls_certificate and peer_tls_key"]),
        (Files(text, files.key, files.authority), ["peer_tls_certificate and peer_tls_key"]),
        (Files(files.certificate, files.key, text), ["peer_tls_authority", "PEM"]),
    ]:
        with pytest.raises(TlsUnusable) as error:
            contexts(given)
        assert all(word in str(error.value) for word in words), error.value


def test_serve_refuses_unusable_files_as_a_wrong_configuration(tmp_path: Path, authority: Authority) -> None:
    files = authority.sign("node")
    file = tmp_path / "a.toml"
    # Relative to the file that names them.
    names = [str(path.relative_to(tmp_path)) for path in (files.certificate, files.key, files.authority)]
    text = 'node = "a"\ndata_dir = "a"\npeer_tls_certificate = "{}"\npeer_tls_key = "{}"\npeer_tls_authority = "{}"\n'
    file.write_text(text.format(*names))
    assert CliRunner().invoke(cli, ["serve", "--config", str(file), "--check"]).exit_code == 0
    file.write_text(text.format(names[0], "gone.key", names[2]))
    result = CliRunner().invoke(cli, ["serve", "--config", str(file), "--check"])
    assert result.exit_code == 2
    assert "peer_tls_key" in result.output
