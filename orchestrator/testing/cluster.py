"""A whole cluster for a test: real nodes and workers in one thread, under a virtual clock that jumps over idle time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Coroutine, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from orchestrator.config import Config
from orchestrator.engine.behaviour import HIGHEST
from orchestrator.testing.client import TestClient
from orchestrator.testing.idle import Idle
from orchestrator.testing.isolation import isolated, without_last_words
from orchestrator.testing.logs import quiet_logs
from orchestrator.testing.loop import Process, VirtualLoop
from orchestrator.testing.machine import EPOCH_MS, SECRET_KEYS, Machine
from orchestrator.testing.member import DATA, GRPC_PORT, PEER_PORT
from orchestrator.testing.network import SimulatedNetwork
from orchestrator.testing.nodes import LogObserver, Skipped, TestMember
from orchestrator.testing.scripts import Scripted
from orchestrator.testing.serving import Calls, ServedWorker
from orchestrator.testing.stubs import Handler, Stubs
from orchestrator.testing.stuck import Stuck, reasons
from orchestrator_client.client import Client
from orchestrator_client.tasks import Task

T = TypeVar("T")

LATENCY_SECONDS = (0.0002, 0.001)
# So long the loop runs before anybody looks whether there is still something to do.
TURN_SECONDS = 0.02
FORM_SECONDS = 60.0
RESTART_SECONDS = 2.0
SETTINGS: dict[str, int] = {"journal_segment_bytes": 1 << 20, "flush_interval_ms": 1_000}


class ClusterFailed(Exception):
    """The cluster itself did what it must not do: not the test's fault, nor that of what it tests."""


