"""What a node does of system work: its executors, its sessions, and its way to whoever leads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import grpc.aio

from orchestrator.config import Config
from orchestrator.engine import queries
from orchestrator.engine.state import State
from orchestrator.integrations.executors import Surroundings
from orchestrator.integrations.sandbox.executor import SandboxExecutor
from orchestrator.integrations.work import CALLS, Ended, Executor, Kind, Outcome, Source, Work
from orchestrator.services.node_connection import LeaderKnown
from orchestrator.services.system_session import SystemSession
from orchestrator.telemetry.metrics import Metrics
from orchestrator.world import World
from orchestrator_client.authorization import authorized
from orchestrator_client.channels import ChannelFactory, version_of


class SystemWork:
    """The node's own sessions: one for calls and one for scripts, which must not wait for slow calls.

    `scripts`: what evaluates scripts here, for whoever needs that besides the tasks.
    """

    def __init__(self, sessions: Iterable[SystemSession], scripts: Executor | None) -> None:
        self.sessions = tuple(sessions)
        self.scripts = scripts

    async def check_source(self, source: Source) -> str | None:
        """Why a script can't be run; None if it can, or if nobody here can tell."""
        return await self.scripts.check(source) if isinstance(self.scripts, SandboxExecutor) else None

    async def evaluate(self, work: Work) -> Outcome:
        """What comes of a script or a query, for whoever needs that besides the tasks."""
        if self.scripts is None:
            return Outcome(ended=Ended.FAILED, error_code="SANDBOX_UNAVAILABLE", reason="this node evaluates nothing")
        return await self.scripts.execute(work)

    def start(self) -> None:
        """The node's gRPC service is open."""
        for session in self.sessions:
            session.start()

    async def leave(self, grace_seconds: float) -> None:
        """Takes nothing new, stops and hands back what has not ended within the grace; `start` may follow."""
        await asyncio.gather(*(session.leave(grace_seconds) for session in self.sessions))

    async def stop(self, grace_seconds: float | None) -> None:
        """Takes nothing new; stops and hands back what has not ended within the grace. None: at once, in silence."""
        await asyncio.gather(*(session.stop(grace_seconds) for session in self.sessions))


def system_work(
    config: Config,
    world: World,
    metrics: Metrics,
    channels: ChannelFactory,
    *,
    state: Callable[[], State],
    leader: LeaderKnown,
    authorization: Callable[[], str] | None,
    on_fatal: Callable[[BaseException], None],
) -> SystemWork:
    """To be started when the node serves: from then on `state` and `leader` are asked.

    `authorization`: what is shown to whoever leads, with each call.
    """
    own, local = str(config.grpc_address), str(config.grpc_local_address)

    def open_channel(address: str) -> grpc.aio.Channel:
        # What is advertised to others may not lead back here.
        channel = channels(local if address == own else address)
        return channel if authorization is None else authorized(channel, authorization)

    surroundings = Surroundings(
        monotonic=world.clock.monotonic,
        service=lambda namespace, name: queries.service(state(), namespace, name),
    )
    executors = world.executors(config, surroundings)
    calls = {kind: executor for kind, executor in executors.items() if kind in CALLS}
    scripts = {kind: executor for kind, executor in executors.items() if kind not in CALLS}
    sessions = [
        SystemSession(
            node=config.node,
            address=own,
            leader=leader,
            open_channel=open_channel,
            version=version_of(channels),
            executors=group,
            slots=slots,
            dice=world.random,
            metrics=metrics,
            traces=world.traces,
            on_fatal=on_fatal,
        )
        for group, slots in ((calls, config.call_slots), (scripts, config.script_slots))
        if group
    ]
    return SystemWork(sessions, executors.get(Kind.SCRIPT))
