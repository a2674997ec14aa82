"""This checkout as if it had one behaviour level more than it has, at which executions get another priority.

python next_node.py serve ...
"""

from __future__ import annotations

import sys

from orchestrator.engine import behaviour

NEXT_LEVEL = behaviour.HIGHEST + 1
# What executions have that are started at that level; the others have what their start says.
PRIORITY = 7


def main() -> None:
    # Before anything else is imported that knows it.
    behaviour.HIGHEST = NEXT_LEVEL  # type: ignore[misc]  # final, but for this

    from msgspec import structs

    from orchestrator.engine import machine
    from orchestrator.engine.commands import StartWorkflow
    from orchestrator.engine.handlers import starting
    from orchestrator.engine.results import AnyResult
    from orchestrator.engine.step import Step

    def start_workflow(step: Step, command: StartWorkflow) -> AnyResult:
        if step.level >= NEXT_LEVEL:
            command = structs.replace(command, priority=PRIORITY)
        return starting.start_workflow(step, command)

    machine.COMMANDS[StartWorkflow] = start_workflow

    from orchestrator.__main__ import main as run

    run()


if __name__ == "__main__":
    sys.argv[0] = "orchestrator"
    main()
