"""Task types by name. A type that is not here is that of a worker's task."""

from __future__ import annotations

from orchestrator.engine.definitions.model import TaskType
from orchestrator.engine.operators.checked import Checked, SchemaCheck
from orchestrator.engine.operators.do_while import DoWhile
from orchestrator.engine.operators.dynamic import Dynamic
from orchestrator.engine.operators.event import Event
from orchestrator.engine.operators.exclusive_join import ExclusiveJoin
from orchestrator.engine.operators.fork_join import ForkJoin
from orchestrator.engine.operators.fork_join_dynamic import ForkJoinDynamic
from orchestrator.engine.operators.human import Human
from orchestrator.engine.operators.inline import Inline
from orchestrator.engine.operators.join import Join
from orchestrator.engine.operators.noop import Noop
from orchestrator.engine.operators.operator import Evaluated, Operator
from orchestrator.engine.operators.pull_messages import PullMessages
from orchestrator.engine.operators.set_variable import SetVariable
from orchestrator.engine.operators.start_workflow import StartWorkflow
from orchestrator.engine.operators.sub_workflow import SubWorkflow
from orchestrator.engine.operators.switch import SwitchCase
from orchestrator.engine.operators.terminate import Terminate
from orchestrator.engine.operators.wait import Wait
from orchestrator.engine.operators.worked import Worked

OPERATORS: dict[str, Operator] = {
    TaskType.SIMPLE: Checked(Worked()),
    TaskType.HTTP: Checked(Worked()),
    TaskType.GRPC: Checked(Worked()),
    TaskType.INLINE: Checked(Inline()),
    TaskType.JSON_JQ_TRANSFORM: Checked(Inline()),
    TaskType.SWITCH: SwitchCase(),
    TaskType.DO_WHILE: DoWhile(),
    TaskType.FORK_JOIN: ForkJoin(),
    TaskType.FORK_JOIN_DYNAMIC: ForkJoinDynamic(),
    TaskType.JOIN: Join(),
    TaskType.EXCLUSIVE_JOIN: ExclusiveJoin(),
    TaskType.DYNAMIC: Dynamic(),
    TaskType.WAIT: Checked(Wait()),
    TaskType.HUMAN: Checked(Human()),
    TaskType.SUB_WORKFLOW: Checked(SubWorkflow()),
    TaskType.START_WORKFLOW: Checked(StartWorkflow()),
    TaskType.EVENT: Checked(Event()),
    TaskType.PULL_WORKFLOW_MESSAGES: Checked(PullMessages()),
    TaskType.SET_VARIABLE: Checked(SetVariable()),
    TaskType.TERMINATE: Terminate(),
    TaskType.NOOP: Checked(Noop()),
    TaskType.SCHEMA_CHECK: SchemaCheck(),
}

EVALUATED: dict[str, Evaluated] = {TaskType.SWITCH: SwitchCase(), TaskType.DO_WHILE: DoWhile()}
"""Types that are not done with the evaluation. To the others it is the result."""
