"""The gRPC port with TLS: who is let in, what changes while it is open, and what is said of certificates that end."""

from __future__ import annotations

import asyncio
import logging
import ssl
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from orchestrator.config import Config
from orchestrator.node_tls import NodeTls, check
from orchestrator.telemetry.metrics import Metrics
from orchestrator.tls.authority import Authority, Made
from orchestrator.tls.certificate import Certificate
from orchestrator.tls.files import TlsUnusable
from tests.tls import making

OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return making.authority(tmp_path)


def config(by: Authority, made: Made, *, clients: bool = True, **settings: Any) -> Config:
    return Config(node="a", data_dir=Path("x"), grpc_tls_certificate=str(made.certificate_file),
                  grpc_tls_key=str(made.key_file), grpc_tls_authority=str(by.file),
                  grpc_tls_client_authority=str(by.file) if clients else "", **settings)


def wall_ms() -> int:
    return int(making.now().timestamp() * 1000)


def node_tls(given: Config, metrics: Metrics | None = None, now: Callable[[], int] = wall_ms) -> NodeTls:
    return NodeTls(given, metrics or Metrics(node="a", version="1"), now)


class Port:
    """A server with one service, and what its callers have shown."""

    def __init__(self, tls: NodeTls) -> None:
        self.callers: list[str] = []
        self._server = grpc.aio.server()
        service = health.aio.HealthServicer()
        told = service.Check

        async def checked(request: Any, context: Any) -> Any:
            self.callers += [name.decode() for name in context.auth_context().get("x509_common_name", [b""])]
            return await told(request, context)

        service.Check = checked
        health_pb2_grpc.add_HealthServicer_to_server(service, self._server)
        credentials = tls.server_credentials()
        assert credentials is not None
        self.number = self._server.add_secure_port(f"{making.HOST}:0", credentials)

    async def __aenter__(self) -> Port:
        await self._server.start()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._server.stop(None)

    async def call(self, channel: grpc.aio.Channel) -> str:
        """`ok`, or the details of the failure."""
        try:
            await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
        except grpc.aio.AioRpcError as error:
            return str(error.details())
        return "ok"

    async def called_with(self, by: Authority, made: Made | None) -> str:
        pair = (made.key_file.read_bytes(), made.certificate_file.read_bytes()) if made else (None, None)
        credentials = grpc.ssl_channel_credentials(by.file.read_bytes(), *pair)
        async with grpc.aio.secure_channel(f"{making.HOST}:{self.number}", credentials, options=OPTIONS) as channel:
            return await self.call(channel)

    async def certificate(self) -> Certificate:
        pem = await asyncio.to_thread(ssl.get_server_certificate, (making.HOST, self.number), timeout=10)
        return Certificate.all_of(pem.encode())[0]


async def test_who_shows_a_certificate_of_the_authority_is_let_in_by_name(authority: Authority, tmp_path: Path) -> None:
    foreign = making.authority(tmp_path, "foreign")
    async with Port(node_tls(config(authority, making.node(authority, "a")))) as port:
        assert await port.called_with(authority, making.client(authority, "ops")) == "ok"
        assert await port.called_with(authority, making.node(authority, "b")) == "ok"
        assert port.callers == ["ops", "b"]
        assert await port.called_with(authority, None) != "ok"
        assert await port.called_with(authority, making.client(foreign, "ops")) != "ok"
        assert await port.called_with(authority, making.expired(authority, "late")) != "ok"
        assert port.callers == ["ops", "b"]
        # And the other way round: who does not believe the node.
        assert "CERTIFICATE_VERIFY_FAILED" in await port.called_with(foreign, None)


async def test_without_an_authority_of_clients_nobody_is_asked(authority: Authority) -> None:
    async with Port(node_tls(config(authority, making.node(authority, "a"), clients=False))) as port:
        assert await port.called_with(authority, None) == "ok"


