"""Who uses the cluster: a machine without a disk, and clients of the SDK on it; and the namespaces they work in."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

from orchestrator.testing.machine import Machine
from orchestrator.testing.rpc import SimulatedChannel
from orchestrator_client.client import Client
from tests.simulation.cluster import SimulatedCluster

# How long callers wait for an answer; everybody else takes the last.
CALL_SECONDS = (0.1, 0.7, 2.0, 6.0)


def place(namespace: str, workflow_id: str) -> str:
    """What a workflow is known by to all checks."""
    return f"{namespace}/{workflow_id}"


@dataclass
class Space:
    """A namespace: what is registered there, and the ids of what was started there."""

    namespace: str
    definitions: list[dict[str, Any]]
    # Of random workflows, which come to an end, and of switches, which wait for ever.
    names: list[str]
    started: list[str] = field(default_factory=list)
    switches: list[str] = field(default_factory=list)

    def place(self, workflow_id: str) -> str:
        return place(self.namespace, workflow_id)


class Person:
    """Lives from the beginning of a run to its end."""

    patience_seconds = CALL_SECONDS[-1]

    def __init__(self, cluster: SimulatedCluster, name: str, space: Space) -> None:
        self.cluster = cluster
        self.name = name
        cluster.people.append(name)
        self.space = space
        self.dice = cluster.dice(name)
        self.machine = Machine(name, cluster.loop, cluster.network, self.dice, None)
        self.machine.rate = 1 + self.dice.choice((0, 0.01, -0.01))
        self._process = self.machine.boot()
        self.client = self.open_client(space)
        self.life = self.machine.spawn(self.live(), f"{self.name} lives")
        self.life.add_done_callback(self._ended)

    def open_client(self, space: Space) -> asyncio.Task[Client]:
        """One that knows the nodes in an order of its own, so that it asks another one first."""
        endpoints = list(self.cluster.endpoints)
        self.dice.shuffle(endpoints)

        def open_channel(address: str) -> Any:
            return SimulatedChannel(self.cluster.network, self._process, self.name, address)

        # Most share one stream for what they start and wait for; to the others each of it is a call.
        streams = self.cluster.dice(self.name + "/streams").random() < 0.7

        async def make() -> Client:
            return Client(
                endpoints,
                namespace=space.namespace,
                open_channel=open_channel,
                rng=self.dice,
                deadline_s=self.patience_seconds,
                streams=streams,
            )

        return self.machine.spawn(make(), "client")

    def _ended(self, life: asyncio.Task[None]) -> None:
        if not life.cancelled() and (error := life.exception()) is not None:
            self.cluster.watcher.violated(f"{self.name}, a program of ours, fails: {error!r}")

    async def live(self) -> None:
        raise NotImplementedError
