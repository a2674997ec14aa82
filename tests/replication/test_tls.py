"""Nodes that speak TLS: everything works as without, and who has no certificate of their own is nobody."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop
from click.testing import CliRunner

from orchestrator.cli.app import cli
from orchestrator.cli.local_cluster import LocalCluster
from orchestrator.replication import transport as transport_module
from orchestrator.replication.frames import encode_frame
from orchestrator.replication.link import Inbound
from orchestrator.replication.tls import TlsContexts
from orchestrator.tls.authority import Authority, Made
from orchestrator.tls.files import TlsUnusable, read
from orchestrator.tls.watched import Watched, accepting, dialling
from orchestrator_client import Client
from tests.replication.cluster import Cluster, Node, wait_until, within
from tests.replication.test_snapshots import SMALL, leave_behind
from tests.replication.test_transport import NARROW, deafen
from tests.tls import making

NAMES = ("n1", "n2", "n3")


def contexts(by: Authority, made: Made) -> TlsContexts:
    watched = Watched(making.files(by, made))
    return accepting(watched), dialling(watched)


def shared(by: Authority, host: str = making.HOST, name: str = "node") -> Callable[[], TlsContexts]:
    """One certificate for all nodes, which bears all of their names."""
    made = making.node(by, name, host, *NAMES)
    return lambda: contexts(by, made)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return making.authority(tmp_path)


def counted(cluster: Cluster, name: str, reason: str = "tls") -> int:
    return cluster[name].log.status().counters.get(reason, 0)


async def dial(cluster: Cluster, context: ssl.SSLContext | None, data: bytes = b"") -> None:
    """As a stranger would; what it meets may come as an error or as the end."""
    host, port = cluster["n1"].identity().address_of("n1")
    with contextlib.suppress(OSError):
        reader, writer = await asyncio.open_connection(host, port, ssl=context)
        writer.write(data)
        assert await within("the stranger to be dropped", reader.read()) == b""
        writer.close()


async def test_a_log_is_replicated_over_tls(tmp_path: Path, authority: Authority) -> None:
    async with Cluster(tmp_path, tls=shared(authority)) as cluster:
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


@pytest.mark.parametrize("with_tls", [False, True], ids=["plain", "TLS"])
def test_who_is_heard_and_takes_nothing_is_dialled_anew(
    tmp_path: Path, authority: Authority, *, with_tls: bool
) -> None:
    """As behind a cut in one direction: its end comes through, and what is to be sent before that does not."""

    async def hang_up() -> None:
        tls: Callable[[], TlsContexts] = shared(authority) if with_tls else lambda: (None, None)
        # More than what TLS takes from the kernel and nobody reads.
        settings = replace(NARROW, in_flight_bytes_max=2 << 20, outgoing_buffer_bytes_max=8 << 20)
        async with Cluster(tmp_path, 3, settings, tls=tls) as cluster:
            leader = await cluster.leader()
            await cluster.put(b"x")
            await cluster.converged()
            deaf = cluster.others(leader)[0]
            # It would see that the leader is silent, and close what it does not read.
            deaf.log._transport._silent_from = float("inf")
            link = leader.log._transport._links[deaf.name]
            before = link._connection
            _, unread = await deafen(cluster, deaf)
            for _ in range(30):
                await cluster.put(bytes(50 << 10), [leader])
            # Not closed: its kernel would then refuse what comes.
            with socket.fromfd(
                unread.get_extra_info("socket").fileno(), socket.AF_INET, socket.SOCK_STREAM
            ) as kernel_side:
                kernel_side.shutdown(socket.SHUT_WR)
            await wait_until("another connection", lambda: link.up and link._connection is not before)
            await cluster.converged()

    # What nodes run on: its transports wait for what asyncio's do not.
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(hang_up())


async def test_hands_that_were_being_shaken_when_a_node_stopped_are_let_go(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection was accepted before, and TLS is done with it after: nobody may take it for the node."""
    accepted: list[Inbound] = []

    def accept(owner: Any) -> Inbound:
        accepted.append(Inbound(owner))
        return accepted[-1]

    async with Cluster(tmp_path, tls=shared(authority)) as cluster:
        await cluster.put(b"x")
        leader = await cluster.leader()
        transport = cluster.others(leader)[0].log._transport
        monkeypatch.setattr(transport_module, "Inbound", accept)
        reader, writer = await asyncio.open_connection(*transport._listen)
        await wait_until("the node to have accepted it", lambda: accepted)
        transport.abort()
        checks_nothing = _plain_contexts(authority, making.node(authority, leader.name))[1]
        await within("TLS", writer.start_tls(checks_nothing))
        writer.write(encode_frame(leader.log._transport.hello()))
        answer = b""
        with contextlib.suppress(ConnectionError):
            answer = await within("the end of the connection", reader.read(1))
        writer.close()
        assert answer == b""