async def test_plain_text_is_not_served(authority: Authority) -> None:
    async with (
        Port(node_tls(config(authority, making.node(authority, "a"), clients=False))) as port,
        grpc.aio.insecure_channel(f"{making.HOST}:{port.number}", options=OPTIONS) as channel,
    ):
        assert await port.call(channel) != "ok"


@pytest.mark.parametrize(("version", "served"), [
    (ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, True)])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1_1 is deprecated")
async def test_versions_from_1_2_on_are_spoken(authority: Authority, version: ssl.TLSVersion, served: bool) -> None:
    async with Port(node_tls(config(authority, making.node(authority, "a"), clients=False))) as port:
        context = ssl.create_default_context(cafile=authority.file)
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
        context.set_alpn_protocols(["h2"])
        try:
            _, writer = await asyncio.open_connection(making.HOST, port.number, ssl=context)
        except (ssl.SSLError, ConnectionError):
            assert not served
        else:
            assert served
            writer.close()


async def test_a_renewed_certificate_is_shown_without_a_restart(authority: Authority) -> None:
    """And an open connection goes on."""
    made = making.node(authority, "a")
    tls = node_tls(config(authority, made, clients=False))
    async with Port(tls) as port:
        credentials = grpc.ssl_channel_credentials(authority.file.read_bytes())
        async with grpc.aio.secure_channel(f"{making.HOST}:{port.number}", credentials, options=OPTIONS) as channel:
            assert await port.call(channel) == "ok"
            assert (await port.certificate()).serial_number == made.certificate.serial_number
            renewed = authority.renew("a", making.now(), 60)
            await look(tls)
            assert (await port.certificate()).serial_number == renewed.certificate.serial_number
            assert await port.call(channel) == "ok"


async def test_half_of_a_pair_is_not_shown_but_counted(authority: Authority) -> None:
    made, metrics = making.node(authority, "a"), Metrics(node="a", version="1")
    tls = node_tls(config(authority, made, clients=False), metrics)
    async with Port(tls) as port:
        key = made.key_file.read_bytes()
        renewed = authority.renew("a", making.now(), 60)
        new_key = made.key_file.read_bytes()
        made.key_file.write_bytes(key)
        await look(tls)
        await look(tls)
        assert (await port.certificate()).serial_number == made.certificate.serial_number
        assert reloads(metrics, "refused") == 1
        made.key_file.write_bytes(new_key)
        await look(tls)
        assert (await port.certificate()).serial_number == renewed.certificate.serial_number
        assert (reloads(metrics, "refused"), reloads(metrics, "taken")) == (1, 1)


async def test_another_authority_of_clients_is_asked_for_without_a_restart(tmp_path: Path) -> None:
    old, new = making.authority(tmp_path, "old"), making.authority(tmp_path, "new")
    made = making.node(old, "a")
    callers = tmp_path / "clients.pem"
    callers.write_bytes(old.file.read_bytes())
    tls = node_tls(Config(node="a", data_dir=Path("x"), grpc_tls_certificate=str(made.certificate_file),
                          grpc_tls_key=str(made.key_file), grpc_tls_authority=str(old.file),
                          grpc_tls_client_authority=str(callers)))
    ops, newer = making.client(old, "ops"), making.client(new, "newer")
    async with Port(tls) as port:
        assert [await port.called_with(old, each) == "ok" for each in (ops, newer)] == [True, False]
        callers.write_bytes(old.file.read_bytes() + new.file.read_bytes())
        await look(tls)
        assert [await port.called_with(old, each) == "ok" for each in (ops, newer)] == [True, True]