class Cluster:
    """`nodes` real nodes, 1 or 3, and a client. The same seed takes the same steps.

    As a fixture it comes formed, and the test runs in it. By hand::

        with Cluster(nodes=3, seed=7) as cluster:
            cluster.run(my_test(cluster))
    """

    def __init__(self, *, nodes: int = 3, seed: int = 0, observer: LogObserver | None = None) -> None:
        if nodes not in (1, 3):
            raise ValueError(f"a cluster for tests has 1 or 3 nodes, not {nodes}")
        self.seed = seed
        self._size = nodes
        self._observer = observer or LogObserver()
        self._open = contextlib.ExitStack()

    # -- life ------------------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if asyncio._get_running_loop() is not None:
            raise RuntimeError("a cluster for tests has a loop of its own and can't be used inside of another")
        with self._open:
            self._open.enter_context(quiet_logs())
            scratch = self._open.enter_context(isolated("cluster"))
            # Everything is made after the interpreter was told to look at what comes now, and only at that.
            self._build(scratch)
            self._open.callback(self._close)
            self._form()
            self._open = self._open.pop_all()
        return self

    def _build(self, scratch: Path) -> None:
        self._loop = VirtualLoop()  # type: ignore[abstract]  # what nobody here asks of a loop it has not
        self._network = SimulatedNetwork(self._loop, self._dice("network"), LATENCY_SECONDS)
        self._skipped = Skipped()
        self._members: dict[str, TestMember] = {}
        self._workers: list[ServedWorker] = []
        self._failures: list[str] = []
        self._blocked: list[tuple[str, str]] = []
        self._stubs = Stubs(lambda: self.now)
        # Whose time is that of the test: its own process, and what happens in the cluster at a given time.
        self._test = Process("the test")
        self._plans = Process("the plans of the test")
        self._stuck: asyncio.Future[str] | None = None
        self._waiters = 0
        addresses = {name: f"{name}:{PEER_PORT}" for name in self._names()}
        for name, address in addresses.items():
            machine = Machine(name, self._loop, self._network, self._dice(name), scratch)
            config = Config(
                node=name,
                data_dir=DATA,
                grpc_listen=f"{name}:{GRPC_PORT}",
                peer_listen=address,
                insecure=True,  # the network is in this process
                secret_keys_file=str(SECRET_KEYS),
                **SETTINGS,  # type: ignore[arg-type]  # settings that are numbers
            )
            member = TestMember(machine, config, self._skipped, self._observer, self._failures.append)
            machine.executors = self._stubs.executors(machine)
            self._members[name] = member
            member.initialise(addresses, self._dice(f"{name}'s identity"))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stack = self._open
        stack.close()

    def _form(self) -> None:
        for member in self._members.values():
            self._call(member.start)
        machine = Machine("client", self._loop, self._network, self._dice("client"), None)
        machine.boot()
        self._client = TestClient(machine, self._endpoints(), self._waits_for)
        self._idle = Idle(self._loop, self._members, self._workers, self._client, self._skipped, self._own_processes)
        self._loop.run(self._loop.now + FORM_SECONDS, lambda: self._failures or self._is_formed())
        self._check()
        if not self._is_formed():
            raise ClusterFailed(f"the nodes found no leader within {FORM_SECONDS:.0f} s of virtual time")

    def _is_formed(self) -> bool:
        """Whether all know the leader, and the cluster has raised its behaviour level: no entry of a test does."""
        leader = self.leader
        return leader is not None and all(
            one.serving
            and one.node is not None
            and one.node.log.leader == leader
            and one.node.state.meta.behaviour_level == HIGHEST
            for one in self._members.values()
        )

    def _close(self) -> None:
        with without_last_words():
            self._loop.close()
            self._network.forget()
            for member in self._members.values():
                member.machine.kill()
                assert member.machine.vfs is not None
                member.machine.vfs.close()
            self._loop.forget()
            # Whoever still holds the cluster holds nothing of it: all of that ends here.
            vars(self).clear()

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Runs a coroutine in the cluster's time, and answers its result.

        Raises what it raises, and Stuck when it waits for what will never come.
        """
        __tracebackhide__ = True
        task = self._loop.spawn(self._test, main, "the test")
        while not task.done():
            self._loop.run(self._loop.now + TURN_SECONDS, lambda: self._failures or task.done())
            self._check()
            if not task.done() and self._idle.has_nothing_left():
                self._end_waits(task)
        return task.result()

    def _end_waits(self, task: asyncio.Task[Any]) -> None:
        why = f"nothing will happen any more: {self._reasons()}"
        if self._waiters and self._stuck is not None and not self._stuck.done():
            self._stuck.set_result(why)
            return
        task.cancel()
        self._loop.run(self._loop.now + TURN_SECONDS, task.done)
        raise Stuck(f"{why}; and the test waits for something else than a workflow")

    def _reasons(self) -> str:
        leader = self._idle.leader
        if leader is None:
            return "the cluster has no leader"
        found = self._members[leader.config.node].machine.spawn(reasons(leader), "what open workflows wait for")
        self._loop.run(self._loop.now + FORM_SECONDS, found.done)
        return str(found.result())

    async def _waits_for(self, waiting: Coroutine[Any, Any, T]) -> T:
        """The result of a wait, unless nothing that could end it is left."""
        if self._stuck is None or self._stuck.done():
            self._stuck = self._loop.create_future()
        stuck, task = self._stuck, self._loop.create_task(waiting)
        both: set[asyncio.Future[Any]] = {stuck, task}
        self._waiters += 1
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise Stuck(stuck.result())
        finally:
            self._waiters -= 1
            task.cancel()

    def _check(self) -> None:
        """Errors that nobody asked for."""
        for member in self._members.values():
            self._failures += [f"node {member.name}: {error}" for error in member.server.errors]
            member.server.errors.clear()
        ours = tuple(f"{name}#" for name in self._members)
        errors, self._loop.errors = self._loop.errors, []
        for error in errors:
            if error.startswith(ours):
                self._failures.append(error)
            else:
                logging.getLogger("asyncio").error(error)
        if self._failures:
            raise ClusterFailed("; ".join(self._failures))

    # -- what a test uses ------------------------------------------------------------------------------------------

    @property
    def client(self) -> Client:
        """The SDK's client."""
        return self._client

    def serve(
        self, *tasks: Task[..., Any] | Scripted, slots: int = 32, domain: str | None = None, **options: Any
    ) -> Calls:
        """Starts a worker of these tasks and their compensations, and notes its calls; options as for `Worker`."""
        machine = Machine(
            f"worker-{len(self._workers) + 1}",
            self._loop,
            self._network,
            self._dice(f"worker {len(self._workers) + 1}"),
            None,
        )
        worker = ServedWorker(
            machine,
            tasks,
            endpoints=self._endpoints(),
            options={"slots": slots, "domain": domain, **options},
            now=lambda: self.now,
            kill=self.kill,
            on_failed=self._failures.append,
        )
        self._workers.append(worker)
        self._call(worker.start)
        return worker.calls

    def stub(self, kind: str, handler: Handler) -> Calls:
        """Lets the handler answer calls of HTTP ("system/http") or gRPC ("system/grpc") tasks, and notes them.

        It is given the request, as the task has it, and answers the task's output (or `http_answer(...)`).
        """
        return self._stubs.add(kind, handler)

    def environment(self, node: str) -> dict[str, str]:
        """The node's variables, none at first, to be set: its tasks may ask for them by `runtimeMetadata`."""
        return self._member(node).machine.environment

    @property
    def now(self) -> datetime:
        """The time of the cluster; log time follows it."""
        passed = timedelta(seconds=self._loop.now + self._skipped.seconds)
        return datetime.fromtimestamp(EPOCH_MS / 1000, UTC) + passed

    async def advance(self, **duration: float) -> None:
        """Lets time pass: `await cluster.advance(days=30)`. Units are those of timedelta."""
        await asyncio.sleep(timedelta(**duration).total_seconds())

    @property
    def nodes(self) -> list[str]:
        """The names of all nodes."""
        return list(self._members)

    @property
    def leader(self) -> str | None:
        """The node that serves as the leader now."""
        leader = self._idle.leader
        return leader.config.node if leader is not None else None

    async def elected(self) -> str:
        """Waits until a node serves as the leader, and answers which."""
        while (leader := self.leader) is None:  # noqa: ASYNC110 - nodes have no event for who waits outside of them
            await asyncio.sleep(TURN_SECONDS)
        return leader

    # -- trouble ---------------------------------------------------------------------------------------------------

    def kill_leader(self, *, restart_after: float | None = RESTART_SECONDS) -> str:
        """As `kill -9` of the leader, which is started again after so many seconds, or not; answers which it was."""
        leader = self.leader
        if leader is None:
            raise RuntimeError("there is no leader now; `await cluster.elected()` waits for one")
        self.kill(leader, restart_after=restart_after)
        return leader

    def kill(self, name: str, *, restart_after: float | None = RESTART_SECONDS) -> None:
        """As `kill -9` of a node or a worker."""
        self._machine(name).kill()
        self._restart_later(name, restart_after)

    def lose_power(self, node: str, *, restart_after: float | None = RESTART_SECONDS) -> None:
        """The node's machine is gone without a word, and what it had not synced may be."""
        self._member(node).machine.lose_power()
        self._restart_later(node, restart_after)

    def restart(self, name: str) -> None:
        """Starts the node or worker, if it does not run."""
        if not self._machine(name).running:
            starts: dict[str, Callable[[], None]] = {one.machine.name: one.start for one in self._workers}
            starts |= {member.name: member.start for member in self._members.values()}
            self._call(starts[name])

    def pause(self, node: str) -> None:
        """The node stands still, as by SIGSTOP, until `resume`."""
        self._member(node).machine.pause()

    def resume(self, node: str) -> None:
        """It goes on where it was."""
        self._member(node).machine.resume()

    def partition(self, *groups: Iterable[str]) -> None:
        """Whoever is in different groups is not heard, until `heal`: nodes, workers and the test's "client".

        Who is in no group hears everybody.
        """
        sides = [[self._machine(name).name for name in group] for group in groups]
        pairs = [(a, b) for side in sides for other in sides if other is not side for a in side for b in other]
        self._blocked += pairs
        self._network.block(pairs)

    def heal(self) -> None:
        """Ends all partitions."""
        blocked, self._blocked = self._blocked, []
        self._network.unblock(blocked)

    def _restart_later(self, name: str, seconds: float | None) -> None:
        if seconds is not None:
            self._later(seconds, lambda: self.restart(name))

    # -- inside ----------------------------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        return [f"n{number + 1}" for number in range(self._size)]

    def _endpoints(self) -> list[str]:
        return [f"{name}:{GRPC_PORT}" for name in self._names()]

    def _dice(self, purpose: str) -> random.Random:
        return random.Random(f"{self.seed}/{purpose}")  # noqa: S311 - a simulation repeats

    def _machine(self, name: str) -> Machine:
        machines = {member.name: member.machine for member in self._members.values()}
        machines |= {worker.machine.name: worker.machine for worker in self._workers}
        machines[self._client.machine.name] = self._client.machine
        if name not in machines:
            raise ValueError(f"there is no {name!r}; there are {', '.join(machines)}")
        return machines[name]

    def _member(self, node: str) -> TestMember:
        if node not in self._members:
            raise ValueError(f"there is no node {node!r}; there are {', '.join(self._members)}")
        return self._members[node]

    def _own_processes(self) -> list[Process]:
        """Those for which time that is passed over passes."""
        machines = [one.machine for one in self._workers] + [one.machine for one in self._members.values()]
        return [self._test, self._plans, *(process for machine in machines for process in machine.companions.values())]

    def _later(self, seconds: float, what: Callable[[], None]) -> None:
        self._loop.call_later(seconds, what, context=self._plans.context)

    def _call(self, what: Callable[[], object]) -> None:
        """From outside of the loop or inside."""
        running = asyncio._get_running_loop()
        asyncio._set_running_loop(self._loop)
        try:
            what()
        finally:
            asyncio._set_running_loop(running)