async def test_a_snapshot_comes_over_tls(tmp_path: Path, authority: Authority) -> None:
    async with Cluster(tmp_path, settings=SMALL, tls=shared(authority)) as cluster:
        leader, follower = await leave_behind(cluster)
        await follower.start()
        await wait_until("the snapshot to be installed", lambda: follower.installs)
        await cluster.put(b"after")
        await cluster.converged()
        assert follower.applied == leader.applied


async def test_strangers_are_dropped_and_counted_and_harm_nobody(tmp_path: Path, authority: Authority) -> None:
    without_certificate = ssl.create_default_context(cafile=authority.file)
    foreign_certificate = ssl.create_default_context(cafile=authority.file)
    stranger = making.node(making.authority(tmp_path, "foreign"), "stranger")
    foreign_certificate.load_cert_chain(stranger.certificate_file, stranger.key_file)
    async with Cluster(tmp_path, tls=shared(authority)) as cluster:
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
    right = shared(authority)
    wrong: Callable[[], TlsContexts] = {
        "of a foreign authority": shared(making.authority(tmp_path, "foreign")),
        # It may dial, but nobody reaches it: the others do not believe that it is who they dial.
        "for another host": shared(authority, "127.0.0.2", "elsewhere"),
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


async def give(node: Node, tls: Callable[[], TlsContexts]) -> None:
    """The node goes on with this certificate."""
    await node.stop()
    node.tls = tls
    await node.start()


async def test_each_node_has_a_certificate_of_its_own(tmp_path: Path, authority: Authority) -> None:
    async with Cluster(tmp_path, tls=shared(authority)) as cluster:
        for name in NAMES:
            made = making.node(authority, name)
            await give(cluster[name], lambda made=made: contexts(authority, made))  # type: ignore[misc]  # its type is given
        await cluster.put(b"x")
        await cluster.converged()
        assert [counted(cluster, name, "identity") for name in NAMES] == [0, 0, 0]


@pytest.mark.parametrize("side", ["dials", "is dialled"])
@pytest.mark.parametrize("whose", ["another node's", "a client's", "the host's without a name"])
async def test_no_other_certificate_of_the_authority_passes_for_a_node(
    tmp_path: Path, authority: Authority, whose: str, side: str, caplog: pytest.LogCaptureFixture
) -> None:
    """All three are on one host, so that the host alone proves nothing."""
    async with Cluster(tmp_path, tls=shared(authority)) as cluster:
        await cluster.put(b"x")
        await cluster.converged()
        impostor = cluster.others(await cluster.leader())[0]
        others = [node for node in cluster.nodes.values() if node is not impostor]
        if whose == "another node's":
            made = making.node(authority, others[0].name)
        elif whose == "a client's":
            made = making.client(authority, impostor.name)
        else:
            made = making.node(authority, "somebody")
        wrong = _plain_contexts(authority, made)
        right = _plain_contexts(authority, making.node(authority, "right", making.HOST, *NAMES))
        # Who may only call is refused by TLS itself where it is dialled.
        reason = "tls" if (whose, side) == ("a client's", "is dialled") else "identity"
        before = {node.name: counted(cluster, node.name, reason) for node in others}
        with caplog.at_level(logging.WARNING):
            await give(impostor, lambda: (wrong[0], right[1]) if side == "is dialled" else (right[0], wrong[1]))
            await wait_until(
                "both others to refuse it",
                lambda: all(counted(cluster, node.name, reason) > before[node.name] for node in others),
            )
        await cluster.put(b"y", others)
        await cluster.converged(others)
        # Who shows another's certificate only where it dials is still told by those who dial it.
        assert side == "dials" or b"y" not in impostor.applied
        said = [record.getMessage() for record in caplog.records]
        about = "no connection to node" if reason == "tls" else "claims to be node"
        assert any(f"{about} {impostor.name}" in line for line in said), said
        await give(impostor, cluster.tls)
        await cluster.converged()


def _plain_contexts(by: Authority, made: Made) -> TlsContexts:
    """As they are: an impostor checks nothing of its own."""
    found: list[ssl.SSLContext] = []
    for protocol in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT):
        context = ssl.SSLContext(protocol)
        context.load_cert_chain(made.certificate_file, made.key_file)
        context.load_verify_locations(by.file)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        found.append(context)
    return found[0], found[1]


