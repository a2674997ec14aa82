"""GRPC tasks over TLS: by the files of a record or of the task itself."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from orchestrator.integrations.grpc_calls.executor import GrpcExecutor
from orchestrator.integrations.work import Kind, Outcome
from tests.integrations.grpc_server import GrpcServer
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
async def executor(services: Services) -> AsyncIterator[GrpcExecutor]:
    made = GrpcExecutor(services, Clock())
    yield made
    await made.close()


def serving(files: Files, *, asks_for_certificates: bool = False) -> GrpcServer:
    credentials = grpc.ssl_server_credentials(
        [(files.key.read_bytes(), files.certificate.read_bytes())],
        root_certificates=files.authority.read_bytes() if asks_for_certificates else None,
        require_client_auth=asks_for_certificates,
    )
    return GrpcServer(credentials=credentials)


async def do(executor: GrpcExecutor, **given: Any) -> str:
    """The error code; whatever goes wrong with TLS is certain to have had no effect."""
    async with asyncio.timeout(60):
        outcome: Outcome = await executor.execute(work(Kind.GRPC, {"method": "shop.Orders/Place"} | given))
    assert not outcome.outcome_unknown
    return outcome.error_code


async def test_a_task_brings_its_own_files(executor: GrpcExecutor, authority: Authority, tmp_path: Path) -> None:
    foreign = Authority(tmp_path, "foreign")
    async with serving(authority.sign("server")) as server:
        assert await do(executor, target=server.target, tls={"ca": str(authority.certificate)}) == ""
        assert await do(executor, target=server.target, tls={"ca": str(foreign.certificate)}) == "GRPC_CONNECT"
        assert await do(executor, target=server.target, tls=True) == "GRPC_CONNECT"


async def test_both_ends_show_certificates(
    executor: GrpcExecutor, services: Services, authority: Authority
) -> None:
    async with serving(authority.sign("server"), asks_for_certificates=True) as server:
        node, ca = authority.sign("node"), str(authority.certificate)
        tls = {"ca": ca, "cert": str(node.certificate), "key": str(node.key)}
        services.put("s", protocol="GRPC", endpoints=[server.target], tls=tls)
        assert await do(executor, service="s") == ""


async def test_the_certificate_must_be_for_the_host_or_the_name_that_is_given(
    executor: GrpcExecutor, services: Services, authority: Authority
) -> None:
    async with serving(authority.sign("server", "DNS:stock.internal")) as server:
        ca = str(authority.certificate)
        services.put("s", protocol="GRPC", endpoints=[server.target], tls={"ca": ca})
        assert await do(executor, service="s") == "GRPC_CONNECT"
        services.put("s", protocol="GRPC", endpoints=[server.target], tls={"ca": ca, "serverName": "stock.internal"})
        assert await do(executor, service="s") == ""


async def test_files_that_were_replaced_are_read_anew(
    executor: GrpcExecutor, services: Services, authority: Authority, tmp_path: Path
) -> None:
    believed = tmp_path / "believed.pem"
    believed.write_bytes(Authority(tmp_path, "foreign").certificate.read_bytes())
    async with serving(authority.sign("server")) as server:
        services.put("s", protocol="GRPC", endpoints=[server.target], tls={"ca": str(believed)})
        assert await do(executor, service="s") == "GRPC_CONNECT"
        believed.write_bytes(authority.certificate.read_bytes())
        os.utime(believed, ns=(1, 1))
        assert await do(executor, service="s") == ""


@pytest.mark.parametrize("content", [None, b"no certificate"])
async def test_a_file_that_can_not_be_used_is_named(
    executor: GrpcExecutor, services: Services, tmp_path: Path, content: bytes | None
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    services.put("s", protocol="GRPC", endpoints=["127.0.0.1:1", "127.0.0.1:2"], tls={"ca": str(path)})
    async with asyncio.timeout(60):
        outcome = await executor.execute(work(Kind.GRPC, {"method": "shop.Orders/Place", "service": "s"}))
    assert outcome.error_code == "GRPC_TLS" and str(path) in outcome.reason


async def test_plaintext_to_a_server_that_speaks_tls_has_no_effect(
    executor: GrpcExecutor, authority: Authority
) -> None:
    async with serving(authority.sign("server")) as server:
        assert await do(executor, target=server.target, plaintext=True) in ("GRPC_CONNECT", "GRPC_REFLECTION")
        assert server.calls == []
