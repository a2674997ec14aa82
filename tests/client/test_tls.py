"""A client with TLS: whom it believes, how it is known itself, files that change, and what it says when it can't."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from orchestrator.tls.authority import Authority
from orchestrator_client import TLS, Client, NoLeader, TLSUnusable, Worker, task
from tests.client.fake_cluster import FakeCluster
from tests.tls import making


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return making.authority(tmp_path)


def serving(by: Authority, *hosts: str, clients: bool) -> grpc.ServerCredentials:
    name = f"node{len(by.names())}"
    made = making.node(by, name, *hosts)
    pair = (made.key_file.read_bytes(), made.certificate_file.read_bytes())
    return grpc.ssl_server_credentials([pair], by.file.read_bytes() if clients else None, clients)


@asynccontextmanager
async def nodes(credentials: grpc.ServerCredentials | None) -> AsyncIterator[FakeCluster]:
    fake = FakeCluster(credentials)
    await fake.start()
    try:
        yield fake
    finally:
        await fake.stop()


def mine(by: Authority, name: str = "me") -> TLS:
    made = making.client(by, name)
    return TLS(authority=by.file, certificate=made.certificate_file, key=made.key_file)


async def test_calls_and_workers_go_over_tls(authority: Authority) -> None:
    async with (
        nodes(serving(authority, clients=True)) as fake,
        Client(fake.addresses, tls=mine(authority), deadline_s=10) as client,
    ):
        await client.register(noop)
        assert (await client.leader()).address == fake.addresses[0]
        worker = Worker(client, tasks=[noop])
        running = asyncio.create_task(worker.run())
        stream = await asyncio.wait_for(fake.streams.get(), 10)
        assert stream is not None
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@task
async def noop() -> None:
    pass


Case = tuple[Callable[[Authority, Path], grpc.ServerCredentials | None], Callable[[Authority, Path], TLS | None], str]


def asking(by: Authority, _: Path) -> grpc.ServerCredentials:
    return serving(by, clients=True)


CASES: dict[str, Case] = {
    "only the nodes have it": (asking, lambda by, _: None, "speaks TLS, and this client does not"),
    "only the client has it": (lambda by, _: None, lambda by, _: mine(by), "answers without TLS"),
    "no certificate is shown": (asking, lambda by, _: TLS(authority=by.file), "asks for a certificate of the client"),
    "the shown one is foreign": (
        asking,
        lambda by, folder: TLS(by.file, *_files(making.authority(folder, "foreign"))),
        "does not accept the client's certificate",
    ),
    "the node's is foreign": (
        asking, lambda by, folder: TLS(making.authority(folder, "foreign").file, *_files(by)), "is not believed"),
    "the node's is another host's": (
        lambda by, _: serving(by, "elsewhere.example", clients=False), lambda by, _: TLS(by.file), "127.0.0.1"),
    "well-known authorities do not know it": (asking, lambda by, _: TLS(), "is not believed"),
}


def _files(by: Authority) -> tuple[Path, Path]:
    made = making.client(by, "caller")
    return made.certificate_file, made.key_file


@pytest.mark.parametrize("case", CASES)
async def test_an_error_says_what_is_wrong_with_tls(authority: Authority, tmp_path: Path, case: str) -> None:
    server, tls, words = CASES[case]
    async with (
        nodes(server(authority, tmp_path)) as fake,
        Client(fake.addresses, tls=tls(authority, tmp_path), deadline_s=1) as client,
    ):
        with pytest.raises(NoLeader, match=words):
            await client.register(noop)
        with pytest.raises(NoLeader, match=words):
            await client.leader()


async def test_what_has_another_reason_is_not_put_down_to_tls(authority: Authority) -> None:
    async with nodes(serving(authority, clients=True)) as fake:
        addresses = fake.addresses
    async with Client(addresses, tls=mine(authority), deadline_s=1) as client:
        with pytest.raises(NoLeader) as failed:
            await client.register(noop)
    assert "TLS" not in str(failed.value) and "certificate" not in str(failed.value)


class Heard(logging.Handler):
    """Holds until a line with these words is logged."""

    def __init__(self, words: str) -> None:
        super().__init__(logging.WARNING)
        self._words = words
        self.said = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if self._words in record.getMessage():
            self.said.set()


async def test_a_worker_that_gets_no_connection_says_why(authority: Authority) -> None:
    log, heard = logging.getLogger("orchestrator_client"), Heard("speaks TLS, and this client does not")
    log.addHandler(heard)
    async with nodes(serving(authority, clients=True)) as fake, Client(fake.addresses, deadline_s=1) as client:
        running = asyncio.create_task(Worker(client, tasks=[noop]).run())
        try:
            await asyncio.wait_for(heard.said.wait(), 20)
        finally:
            log.removeHandler(heard)
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def test_files_are_read_again_when_a_connection_has_failed(authority: Authority, tmp_path: Path) -> None:
    """Nodes whose authority is another one from now on, and a client that runs on with the files replaced."""
    file, certificate, key = tmp_path / "ca.pem", tmp_path / "me.pem", tmp_path / "me.key"

    def put(by: Authority) -> None:
        made = making.client(by, "me")
        for source, target in ((by.file, file), (made.certificate_file, certificate), (made.key_file, key)):
            target.write_bytes(source.read_bytes())

    put(authority)
    new = making.authority(tmp_path, "new")
    async with (
        nodes(serving(authority, clients=True)) as fake,
        Client(fake.addresses, tls=TLS(file, certificate, key), deadline_s=20) as client,
    ):
        await client.register(noop)
        await fake.restart(serving(new, clients=True))
        # Half of it is there.
        certificate.write_bytes(making.client(new, "half").certificate_file.read_bytes())
        with pytest.raises(NoLeader):
            await client.status()
        put(new)
        await client.register(noop)


@pytest.mark.parametrize(("given", "words"), [
    ({"certificate": "me.pem"}, "key is missing"),
    ({"key": "me.key"}, "certificate is missing"),
    ({"authority": "gone.pem"}, "authority: gone.pem can't be read"),
    ({"authority": __file__}, "authority: .* must hold certificates"),
    ({"certificate": __file__, "key": __file__}, "certificate and key: .* must be a certificate and its key"),
])
def test_files_that_can_not_be_used_are_an_error_at_once(given: dict[str, str], words: str) -> None:
    with pytest.raises(TLSUnusable, match=words):
        Client("127.0.0.1:1", tls=TLS(**given))


def test_the_environment_names_the_files() -> None:
    assert TLS.from_environment({}) is None
    assert TLS.from_environment({"ORCHESTRATOR_TLS_AUTHORITY": ""}) is None
    assert TLS.from_environment({"ORCHESTRATOR_TLS_AUTHORITY": "ca"}) == TLS(authority="ca")
    assert TLS.from_environment({"ORCHESTRATOR_TLS_AUTHORITY": "system"}) == TLS()
    assert TLS.from_environment({"ORCHESTRATOR_TLS_AUTHORITY": "ca", "ORCHESTRATOR_TLS_CERTIFICATE": "c",
                                 "ORCHESTRATOR_TLS_KEY": "k"}) == TLS("ca", "c", "k")


def test_tls_and_credentials_are_not_both() -> None:
    with pytest.raises(ValueError, match="give one of them"):
        Client("127.0.0.1:1", tls=TLS(), credentials=grpc.ssl_channel_credentials())
