"""What clients and workers have written down, and whether the cluster agrees with it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.verify.attempts import Ran, wrong_steps
from orchestrator_client import Client, Execution, NotFound, TaskAttempt

CHECKS_AT_ONCE = 32
# A worker that was killed loses its leases; nothing else gives a step another attempt.
ATTEMPTS_MAX = 5


@dataclass
class Started:
    """What is known of one execution. `acknowledged`: a client was told that it is there."""

    workflow_id: str
    outputs: list[Any]
    owner: Path
    workflow: str = ""
    acknowledged: bool = False
    refused: bool = False
    ended: bool = False
    told: Any = None
    checked: bool = False


@dataclass
class History:
    """Reads the files of all clients and workers in a folder, as far as they have been written."""

    folder: Path
    started: dict[str, Started] = field(default_factory=dict)
    once: set[str] = field(default_factory=set)
    acknowledged_at: list[float] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    ran: defaultdict[str, list[Ran]] = field(default_factory=lambda: defaultdict(list))
    killed_workers: set[str] = field(default_factory=set)
    killed_clients: set[Path] = field(default_factory=set)
    _read: dict[Path, int] = field(default_factory=dict)

    def update(self) -> None:
        for file in sorted(self.folder.glob("*.client")):
            for line in self._lines(file):
                self._take(file, json.loads(line))
        for file in sorted(self.folder.glob("*.worker")):
            for line in self._lines(file):
                ran = Ran(**json.loads(line))
                self.ran[ran.workflow_id].append(ran)
                self.counts["executed"] += 1

    def _lines(self, file: Path) -> list[str]:
        """Whole lines that are new; a kill may leave half of one."""
        offset = self._read.get(file, 0)
        with file.open("rb") as opened:
            opened.seek(offset)
            data = opened.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read[file] = offset + len(whole)
        return whole.decode().splitlines()

    def _take(self, file: Path, said: dict[str, Any]) -> None:
        kind, workflow_id = said["kind"], said.get("id", "")
        self.counts[kind] += 1
        if kind == "fault":
            self.faults.append(said["what"])
        elif kind == "once":
            self.once.add(said["correlation"])
        elif kind == "begun":
            self.started[workflow_id] = Started(workflow_id, said["outputs"], file, said["workflow"])
        elif kind == "acknowledged":
            found = self.started.setdefault(workflow_id, Started(workflow_id, said["outputs"], file, "arithmetic"))
            found.acknowledged = True
        elif kind == "also":
            self.started[workflow_id].outputs = said["outputs"]
        elif kind == "refused":
            self.started[workflow_id].refused = True
        elif kind == "ended":
            self.started[workflow_id].ended, self.started[workflow_id].told = True, said["output"]
        if kind in ("acknowledged", "signalled", "ended"):
            self.acknowledged_at.append(said["at"])
            self.acknowledged_at.sort()

    @property
    def acknowledgements(self) -> int:
        """Of starts, signals, reads and ends."""
        return sum(self.counts[kind] for kind in ("acknowledged", "signalled", "read", "ended"))

    # -- checks ----------------------------------------------------------------------------------------------------

    async def check(self, client: Client, *, all_again: bool = False) -> list[str]:
        """Everything that is wrong with what was not checked yet, or with all. Nobody may be at work meanwhile."""
        self.update()
        faults, self.faults = self.faults, []
        wanted = [each for each in self.started.values() if all_again or not each.checked]
        executions = []
        for started, execution in zip(wanted, await _find(client, wanted), strict=True):
            faults += [f"{started.workflow_id}: {fault}" for fault in self._wrong(started, execution)]
            started.checked = True
            if execution is not None:
                executions.append(execution)
        faults += _twice(executions, self.ran)
        if all_again:
            faults += await self._wrong_requests(client)
        return faults

    def _wrong(self, started: Started, execution: Execution | None) -> Iterator[str]:
        if execution is None:
            if started.acknowledged:
                yield "acknowledged, and lost"
            return
        if started.refused:
            yield f"was refused for certain, and is there ({execution.status})"
        forsaken = not started.ended and started.owner in self.killed_clients and started.workflow == "signalled"
        if execution.status != "COMPLETED":
            if not (forsaken and execution.status == "RUNNING"):
                yield f"is {execution.status} ({execution.reason}), not COMPLETED"
        elif execution.output not in started.outputs and not (forsaken and execution.output):
            yield f"came to {execution.output}, not {started.outputs}"
        if started.ended and started.told != execution.output:
            yield f"a client was told {started.told}, and now it is {execution.output}"
        ran = self.ran[started.workflow_id]
        yield from wrong_steps(execution, ran, ATTEMPTS_MAX)
        yield from self._wrong_leases(execution, ran)

    def _wrong_leases(self, execution: Execution, ran: list[Ran]) -> Iterator[str]:
        attempts = {(task.task_id, task.fencing_token) for task in execution.tasks}
        for each in ran:
            if (each.task_id, each.fencing_token) not in attempts:
                yield f"a worker was given attempt {each.attempt} of {each.reference}, of which nobody knows any more"
        steps: defaultdict[tuple[str, int], list[TaskAttempt]] = defaultdict(list)
        for task in execution.tasks:
            if task.type == "SIMPLE":
                steps[task.reference, task.iteration].append(task)
        for (reference, _), tried in steps.items():
            for task in tried[:-1]:
                if task.reason != "WORKER_LOST" or task.worker_id not in self.killed_workers:
                    yield (f"{reference} was handed out again, though nobody killed its worker {task.worker_id}: "
                           f"{task.status} {task.reason}")

    async def _wrong_requests(self, client: Client) -> list[str]:
        there = Counter([each.correlation_id async for each in _all(client) if each.correlation_id])
        return [f"the request {name} took effect {times} times" for name, times in there.items()
                if times != 1 or name not in self.once]


async def _all(client: Client) -> AsyncIterator[Execution]:
    async for each in client.search(name="arithmetic", page_size=1_000):
        yield each


async def _find(client: Client, wanted: list[Started]) -> list[Execution | None]:
    gate = asyncio.Semaphore(CHECKS_AT_ONCE)

    async def find(started: Started) -> Execution | None:
        async with gate:
            try:
                return await client.get(started.workflow_id, tasks=True)
            except NotFound:
                return None

    return await asyncio.gather(*map(find, wanted))


def _twice(executions: Iterable[Execution], ran: dict[str, list[Ran]]) -> Iterator[str]:
    """Of all things that must be unique over everything, those that are not."""
    executions = list(executions)
    tasks = [task for execution in executions for task in execution.tasks if task.fencing_token]
    executed = [each.fencing_token for execution in executions for each in ran[execution.workflow_id]]
    for what, values in (("fencing tokens given to two attempts", [task.fencing_token for task in tasks]),
                         ("task ids given to two attempts", [task.task_id for task in tasks]),
                         ("leases executed twice", executed)):
        if doubled := [value for value, times in Counter(values).items() if times > 1]:
            yield f"{what}: {doubled[:5]}"
