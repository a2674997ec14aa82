"""What a step costs: `python -m tests.engine.measure`. Start, lease and completion of one SIMPLE task per execution."""

from __future__ import annotations

import time
from hashlib import blake2b

from orchestrator.engine.choices import IfExists
from orchestrator.engine.commands import CompleteTask, StartWorkflow
from orchestrator.engine.effects import Deliver
from orchestrator.engine.model import TaskStatus
from tests.engine.driver import Driver, simple, workflow

COUNT = 5000
PER_ENTRY = 50


def main() -> None:
    driver = Driver(check=False)
    driver.register(workflow("w", simple("a")))
    for number in range(10):
        driver.worker(f"s{number}", "a", slots=1000)
    machine, state = driver.machine, driver.state
    spent = {"start": 0.0, "complete": 0.0, "entry": 0.0}
    index = driver.index
    clock = time.perf_counter
    leased: list[Deliver] = []
    for first in range(0, COUNT, PER_ENTRY):
        for kind in ("start", "complete"):
            index += 1
            began = clock()
            machine.begin_entry(index, 1, driver.now_ms + index, 1)
            spent["entry"] += clock() - began
            commands = []
            if kind == "start":
                for number in range(first, first + PER_ENTRY):
                    given = b'{"order": {"id": "x", "amount": 12}}'
                    commands.append(StartWorkflow("default", "w", 0, f"w{number}", IfExists.FAIL, given))
            else:
                for deliver in leased:
                    hot = state.execution((deliver.namespace, deliver.workflow_id))
                    task_id = hot.tasks[deliver.task_sequence].task_id
                    commands.append(
                        CompleteTask(
                            "default",
                            deliver.workflow_id,
                            task_id,
                            deliver.token,
                            TaskStatus.COMPLETED,
                            b'{"receipt": "r1"}',
                            "",
                            "",
                        )
                    )
            began = clock()
            outcomes = [machine.apply(command) for command in commands]
            while machine.next_message() is not None:
                machine.apply_message()
            spent[kind] += clock() - began
            if kind == "start":
                leased = [effect for outcome in outcomes for effect in outcome.effects if isinstance(effect, Deliver)]
            began = clock()
            machine.end_entry(blake2b(b"x", digest_size=16).digest())
            spent["entry"] += clock() - began
    began = clock()
    changes = state.take_changes()
    taken = clock() - began
    for kind, seconds in spent.items():
        print(f"{kind:10} {seconds / COUNT * 1e6:8.1f} us per command")
    print(f"{'flush':10} {taken / len(changes) * 1e6:8.1f} us per changed row ({len(changes)} rows)")


if __name__ == "__main__":
    main()