async def test_a_renewed_certificate_is_used_without_a_restart(tmp_path: Path, authority: Authority) -> None:
    """By new connections, of both sides; those that are up go on."""
    made = making.node(authority, "node", making.HOST, *NAMES)
    watched: list[Watched] = []

    def tls() -> TlsContexts:
        watched.append(Watched(making.files(authority, made)))
        return accepting(watched[-1]), dialling(watched[-1])

    async with Cluster(tmp_path, tls=tls) as cluster:
        await cluster.put(b"x")
        await cluster.converged()
        old = made.certificate.serial_number
        assert _serials(cluster) == {old}
        new = authority.renew("node", making.now(), 60).certificate.serial_number
        for each in watched:
            await each.look()
        await cluster.put(b"y")
        await cluster.converged()
        assert _serials(cluster) == {old}
        for node in cluster.nodes.values():
            for link in _links(node):
                link.drop()
        await wait_until("all connections to be made anew", lambda: _serials(cluster) == {new} and _all_up(cluster))
        await cluster.put(b"z")
        await cluster.converged()


async def test_an_authority_is_exchanged_without_a_restart(tmp_path: Path, authority: Authority) -> None:
    """Both are believed for a while; then certificates of the old one are refused."""
    new = making.authority(tmp_path, "new")
    believed = tmp_path / "believed.pem"
    believed.write_bytes(authority.file.read_bytes() + new.file.read_bytes())
    made = making.node(new, "node", making.HOST, *NAMES)
    other = making.node(authority, "other", making.HOST, *NAMES)
    watched: list[Watched] = []

    def tls() -> TlsContexts:
        files = making.files(new, made)
        watched.append(Watched(type(files)(**{**vars(files), "authority": believed, "client_authority": believed})))
        return accepting(watched[-1]), dialling(watched[-1])

    async with Cluster(tmp_path, tls=tls) as cluster:
        outsider = cluster.others(await cluster.leader())[0]
        others = [node for node in cluster.nodes.values() if node is not outsider]
        await give(outsider, lambda: _both(believed, other))
        await cluster.put(b"with both")
        await cluster.converged()
        believed.write_bytes(new.file.read_bytes())
        for each in watched:
            await each.look()
        for node in others:
            for link in _links(node):
                link.drop()
        await give(outsider, lambda: _both(believed, other))
        before = [counted(cluster, node.name) for node in others]
        await wait_until(
            "both others to refuse the old authority's",
            lambda: all(counted(cluster, node.name) > seen for node, seen in zip(others, before, strict=True)),
        )
        await cluster.put(b"without", others)
        assert b"without" not in outsider.applied


