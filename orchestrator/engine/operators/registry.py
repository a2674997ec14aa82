"""Task types by name. A type that is not here is that of a worker's task."""

from __future__ import annotations

from orchestrator.engine.definitions.model import TaskType
from orchestrator.engine.operators.fork_join import ForkJoin
from orchestrator.engine.operators.join import Join
from orchestrator.engine.operators.noop import Noop
from orchestrator.engine.operators.operator import Operator
from orchestrator.engine.operators.set_variable import SetVariable
from orchestrator.engine.operators.simple import Simple
from orchestrator.engine.operators.switch import SwitchCase
from orchestrator.engine.operators.terminate import Terminate
from orchestrator.engine.operators.wait import Wait

OPERATORS: dict[str, Operator] = {
    TaskType.SIMPLE: Simple(),
    TaskType.SWITCH: SwitchCase(),
    TaskType.FORK_JOIN: ForkJoin(),
    TaskType.JOIN: Join(),
    TaskType.WAIT: Wait(),
    TaskType.SET_VARIABLE: SetVariable(),
    TaskType.TERMINATE: Terminate(),
    TaskType.NOOP: Noop(),
}
