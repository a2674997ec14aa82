"""Who does the work: workers of the SDK, good and bad, and callers that complete the work of others."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from orchestrator_api.v1 import workers_pb2, workflows_pb2
from orchestrator_client import errors, task
from orchestrator_client.client import Client
from orchestrator_client.context import TaskContext
from orchestrator_client.worker import Worker
from tests.simulation.cluster import SimulatedCluster
from tests.simulation.people import Person, Space

if TYPE_CHECKING:
    from tests.simulation.workload import Work

BEATS_ITSELF = "n0"


class Labourer(Person):
    """A worker of the SDK whose tasks are slow, fail, or take longer than anybody waits."""

    def __init__(self, cluster: SimulatedCluster, name: str, space: Space, work: Work) -> None:
        self.work = work
        self.slots = cluster.dice(name + "/slots").randint(1, 6)
        super().__init__(cluster, name, space)

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

        # Those of the one kind are alive as long as they say so, the others as long as their worker is.
        return task(name=name, response_timeout_ms=10_000 if name == BEATS_ITSELF else None)(work)

    async def _work(self, ctx: TaskContext) -> dict[str, Any]:
        dice, good = self.dice, self.work.stopped
        self.work.handed_out[ctx.task_id] = (ctx.namespace, ctx.workflow_id, ctx.fencing_token)
        roll = 1.0 if good else dice.random()
        if roll < 0.03:
            await asyncio.sleep(dice.uniform(5, 25))
        elif roll < 0.06:
            for number in range(dice.randint(1, 15)):
                ctx.heartbeat({"at": number})
                await asyncio.sleep(1.0)
        elif roll < 0.5:
            await asyncio.sleep(dice.expovariate(5))
        if not good and dice.random() < 0.15:
            raise ValueError("broken")
        if not good and dice.random() < 0.03:
            raise errors.TerminalError("never")
        nonce = f"{self.name}-{dice.getrandbits(40):x}"
        return {"nonce": nonce, "token": ctx.fencing_token}


class Zombie(Person):
    """Says results of attempts that others hold: under their tokens and under wrong ones, and more than once."""

    def __init__(self, cluster: SimulatedCluster, name: str, space: Space, work: Work) -> None:
        self.work = work
        super().__init__(cluster, name, space)

    async def live(self) -> None:
        client = await self.client
        while not self.work.stopped:
            await asyncio.sleep(self.dice.expovariate(1.0))
            if not self.work.handed_out:
                continue
            task_id = self.dice.choice(list(self.work.handed_out)[-30:])
            namespace, workflow_id, token = self.work.handed_out[task_id]
            wrong = token > 3 and self.dice.random() < 0.5
            nonce = f"{self.name}-{self.dice.getrandbits(40):x}"
            output = json.dumps({"nonce": nonce}).encode()
            result = workers_pb2.TaskResult(
                namespace=namespace,
                workflow_id=workflow_id,
                task_id=task_id,
                fencing_token=token - self.dice.randint(1, 3) if wrong else token,
                status=workflows_pb2.TASK_STATUS_COMPLETED,
            )
            result.output.inline = output
            if self.dice.random() < 0.1:
                wrong, result.namespace = True, "nobody's"
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
