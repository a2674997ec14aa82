"""What applying an entry does once for each command, apart from whatever waits: so this module can be compiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeGuard

from orchestrator.engine.commands import AnyCommand, RequestIdentity
from orchestrator.engine.effects import AnyEffect
from orchestrator.engine.machine import Machine
from orchestrator.engine.model import ExecutionKey
from orchestrator.engine.results import AnyResult, Code, Rejected

Commands = Sequence[tuple[RequestIdentity | None, AnyCommand]]


def apply_commands(
    machine: Machine,
    commands: Commands,
    results: list[AnyResult],
    effects: list[AnyEffect],
    monotonic: Callable[[], float],
    until: float,
) -> bool:
    """Applies those that have no result yet, at least one, until then by the clock; says whether that were all."""
    for at in range(len(results), len(commands)):
        identity, command = commands[at]
        outcome = machine.apply(command, identity)
        results.append(outcome.result)
        if outcome.effects:
            effects.extend(outcome.effects)
        if monotonic() > until:
            return False
    return True


def cold_executions(
    machine: Machine, commands: Commands, may_have: Callable[[ExecutionKey], bool]
) -> list[ExecutionKey]:
    """Those that the commands name and that must be read before they are applied, each once."""
    cold: dict[ExecutionKey, None] = {}
    for _, command in commands:
        for key in machine.executions_needed(command):
            if key not in cold and is_cold(machine, key, may_have):
                cold[key] = None
    return list(cold)


def is_cold(machine: Machine, key: ExecutionKey, may_have: Callable[[ExecutionKey], bool]) -> bool:
    """Whether the execution has to be read."""
    # An empty id is nobody's: the step concerns no execution.
    return bool(key[1]) and not machine.state.is_known(key) and may_have(key)


def unexpected_errors(commands: Commands, results: Sequence[AnyResult]) -> list[tuple[AnyCommand, Rejected]]:
    """Commands whose steps failed as no step should, with what was answered."""
    return [(commands[at][1], result) for at, result in enumerate(results) if is_unexpected(result)]


def is_unexpected(result: AnyResult) -> TypeGuard[Rejected]:
    """Whether it says that a step broke."""
    return isinstance(result, Rejected) and result.code is Code.INTERNAL
