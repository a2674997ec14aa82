"""What steps cost: `python -m tests.engine.measure [COUNT]`. Workflows of three SIMPLE tasks, each on the one before.

As on a busy cluster: many run at once, and an entry of the log has commands of all kinds.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from hashlib import blake2b

from orchestrator.codec.rows import encode_row, row_digest
from orchestrator.engine.choices import IfExists
from orchestrator.engine.commands import AnyCommand, CompleteTask, StartWorkflow
from orchestrator.engine.effects import Deliver
from orchestrator.engine.model import TaskStatus
from tests.engine.driver import Driver, simple, workflow

AT_ONCE = 64
PER_ENTRY = 28
ENTRIES_PER_FLUSH = 50


class Measure:
    """Drives the machine as the applier does, with what takes its time and nothing else."""

    def __init__(self) -> None:
        self.driver = Driver(check=False)
        given = "${workflow.input.number}"
        self.driver.register(
            workflow(
                "w3",
                simple("a", inputParameters={"number": given, "note": "${workflow.input.note}"}),
                simple("b", inputParameters={"number": "${a.output.number}"}),
                simple("c", inputParameters={"number": "${b.output.number}"}),
                outputParameters={"number": "${c.output.number}"},
            )
        )
        self.driver.worker("s", "a", "b", "c", slots=2 * AT_ONCE)
        self.spent = {"begin": 0.0, "start": 0.0, "complete": 0.0, "end": 0.0, "flush": 0.0, "encode": 0.0}
        self.entries = self.rows = 0

    def run(self, count: int) -> None:
        """Starts so many, and completes them."""
        state = self.driver.state
        leased: deque[Deliver] = deque()
        started = ended = 0
        while ended < count:
            commands: list[AnyCommand] = []
            while len(commands) < PER_ENTRY and started < count and started - ended < AT_ONCE:
                started += 1
                given = b'{"number": 12, "note": "of an order"}'
                commands.append(StartWorkflow("default", "w3", 0, f"order-{started}", IfExists.FAIL, given))
            while len(commands) < PER_ENTRY and leased:
                deliver = leased.popleft()
                hot = state.execution((deliver.namespace, deliver.workflow_id))
                assert hot is not None
                task = hot.tasks[deliver.task_sequence]
                ended += task.reference == "c"
                where, output = ("default", deliver.workflow_id, task.task_id, deliver.token), b'{"number":13}'
                commands.append(CompleteTask(*where, TaskStatus.COMPLETED, output, "", ""))
            leased.extend(self._entry(commands))
            if self.entries % ENTRIES_PER_FLUSH == 0:
                self._flush()

    def _entry(self, commands: list[AnyCommand]) -> list[Deliver]:
        machine, spent, clock = self.driver.machine, self.spent, time.perf_counter
        self.entries += 1
        index = self.driver.index + self.entries
        began = clock()
        machine.begin_entry(index, 1, self.driver.now_ms + index)
        now = clock()
        spent["begin"] += now - began
        leased = []
        for command in commands:
            began = now
            outcome = machine.apply(command)
            now = clock()
            spent["start" if type(command) is StartWorkflow else "complete"] += now - began
            leased += [effect for effect in outcome.effects if isinstance(effect, Deliver)]
        began = clock()
        while machine.next_message() is not None:
            machine.apply_message()
        machine.end_entry(blake2b(b"x", digest_size=16).digest())
        spent["end"] += clock() - began
        return leased

    def _flush(self) -> None:
        clock = time.perf_counter
        began = clock()
        changes = self.driver.state.take_changes()
        self.spent["flush"] += clock() - began
        began = clock()
        for table, key, row, _ in changes:
            if row is not None:
                row_digest(table, key, encode_row(row))
        self.spent["encode"] += clock() - began
        self.rows += len(changes)
        for key in self.driver.state.eviction_candidates(len(changes)):
            hot = self.driver.state.execution(key)
            if hot is not None and hot.execution.ended_ms:
                self.driver.state.evict(key)


def main(count: int) -> None:
    Measure().run(count // 10)
    measure = Measure()
    measure.run(count)
    for kind, seconds in measure.spent.items():
        print(f"{kind:10} {seconds / count * 1e6:8.1f} us")
    applied = sum(measure.spent[kind] for kind in ("begin", "start", "complete", "end"))
    print(f"{'applied':10} {applied / count * 1e6:8.1f} us per workflow, {measure.rows / count:.1f} rows of it flushed")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5_000)
