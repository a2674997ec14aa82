"""HTTP tasks over TLS: the files that a record names are used, and a change of them is noticed."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from orchestrator.integrations.http_calls.executor import HttpExecutor
from orchestrator.integrations.work import Kind, Outcome
from tests.integrations.http_server import HttpServer
from tests.integrations.works import Clock, Services, work
from tests.replication.certificates import Authority, Files, needs_openssl

pytestmark = needs_openssl


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def services() -> Services:
    return Services()


@pytest.fixture
async def executor(services: Services) -> AsyncIterator[HttpExecutor]:
    made = HttpExecutor(services, Clock())
    yield made
    await made.close()


@asynccontextmanager
async def serving(files: Files, *, asks_for_certificates: bool = False) -> AsyncIterator[HttpServer]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.key)
    if asks_for_certificates:
        context.load_verify_locations(files.authority)
        context.verify_mode = ssl.CERT_REQUIRED
    async with HttpServer(tls=context) as server:
        yield server


async def do(executor: HttpExecutor, **given: Any) -> Outcome:
    async with asyncio.timeout(30):
        return await executor.execute(work(Kind.HTTP, {"method": "GET"} | given))


def code(outcome: Outcome) -> str:
    assert not outcome.outcome_unknown, "without a handshake nothing is sent"
    return outcome.error_code


async def test_a_certificate_of_an_unknown_authority_is_refused(executor: HttpExecutor, authority: Authority) -> None:
    async with serving(authority.sign("server")) as server:
        outcome = await do(executor, uri=server.uri)
        assert code(outcome) == "HTTP_TLS" and "certificate" in outcome.reason
        assert server.received == []


async def test_one_of_the_records_authority_is_believed(
    executor: HttpExecutor, services: Services, authority: Authority, tmp_path: Path
) -> None:
    async with serving(authority.sign("server")) as server:
        services.put("s", endpoints=[server.uri], tls={"ca": str(authority.certificate)})
        assert code(await do(executor, service="s")) == ""
        services.put("s", endpoints=[server.uri], tls={"ca": str(Authority(tmp_path, "foreign").certificate)})
        assert code(await do(executor, service="s")) == "HTTP_TLS"


async def test_the_certificate_must_be_for_the_host_or_the_name_that_is_given(
    executor: HttpExecutor, services: Services, authority: Authority
) -> None:
    async with serving(authority.sign("server", "DNS:pay.internal")) as server:
        ca = str(authority.certificate)
        services.put("s", endpoints=[server.uri], tls={"ca": ca})
        assert code(await do(executor, service="s")) == "HTTP_TLS"
        services.put("s", endpoints=[server.uri], tls={"ca": ca, "serverName": "pay.internal"})
        assert code(await do(executor, service="s")) == ""


async def test_the_records_certificate_is_shown(
    executor: HttpExecutor, services: Services, authority: Authority
) -> None:
    async with serving(authority.sign("server"), asks_for_certificates=True) as server:
        node, ca = authority.sign("node"), str(authority.certificate)
        services.put("s", endpoints=[server.uri], tls={"ca": ca, "cert": str(node.certificate), "key": str(node.key)})
        assert code(await do(executor, service="s")) == ""


async def test_without_a_certificate_such_a_server_serves_nobody(
    executor: HttpExecutor, services: Services, authority: Authority
) -> None:
    """In TLS 1.3 the server refuses after the client believes the handshake done: nobody can tell what it took."""
    async with serving(authority.sign("server"), asks_for_certificates=True) as server:
        services.put("s", endpoints=[server.uri], tls={"ca": str(authority.certificate)})
        outcome = await do(executor, service="s")
        assert outcome.error_code in ("HTTP_CONNECTION_LOST", "HTTP_TLS")
        assert server.received == []


async def test_files_that_were_replaced_are_read_anew(
    executor: HttpExecutor, services: Services, authority: Authority, tmp_path: Path
) -> None:
    believed = tmp_path / "believed.pem"
    believed.write_bytes(Authority(tmp_path, "foreign").certificate.read_bytes())
    async with serving(authority.sign("server")) as server:
        services.put("s", endpoints=[server.uri], tls={"ca": str(believed)})
        assert code(await do(executor, service="s")) == "HTTP_TLS"
        believed.write_bytes(authority.certificate.read_bytes())
        os.utime(believed, ns=(1, 1))
        assert code(await do(executor, service="s")) == ""


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
async def test_a_file_that_can_not_be_used_is_named_and_no_call_is_made(
    executor: HttpExecutor, services: Services, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    services.put("s", endpoints=["https://127.0.0.1:1", "https://127.0.0.1:2"], tls={"ca": str(path)})
    outcome = await do(executor, service="s")
    assert code(outcome) == "HTTP_TLS" and str(path) in outcome.reason
