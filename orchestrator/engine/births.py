"""How an execution comes to be, whoever wants it: a caller, a schedule, an event or another execution.

A refusal is a value and has changed nothing, so that whoever starts one from within can record it and go on.
"""

from __future__ import annotations

from typing import cast

from msgspec.structs import replace

from orchestrator.engine import blob_uses, gate, idempotency, limits
from orchestrator.engine.definitions.additions import check_new
from orchestrator.engine.definitions.errors import DefinitionError
from orchestrator.engine.definitions.model import INPUT_CHECK, TimeoutPolicy
from orchestrator.engine.definitions.parse import validate_unregistered
from orchestrator.engine.errors import Refused, refuse, refuse_definition
from orchestrator.engine.expressions import PayloadInvalid, check_payload, put_if_absent
from orchestrator.engine.model import AgendaKind, Execution, Table, TimerKind, WorkflowStatus
from orchestrator.engine.payloads import store, store_brought
from orchestrator.engine.plan import Plan, bundle_for, plan_of
from orchestrator.engine.resident import Bundle, WorkflowDefinitionRow
from orchestrator.engine.results import Code, Rejected, Started
from orchestrator.engine.start_checks import NOT_LOOKED, Looked
from orchestrator.engine.step import Step

Bundled = tuple[bytes, bytes]
"""(digest, text) of a definition with the task definitions as they are registered now."""


def start_within(
    step: Step,
    *,
    namespace: str,
    name: str,
    version: int,
    workflow_id: str,
    input: bytes,
    correlation_id: str = "",
    priority: int = 0,
    task_to_domain: tuple[tuple[str, str], ...] = (),
    created_by: str = "",
    document: bytes = b"",
    idempotency_key: str = "",
    parent: str = "",
    parent_sequence: int = 0,
    parent_task: str = "",
    root: str = "",
    depth: int = 0,
    trace: str = "",
    looked: Looked = NOT_LOOKED,
    is_checked: bool = False,
) -> Started | Rejected:
    """Starts the execution, which becomes the step's own, or says why not, and nothing has changed.

    `version` 0 is the highest; `workflow_id` "" makes an id, any other must be hot if it exists; `document` need not be
    registered; `looked` is what was found in the input; `is_checked`: `check_start` has passed. The key must be free.
    """
    try:
        if not is_checked:
            check_start(workflow_id, priority, input)
        _refuse_taken(step, namespace, workflow_id)
        bundled = bundle_of(step, namespace, name, version, document)
    except Refused as refused:
        return refused.rejected
    kept = cast(Bundle | None, step.state.resident[Table.BUNDLE].get((bundled[0],)))
    plan = _refer(step, bundled, kept)
    definition = plan.definition
    given = put_if_absent(definition.input_template, input or b"{}")
    is_known = looked.bundle == bundled[0]
    if (refusal := _refusal(step, plan, given, looked.violation if is_known else "")) is not None:
        step.write(Table.BUNDLE, (bundled[0],), kept)
        return refusal
    header = Execution(
        namespace=namespace,
        workflow_id=workflow_id or step.ids.make(),
        name=definition.name,
        version=definition.version,
        bundle=bundled[0],
        status=WorkflowStatus.RUNNING,
        created_ms=step.now, updated_ms=step.now, timeout_base_ms=step.now,
        correlation_id=correlation_id,
        priority=priority,
        created_by=created_by,
        task_to_domain=tuple(sorted(task_to_domain)),
        open_branches=1,
        idempotency_key=idempotency_key,
        retention_ms=definition.retention_ms,
        masked_fields=definition.masked_fields,
        retention_count=definition.retention_count,
        parent=parent,
        parent_sequence=parent_sequence,
        root=root,
        depth=depth,
        parent_task=parent_task,
        tells=plan.tells,
        trace=trace,
    )
    _begin(step, header, plan, given, is_known=is_known)
    return Started(header.workflow_id, existing=False)


def _refuse_taken(step: Step, namespace: str, workflow_id: str) -> None:
    existing = step.state.execution((namespace, workflow_id)) if workflow_id else None
    if existing is not None and existing.execution.deleted:
        message = f"what had the workflow id {workflow_id!r} is being deleted"
        refuse(Code.RESOURCE_EXHAUSTED, "WORKFLOW_DELETING", message)
    if existing is not None:
        refuse(Code.ALREADY_EXISTS, "WORKFLOW_ALREADY_EXISTS", f"the workflow id {workflow_id!r} is taken")