def _both(believed: Path, made: Made) -> TlsContexts:
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for context in (server, client):
        context.load_cert_chain(made.certificate_file, made.key_file)
        context.load_verify_locations(believed)
        context.verify_mode = ssl.CERT_REQUIRED
    return server, client


def _links(node: Node) -> list[Any]:
    transport: Any = node.log._transport
    return list(transport._links.values())


def _all_up(cluster: Cluster) -> bool:
    return all(link.up for node in cluster.nodes.values() for link in _links(node))


def _serials(cluster: Cluster) -> set[int]:
    """Of what those that are dialled show, on all connections that are up."""
    up = [link for node in cluster.nodes.values() for link in _links(node) if link.up]
    shown = [link._connection.transport.get_extra_info("ssl_object").getpeercert() for link in up]
    return {int(each["serialNumber"], 16) for each in shown}


async def test_processes_speak_tls(tmp_path: Path, authority: Authority) -> None:
    made = making.node(authority, "node", making.HOST, "a", "b", "c")
    settings = {
        "peer_tls_certificate": str(made.certificate_file),
        "peer_tls_key": str(made.key_file),
        "peer_tls_authority": str(authority.file),
    }
    async with LocalCluster(tmp_path / "nodes", node_settings=settings) as cluster, Client(cluster.endpoints) as client:
        await client.register({"name": "x", "version": 1, "tasks": [
            {"name": "w", "taskReferenceName": "w", "type": "WAIT", "inputParameters": {"signal": "end"}}]})
        run = await client.start("x", {}, id="1", register=False)
        await cluster.kill_node(await cluster.wait_leader())
        assert str((await run.get()).status) == "RUNNING"


def test_files_that_do_not_fit_are_refused_by_the_name_of_their_setting(tmp_path: Path, authority: Authority) -> None:
    made, other = making.node(authority, "node"), making.node(authority, "other")
    text, gone = tmp_path / "text", tmp_path / "gone"
    text.write_text("no PEM")
    right = making.files(authority, made)
    for field, path, words in [
        ("certificate", gone, ["peer_tls_certificate", "gone", "No such file"]),
        ("key", gone, ["peer_tls_key", "gone", "No such file"]),
        ("authority", gone, ["peer_tls_authority", "gone", "No such file"]),
        ("key", other.key_file, ["peer_tls_certificate and peer_tls_key"]),
        ("certificate", text, ["peer_tls_certificate and peer_tls_key"]),
        ("authority", text, ["peer_tls_authority", "PEM"]),
    ]:
        changed = {**vars(right), field: path}
        with pytest.raises(TlsUnusable) as error:
            read(type(right)(**{**changed, "client_authority": changed["authority"]}))
        assert all(word in str(error.value) for word in words), error.value


def test_serve_refuses_unusable_files_as_a_wrong_configuration(tmp_path: Path, authority: Authority) -> None:
    made = making.node(authority, "a")
    file = tmp_path / "a.toml"
    # Relative to the file that names them.
    names = [str(path.relative_to(tmp_path)) for path in (made.certificate_file, made.key_file, authority.file)]
    text = 'node = "a"\ndata_dir = "a"\npeer_tls_certificate = "{}"\npeer_tls_key = "{}"\npeer_tls_authority = "{}"\n'

    def check() -> Any:
        return CliRunner().invoke(cli, ["serve", "--config", str(file), "--check"])

    file.write_text(text.format(*names))
    assert check().exit_code == 0
    file.write_text(text.format(names[0], "gone.key", names[2]))
    assert (check().exit_code, "peer_tls_key" in check().output) == (2, True)
    file.write_text(text.format(*names) + 'peer_listen = "0.0.0.0:7500"\npeer_advertise = "a.example:7500"\n')
    refused = check()
    assert refused.exit_code == 2
    assert "is for a, 127.0.0.1, but others reach this node at a.example, as peer_advertise says" in refused.output
