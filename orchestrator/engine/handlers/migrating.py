"""Moving an execution that runs to another version of its definition."""

from __future__ import annotations

from orchestrator.engine import births, gate, migration
from orchestrator.engine.commands import MigrateWorkflow
from orchestrator.engine.errors import refuse
from orchestrator.engine.plan import compiled
from orchestrator.engine.results import AnyResult, Code, Done
from orchestrator.engine.step import Step


def migrate_workflow(step: Step, command: MigrateWorkflow) -> AnyResult:
    """It goes on with the new version, and the task definitions as they are registered now; or stays as it is."""
    step.require(command.namespace, command.workflow_id)
    bundled = births.bundle_of(step, step.x.namespace, step.x.name, command.version, b"")
    if bundled[0] == step.x.bundle:
        return Done()
    found = migration.obstacles(step.plan, compiled(step.state, bundled), step.hot)
    if found:
        refuse(Code.FAILED_PRECONDITION, "MIGRATION_UNSAFE", "; ".join(found))
    births.take_definition(step, bundled)
    step.hot.derived.clear()
    if not step.x.has_place and not step.x.waits:
        gate.assign(step)
    return Done()