async def test_a_node_calls_with_its_own_certificate_and_with_the_newest(authority: Authority) -> None:
    """At its own port, too, which it reaches by an address that the certificate is not for."""
    made = making.node(authority, "a", "a.example")
    tls = node_tls(config(authority, made, grpc_listen="0.0.0.0:7400", grpc_advertise="a.example:7400"))
    async with Port(tls) as port:
        channels: Any = tls.channels()
        address = f"{making.HOST}:{port.number}"
        channels._names[address] = channels._names.pop("127.0.0.1:7400")
        async with channels(address) as channel:
            assert await port.call(channel) == "ok"
        assert port.callers == ["a"]
        before = channels.version()
        assert channels.version() == before
        authority.renew("a", making.now(), 60)
        await look(tls)
        assert channels.version() != before
        async with channels(address) as channel:
            assert await port.call(channel) == "ok"


async def test_metrics_are_served_by_https_to_anybody(authority: Authority) -> None:
    metrics = Metrics(node="a", version="1")
    tls = node_tls(config(authority, making.node(authority, "a"), metrics_tls="on"), metrics)
    server = await metrics.serve(making.HOST, 0, tls.metrics_context)
    assert server._server is not None
    number = server._server.sockets[0].getsockname()[1]
    context = ssl.create_default_context(cafile=authority.file)

    def read(url: str) -> str:
        with urllib.request.urlopen(url, timeout=10, context=context if url.startswith("https") else None) as page:
            return str(page.read().decode())

    assert "certificate_expiry_seconds" in await asyncio.to_thread(read, f"https://{making.HOST}:{number}/metrics")
    with pytest.raises(OSError, match=r".+"):
        await asyncio.to_thread(read, f"http://{making.HOST}:{number}/metrics")
    await server.stop()


def test_until_when_each_file_is_good_is_told(authority: Authority) -> None:
    metrics = Metrics(node="a", version="1")
    node_tls(config(authority, making.node(authority, "a", days=30)), metrics)
    day = 24 * 3600
    assert expiry(metrics, "grpc_tls_certificate") == pytest.approx(30 * day, abs=day)
    assert expiry(metrics, "grpc_tls_authority") == pytest.approx(3650 * day, abs=day)


async def test_what_ends_soon_is_warned_of_and_what_has_ended_is_an_error(
        authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    metrics, now_ms = Metrics(node="a", version="1"), wall_ms()
    hours = 0

    def now() -> int:
        return now_ms + hours * 3_600_000

    tls = node_tls(config(authority, making.node(authority, "a", days=100)), metrics, now)
    told: list[tuple[int, str]] = []
    with caplog.at_level(logging.WARNING):
        for hours in (1, 85 * 24, 91 * 24, 91 * 24, 91 * 24 + 2, 101 * 24):
            caplog.clear()
            await look(tls)
            told += [(hours, record.levelname) for record in caplog.records]
    assert told == [(91 * 24, "WARNING"), (91 * 24 + 2, "WARNING"), (101 * 24, "ERROR")]
    assert expiry(metrics, "grpc_tls_certificate") < 0


def test_a_certificate_that_clients_would_refuse_is_refused_at_the_start(authority: Authority, tmp_path: Path) -> None:
    for made, words in (
        (making.node(authority, "b", "b.example"), "grpc_tls_certificate.*is for b, b.example.*grpc_advertise"),
        (making.expired(authority, "late", "a.example"), "grpc_tls_certificate.*expired"),
        (making.node(making.authority(tmp_path, "foreign"), "x", "a.example"), "grpc_tls_authority"),
    ):
        with pytest.raises(TlsUnusable, match=words):
            check(config(authority, made, grpc_listen="0.0.0.0:7400", grpc_advertise="a.example:7400"))


async def look(tls: NodeTls) -> None:
    for watched in (tls._peers, tls._grpc):
        if watched is not None:
            await watched.look()


def reloads(metrics: Metrics, outcome: str) -> float:
    return metrics.certificate_reloads.labels("grpc_tls_certificate", outcome)._value.get()


def expiry(metrics: Metrics, setting: str) -> float:
    return metrics.certificate_expiry_seconds.labels(setting)._value.get()


