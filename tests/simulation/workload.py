"""Random clients and workers: the real SDK on machines of their own, and callers that misbehave."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from orchestrator.testing.machine import Machine
from orchestrator.testing.rpc import SimulatedChannel
from orchestrator_api.v1 import workers_pb2, workflows_pb2
from orchestrator_client import errors, task
from orchestrator_client.client import Client
from orchestrator_client.context import TaskContext
from orchestrator_client.worker import Worker
from tests.engine.scenario import Definitions
from tests.simulation.cluster import SimulatedCluster
from tests.simulation.history import FAILED, OK, REFUSED, UNKNOWN, History, Operation

SWITCH = {
    "name": "switch",
    "version": 1,
    "schemaVersion": 2,
    "tasks": [
        {
            "name": "wait",
            "taskReferenceName": "wait",
            "type": "WAIT",
            "inputParameters": {"signal": "end"},
        }
    ],
}
SWITCHES = 3
# How long callers wait for an answer; everybody else takes the last.
CALL_SECONDS = (0.1, 0.7, 2.0, 6.0)


class Person:
    """A machine without a disk, and a client of the SDK on it."""

    patience_seconds = CALL_SECONDS[-1]

    def __init__(self, cluster: SimulatedCluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.dice = cluster.dice(name)
        self.machine = Machine(name, cluster.loop, cluster.network, self.dice, None)
        self.machine.rate = 1 + self.dice.choice((0, 0.01, -0.01))
        self.boot()

    def boot(self) -> None:
        process = self.machine.boot()
        network = self.cluster.network

        def open_channel(address: str) -> Any:
            return SimulatedChannel(network, process, self.name, address)

        endpoints = list(self.cluster.endpoints)
        self.dice.shuffle(endpoints)

        async def make() -> Client:
            return Client(endpoints, open_channel=open_channel, rng=self.dice, deadline_s=self.patience_seconds)

        self.client = self.machine.spawn(make(), "client")
        self.life = self.machine.spawn(self.live(), f"{self.name} lives")
        self.life.add_done_callback(self._ended)

    def _ended(self, life: asyncio.Task[None]) -> None:
        if not life.cancelled() and (error := life.exception()) is not None:
            self.cluster.watcher.violated(f"{self.name}, a program of ours, fails: {error!r}")

    async def live(self) -> None:
        raise NotImplementedError


class Caller(Person):
    """Starts, reads and steers workflows, and remembers what it was told."""

    def __init__(self, cluster: SimulatedCluster, name: str, work: Work) -> None:
        self.work = work
        self.history = work.history
        self.number = 0
        self.patience_seconds = cluster.dice(name + "/patience").choice(CALL_SECONDS)
        super().__init__(cluster, name)

    async def live(self) -> None:
        client = await self.client
        while not self.work.stopped:
            await asyncio.sleep(self.dice.expovariate(self.work.rate))
            if not self.work.is_prepared:
                # Nothing is registered yet.
                continue
            if self.dice.random() < 0.2:
                # Several at once, which may share a log entry.
                await asyncio.gather(*(self._operate(client) for _ in range(self.dice.randint(2, 5))))
            else:
                await self._operate(client)
        self.work.callers_left -= 1

    async def _operate(self, client: Client) -> None:
        dice, work = self.dice, self.work
        roll = dice.random()
        if roll < 0.25 or not work.started:
            await self._start(client)
        elif roll < 0.5:
            await self._switch(client, dice.choice(work.switches))
        elif roll < 0.6:
            await self._note(client, dice.choice(work.switches))
        elif roll < 0.85:
            await self._get(client, dice.choice(work.started))
        else:
            await self._steer(client, dice.choice(work.started))

    async def _start(self, client: Client) -> None:
        self.number += 1
        mark = f"{self.name}-{self.number}"
        name = self.dice.choice(self.work.names)
        chosen = mark if self.dice.random() < 0.3 else ""
        operation = self.history.invoke(self.name, "start", mark, name)

        async def start() -> str:
            given = {"case": self.dice.choice("abz"), "pad": "x" * self.dice.choice((0, 0, 300, 5_000))}
            run = await client.start(
                name, given, id=chosen, correlation_id=mark, priority=self.dice.randint(0, 2), register=False
            )
            return run.workflow_id

        if await self._call(operation, start()) == OK:
            self.history.started(operation, operation.answer)
            self.work.started.append(operation.answer)

    async def _switch(self, client: Client, workflow_id: str) -> None:
        kind = self.dice.choice(("get", "get", "pause", "resume", "terminate" if self.dice.random() < 0.05 else "get"))
        operation = self.history.invoke(self.name, kind, workflow_id)

        async def steer() -> str:
            if kind == "terminate":
                await client.terminate(workflow_id, compensation="skip")
            elif kind == "get":
                return str((await client.get(workflow_id)).status)
            else:
                await getattr(client, kind)(workflow_id)
            return ""

        await self._call(operation, steer())

    async def _note(self, client: Client, workflow_id: str) -> None:
        self.number += 1
        operation = self.history.invoke(self.name, "note", workflow_id, f"{self.name}-{self.number}")
        await self._call(operation, client.signal(workflow_id, "note", {"n": operation.detail}))

    async def _get(self, client: Client, workflow_id: str) -> None:
        operation = self.history.invoke(self.name, "get", workflow_id)
        execution = None

        async def get() -> str:
            nonlocal execution
            execution = await client.get(workflow_id)
            return str(execution.status)

        outcome = await self._call(operation, get())
        if execution is not None:
            terminal = str(execution.status) if execution.status.ended else ""
            self.history.read(operation, (execution.run, execution.update_time.timestamp()), terminal)
        elif outcome == REFUSED:
            self.history.not_found(operation)

    async def _steer(self, client: Client, workflow_id: str) -> None:
        kind = self.dice.choice(
            ("pause", "resume", "signal", "terminate", "retry", "retry_compensation", "skip_compensation")
        )
        operation = self.history.invoke(self.name, kind, workflow_id)
        if kind == "signal":
            call = client.signal(workflow_id, "go", {"s": 1})
        elif kind == "terminate":
            call = client.terminate(workflow_id, compensation=self.dice.choice(("run", "skip", None)))
        else:
            call = getattr(client, kind)(workflow_id)
        await self._call(operation, call)

    async def _call(self, operation: Operation, call: Any) -> str:
        outcome, answer = OK, None
        try:
            answer = await call
        except errors.OutcomeUnknown as error:
            outcome, answer = UNKNOWN, error.reason
        except (errors.NoLeader, errors.Overloaded) as error:
            outcome, answer = FAILED, error.reason
        except errors.RequestError as error:
            outcome, answer = REFUSED, error.reason
        except errors.ClusterError as error:
            self.cluster.watcher.violated(f"{operation} was answered with {error!r}")
        self.history.complete(operation, outcome, answer)
        return outcome


class Labourer(Person):
    """A worker of the SDK whose tasks are slow, fail, or take longer than anybody waits."""

    def __init__(self, cluster: SimulatedCluster, name: str, work: Work) -> None:
        self.work = work
        self.slots = cluster.dice(name + "/slots").randint(1, 6)
        super().__init__(cluster, name)

    async def live(self) -> None:
        client = await self.client
        tasks = [self._task(name) for name in ("n0", "n1", "n2", "undo")]
        while True:
            worker = Worker(
                client, tasks, slots=self.slots, worker_id=self.name, session_timeout_ms=4_000, handle_signals=False
            )
            try:
                await worker.run()
            except errors.OrchestratorError as error:
                self.cluster.watcher.trace(self.name, f"worker ended: {error!r}")
            await asyncio.sleep(0.5)

    def _task(self, name: str) -> Any:
        async def work(ctx: TaskContext) -> dict[str, Any]:
            return await self._work(ctx)

        return task(name=name)(work)

    async def _work(self, ctx: TaskContext) -> dict[str, Any]:
        dice, good = self.dice, self.work.stopped
        self.work.handed_out[ctx.task_id] = (ctx.workflow_id, ctx.fencing_token)
        roll = 1.0 if good else dice.random()
        if roll < 0.03:
            await asyncio.sleep(dice.uniform(5, 25))
        elif roll < 0.5:
            await asyncio.sleep(dice.expovariate(5))
        if not good and dice.random() < 0.15:
            raise ValueError("broken")
        if not good and dice.random() < 0.03:
            raise errors.TerminalError("never")
        nonce = f"{self.name}-{dice.getrandbits(40):x}"
        return {"nonce": nonce, "token": ctx.fencing_token}


class Zombie(Person):
    """Says results of attempts that others hold, or held, under their tokens or older ones; and says them twice."""

    def __init__(self, cluster: SimulatedCluster, name: str, work: Work) -> None:
        self.work = work
        super().__init__(cluster, name)

    async def live(self) -> None:
        client = await self.client
        while not self.work.stopped:
            await asyncio.sleep(self.dice.expovariate(1.0))
            if not self.work.handed_out:
                continue
            task_id = self.dice.choice(list(self.work.handed_out)[-30:])
            workflow_id, token = self.work.handed_out[task_id]
            wrong = token > 3 and self.dice.random() < 0.5
            nonce = f"{self.name}-{self.dice.getrandbits(40):x}"
            output = json.dumps({"nonce": nonce}).encode()
            result = workers_pb2.TaskResult(
                workflow_id=workflow_id,
                task_id=task_id,
                fencing_token=token - self.dice.randint(1, 3) if wrong else token,
                status=workflows_pb2.TASK_STATUS_COMPLETED,
            )
            result.output.inline = output
            for _ in range(self.dice.randint(1, 2)):
                await self._say(client, result, nonce, wrong=wrong)

    async def _say(self, client: Client, result: Any, nonce: str, *, wrong: bool) -> None:
        request = workers_pb2.CompleteTaskRequest(result=result)
        try:
            reply = await client.connection.call(lambda node: node.workers.CompleteTask, request)
        except errors.OrchestratorError:
            return
        verdict = workers_pb2.Verdict.Name(reply.verdict.verdict)
        self.cluster.watcher.trace(self.name, f"{result.task_id} {nonce}: {verdict}")
        if wrong and reply.verdict.verdict == workers_pb2.VERDICT_ACCEPTED:
            self.cluster.watcher.violated(f"a completion of {result.task_id} under a wrong token was accepted")


class Work:
    """All people of one run."""

    def __init__(self, cluster: SimulatedCluster) -> None:
        dice = cluster.dice("work")
        self.cluster = cluster
        watcher = cluster.watcher
        self.history = History(lambda: cluster.loop.now, watcher.trace, watcher.violated)
        self.stopped = False
        self.rate = dice.choice((3.0, 6.0, 12.0))
        self.started: list[str] = []
        self.switches: list[str] = []
        self.handed_out: dict[str, tuple[str, int]] = {}
        made = [Definitions(dice).make(f"d{number}") for number in range(3)]
        self.definitions = [*made, SWITCH]
        self.names = [document["name"] for document in made]
        self.callers_left = dice.randint(2, 4)
        self.callers = [Caller(cluster, f"c{number}", self) for number in range(self.callers_left)]
        self.workers: list[Person] = [Labourer(cluster, f"w{number}", self) for number in range(dice.randint(1, 3))]
        self.workers += [Zombie(cluster, f"z{number}", self) for number in range(dice.randint(1, 2))]
        self.operator = Operator(cluster, "op", self)

    @property
    def is_prepared(self) -> bool:
        """Definitions are registered, and the switches wait."""
        return len(self.switches) == SWITCHES


class Operator(Person):
    """Prepares the ground, and at the end sees to it that whatever can end does."""

    def __init__(self, cluster: SimulatedCluster, name: str, work: Work) -> None:
        self.work = work
        self.settled = False
        super().__init__(cluster, name)

    async def live(self) -> None:
        client = await self.client
        while not self.work.is_prepared:
            workflow_id = f"switch-{len(self.work.switches)}"
            try:
                await client.register(*self.work.definitions, overwrite=True)
                await client.start("switch", {}, id=workflow_id, if_exists="return", register=False)
            except errors.ClusterError:
                continue
            self.work.switches.append(workflow_id)

    async def settle(self) -> None:
        """Resumes, signals and unsticks everything until nothing runs but the switches."""
        client = await self.client
        while True:
            try:
                left = [
                    execution
                    async for execution in client.search(statuses=["RUNNING", "PAUSED", "COMPENSATING"])
                    if execution.name != "switch"
                ]
                if not left:
                    self.settled = True
                    return
                shown = [f"{one.workflow_id} {one.name} {one.status} {one.compensation.state}" for one in left]
                self.cluster.watcher.trace(self.name, f"left: {shown}")
                for execution in left:
                    await self._nudge(client, execution)
            except errors.ClusterError as error:
                self.cluster.watcher.trace(self.name, f"settling: {error!r}")
            await asyncio.sleep(1.0)

    async def _nudge(self, client: Client, execution: Any) -> None:
        try:
            if execution.status == "PAUSED":
                await client.resume(execution.workflow_id)
            elif execution.compensation.state == "STUCK":
                await client.skip_compensation(execution.workflow_id)
            elif execution.status == "RUNNING":
                held = await client.get(execution.workflow_id, tasks=True)
                waits = [one for one in held.tasks if one.type == "WAIT" and str(one.status) == "IN_PROGRESS"]
                for wait in waits:
                    if "duration" not in wait.input or "signal" in wait.input:
                        await client.signal(execution.workflow_id, wait.input.get("signal", wait.reference), {})
        except errors.RequestError as error:
            self.cluster.watcher.trace(self.name, f"{execution.workflow_id}: {error!r}")
