"""`orchestrator health`: the node of this configuration, asked by whatever starts and watches it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from orchestrator.cli import exits
from orchestrator.cli.node_commands import CONFIG_FILE, loaded
from orchestrator.config import Config
from orchestrator_client import TLS, TLSUnusable
from orchestrator_client.channels import ChannelFactory, SecureChannels, channel_factory


@click.command("health")
@CONFIG_FILE
@click.option("--live", is_flag=True, help="Only ask whether it answers; a node without a leader does.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0, min_open=True), default=3.0, show_default=True,
              metavar="SECONDS")
def health(config_file: Path | None, live: bool, timeout_s: float) -> None:
    """Ask the node that runs here whether it is in service: it knows a leader, has caught up, and is not drained.

    It is found by the settings that `serve` was given, and needs no token. Exit code 5 if it is not, or does not
    answer. A node that is alive and not in service waits for others: don't kill it for that.
    """
    config = loaded(config_file, {})
    try:
        answer = asyncio.run(_ask(config, timeout_s))
    except TLSUnusable as error:
        raise exits.of(error) from error
    except grpc.aio.AioRpcError as error:
        raise exits.Failure(f"node {config.node} does not answer at {config.grpc_local_address}: {error.details()}",
                            exits.UNAVAILABLE) from error
    serving = answer == health_pb2.HealthCheckResponse.SERVING
    if not serving and not live:
        raise exits.Failure(f"node {config.node} is not in service: it knows no leader, is behind, or is drained",
                            exits.UNAVAILABLE)
    click.echo(f"node {config.node} is {'in service' if serving else 'alive'}")


async def _ask(config: Config, timeout_s: float) -> int:
    async with _channels(config)(str(config.grpc_local_address)) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        answer: health_pb2.HealthCheckResponse = await stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        return answer.status


def _channels(config: Config) -> ChannelFactory:
    """It is called at this machine's own address, and shows a certificate for the host that it advertises."""
    tls = TLS.of(config.grpc_tls_authority, config.grpc_tls_certificate, config.grpc_tls_key)
    if tls is None:
        return channel_factory(None)
    own = str(config.grpc_local_address)
    return SecureChannels(tls.load, check=tls.check, names={own: config.grpc_address.host})