def _refusal(step: Step, plan: Plan, given: bytes, violation: str) -> Rejected | None:
    """`violation`: of the schema of the input."""
    own = (*plan.definition.input_template.values(), plan.definition.variables)
    obstacle = blob_uses.obstacle(step, given) or blob_uses.literal(step, *own)
    obstacle = obstacle or gate.obstacle(step, plan.definition.rate_limit, given)
    if obstacle:
        return Rejected(Code.INVALID_ARGUMENT, "INPUT_INVALID", f"input: {obstacle}", (("field", "input"),))
    if len(given) + len(plan.definition.variables) > limits.EXECUTION_BYTES:
        message = f"the execution's payloads exceed the limit of {limits.EXECUTION_BYTES} bytes"
        return Rejected(Code.INVALID_ARGUMENT, "PAYLOAD_TOO_LARGE", message, (("field", "input"),))
    if violation:
        message = violation[: limits.REASON_CHARS]
        return Rejected(Code.INVALID_ARGUMENT, "SCHEMA_VIOLATION", message, (("field", "input"),))
    return None


def check_start(workflow_id: str, priority: int, input: bytes) -> None:
    """Refuses what no definition could make right."""
    if len(workflow_id) > limits.WORKFLOW_ID_CHARS:
        message = f"a workflow id may have {limits.WORKFLOW_ID_CHARS} characters"
        refuse(Code.INVALID_ARGUMENT, "WORKFLOW_ID_TOO_LONG", message, field="workflow_id")
    if not 0 <= priority <= limits.PRIORITY:
        message = f"a priority is between 0 and {limits.PRIORITY}"
        refuse(Code.INVALID_ARGUMENT, "PRIORITY_INVALID", message, field="priority")
    try:
        check_payload(input or b"{}")
    except PayloadInvalid as error:
        refuse(Code.INVALID_ARGUMENT, "INPUT_INVALID", f"input: {error}", field="input", limit=error.limit)


def bundle_of(step: Step, namespace: str, name: str, version: int, document: bytes) -> Bundled:
    """Of the document, or else of the registered definition. Refuses what is not there, or can't be run."""
    try:
        if document:
            check_new(validate_unregistered(document, step.level).elements, step.level)
        else:
            document = _registered(step, namespace, name, version).document
        return bundle_for(step.state, namespace, document)
    except DefinitionError as error:
        refuse_definition(error)


def arm_timeout(step: Step) -> None:
    """The workflow's own timeout, from now."""
    definition = step.plan.definition
    if definition.timeout_ms and definition.timeout_policy == TimeoutPolicy.TIME_OUT_WF:
        step.change(workflow_timer=step.arm(TimerKind.WORKFLOW_TIMEOUT, definition.timeout_ms))


def _registered(step: Step, namespace: str, name: str, version: int) -> WorkflowDefinitionRow:
    which = version or step.state.highest_version.get((namespace, name), [0])[-1]
    rows = step.state.resident[Table.WORKFLOW_DEFINITION]
    row = cast(WorkflowDefinitionRow | None, rows.get((namespace, name, which)))
    if row is None:
        message = f"no workflow definition is called {name}{f' version {version}' if version else ''}"
        refuse(Code.NOT_FOUND, "WORKFLOW_DEFINITION_NOT_FOUND", message)
    return row


def _refer(step: Step, bundled: Bundled, kept: Bundle | None) -> Plan:
    """One execution more has the bundle."""
    digest, text = bundled
    bundle = kept or Bundle(digest, text, 0)
    step.write(Table.BUNDLE, (digest,), replace(bundle, executions=bundle.executions + 1))
    return plan_of(step.state, digest)


def take_definition(step: Step, bundled: Bundled) -> None:
    """The step's execution, which has not begun to run it, has another definition from now on."""
    bundles = step.state.resident[Table.BUNDLE]
    before = cast(Bundle, bundles[step.x.bundle,])
    plan = _refer(step, bundled, cast(Bundle | None, bundles.get((bundled[0],))))
    left = cast(Bundle, bundles[before.digest,]).executions - 1
    step.write(Table.BUNDLE, (before.digest,), replace(before, executions=left) if left else None)
    definition = plan.definition
    step.change(
        bundle=bundled[0],
        version=definition.version,
        retention_ms=definition.retention_ms,
        retention_count=definition.retention_count,
        masked_fields=definition.masked_fields,
        tells=step.x.tells or plan.tells,
    )
    step.plan_changed()


def _begin(step: Step, header: Execution, plan: Plan, given: bytes, *, is_known: bool) -> None:
    """`is_known`: that the input keeps its schema."""
    step.create(header)
    idempotency.keep(step)
    input_kept, variables_kept = store_brought(step, given), store(step, plan.definition.variables)
    header = step.header
    header.input, header.variables = input_kept, variables_kept
    gate.assign(step)
    arm_timeout(step)
    first = plan.nodes[INPUT_CHECK].next if is_known else plan.definition.first
    assert first is not None
    step.note(AgendaKind.SCHEDULE, 0, first)
    step.meta.live_executions += 1
