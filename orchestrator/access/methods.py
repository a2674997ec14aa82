"""What every call needs, and every thing that can be said on a stream. What is not here is refused.

A test walks all services and streams and compares.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.access.roles import Need

PACKAGE = "orchestrator.v1"


@dataclass(frozen=True)
class Rule:
    """Where a request says what is asked for: paths of fields, empty for none."""

    need: Need
    namespace: str = ""
    name: str = ""  # of the workflow, event or tasks, where the need is about one
    target: str = ""  # for the audit log
    audited: bool = False
    limited: bool = True  # by the rate of requests
    # The name is that of the execution, which has to be looked up if that matters.
    of_execution: bool = False
    # The request is judged by more than that: see `rpc.guard`.
    closer: str = ""


def _read(target: str = "", namespace: str = "namespace") -> Rule:
    return Rule(Need.READ, namespace, target=target)


def _see(workflow_id: str = "workflow_id") -> Rule:
    return Rule(Need.SEE, "namespace", target=workflow_id, of_execution=True)


def _signal() -> Rule:
    return Rule(Need.SIGNAL, "namespace", target="workflow_id", of_execution=True)


def _start(prefix: str = "") -> Rule:
    return Rule(Need.START, f"{prefix}namespace", f"{prefix}name", f"{prefix}workflow_id", closer="start")


def _operate(target: str = "workflow_id", *, limited: bool = True) -> Rule:
    return Rule(Need.OPERATE, "namespace", target=target, audited=True, limited=limited)


def _administer(target: str) -> Rule:
    return Rule(Need.ADMINISTER, "namespace", target=target, audited=True)


def _administer_cluster(target: str = "") -> Rule:
    return Rule(Need.ADMINISTER_CLUSTER, target=target, audited=True)


_MEMBER = Rule(Need.MEMBER)

_SERVICES: dict[str, dict[str, Rule]] = {
    "DefinitionService": {
        "RegisterWorkflows": _administer("definition_json"),
        "ValidateWorkflows": _read(),
        "RegisterTasks": _administer("definition_json"),
        "GetWorkflowDefinition": _read("name"),
        "GetTaskDefinition": _read("name"),
        "ListWorkflowDefinitions": _read(),
        "ListTaskDefinitions": _read(),
        "DeleteWorkflowDefinition": _administer("name"),
        "DeleteTaskDefinition": _administer("name"),
    },
    "WorkflowService": {
        "OpenClientSession": Rule(Need.PRESENT, "namespace"),
        "StartWorkflow": _start(),
        "StartWorkflowAndWait": _start("start."),
        "ExecuteWorkflow": _start("start."),
        "GetWorkflow": _see(),
        "WaitWorkflow": _see(),
        "WatchWorkflow": _see(),
        "AwaitWorkflow": _see(),
        "ExplainWorkflow": _see(),
        "GetWorkflowTiming": _see(),
        "GetTaskLogs": _see(),
        "SearchWorkflows": _read(),
        "SearchTasks": _read(),
        "SignalWorkflow": _signal(),
        "SignalTask": _signal(),
        "PushMessage": _signal(),
        "PauseWorkflow": _operate(),
        "ResumeWorkflow": _operate(),
        "TerminateWorkflow": _operate(limited=False),
        "RetryWorkflow": _operate(),
        "RestartWorkflow": _operate(),
        "RerunWorkflow": _operate(),
        "SkipTask": _operate(),
        "RetryCompensation": _operate(),
        "SkipCompensation": _operate(),
        "AbandonCompensation": _operate(),
        "UpdateVariables": _operate(),
        "UpdateTask": _operate(),
        "MigrateWorkflow": _operate(),
        "DeleteWorkflow": _administer("workflow_id"),
        "OperateWorkflows": Rule(Need.OPERATE, "namespace", target="workflow_ids", audited=True, closer="bulk"),
        "TestWorkflow": Rule(Need.OPERATE, "start.namespace"),
    },
    "AskService": {"Ask": _MEMBER},
    "WorkerService": {
        "Work": Rule(Need.MEMBER, limited=False),
        "PollTasks": Rule(Need.WORK, "namespace", "task_names"),
        "CompleteTask": Rule(Need.WORK, "result.namespace", limited=False, closer="attempt"),
        "AddTaskLogs": Rule(Need.WORK, "namespace", limited=False, closer="attempt"),
        "ListTaskQueues": _read(),
    },
    "ClusterService": {
        "GetStatus": _MEMBER,
        "GetLeader": Rule(Need.MEMBER, limited=False),
        "GetRetention": _MEMBER,
        "AddMember": _administer_cluster("name"),
        "RemoveMember": _administer_cluster("name"),
        "ReplaceMember": _administer_cluster("name"),
        "SetRetention": _administer_cluster(),
        "TransferLeadership": _administer_cluster("node"),
        "DrainNode": _administer_cluster("node"),
        "UndrainNode": _administer_cluster("node"),
        "RaiseBehaviour": _administer_cluster(),
        # Nothing is changed by it, and everything is seen.
        "Backup": _administer_cluster(),
    },
    "ServiceRegistryService": {
        "RegisterService": _administer("record_json"),
        "GetService": _read("name"),
        "ListServices": _read(),
        "DeleteService": _administer("name"),
    },
    "SchemaRegistryService": {
        "RegisterSchemas": _administer("schema_json"),
        "GetSchema": _read("name"),
        "ListSchemas": _read(),
        "DeleteSchema": _administer("name"),
    },
    "SecretService": {
        "PutSecret": _administer("name"),
        "GetSecret": _read("name"),
        "ListSecrets": _read(),
        "DeleteSecret": _administer("name"),
        "RotateSecrets": _administer_cluster(),
    },
    "ScheduleService": {
        "PutSchedule": _administer("schedule_json"),
        "GetSchedule": _read("name"),
        "ListSchedules": _read(),
        "ListScheduleRuns": _read("name"),
        "ListFireTimes": _read("name"),
        "DeleteSchedule": _administer("name"),
        "PauseSchedule": _operate("name"),
        "ResumeSchedule": _operate("name"),
        "RunSchedule": _operate("name"),
        "PauseAllSchedules": _administer_cluster(),
        "ResumeAllSchedules": _administer_cluster(),
    },
    "EventService": {
        "PutEventHandler": _administer("handler_json"),
        "GetEventHandler": _read("name"),
        "ListEventHandlers": _read(),
        "DeleteEventHandler": _administer("name"),
        "PublishEvent": Rule(Need.PUBLISH, "namespace", "event"),
        "ListEventRuns": _read(),
        "ListPendingEvents": _read(),
        "ListTrail": _read("correlation_id"),
        "GetStreamStatus": _read(),
    },
}

METHODS: dict[str, Rule] = {
    f"/{PACKAGE}.{service}/{method}": rule for service, methods in _SERVICES.items() for method, rule in methods.items()
} | {
    # Who asks whether a node is ready shows nothing: probes have no credentials.
    "/grpc.health.v1.Health/Check": Rule(Need.NOTHING, limited=False),
    "/grpc.health.v1.Health/Watch": Rule(Need.NOTHING, limited=False),
    "/grpc.health.v1.Health/List": Rule(Need.NOTHING, limited=False),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": _MEMBER,
}

STREAMED: dict[str, Need] = {
    "Ask/hello": Need.MEMBER,
    "Ask/cancels": Need.MEMBER,  # of asks of the same stream
    "Ask/asks/start": Need.START,
    "Ask/asks/outcome": Need.START,
    "Ask/asks/wait": Need.SEE,
    "Work/hello": Need.WORK,  # for each task named, or SYSTEM_WORK; and for whatever the session has already
    "Work/results": Need.WORK,  # of the attempt's task
    "Work/heartbeat": Need.WORK,  # same
    "Work/logs": Need.WORK,  # same
    "Work/release": Need.MEMBER,  # of what the session has
    "Work/slots": Need.MEMBER,  # same
    "Work/goodbye": Need.MEMBER,  # same
}
"""By stream, frame, and what is in it."""

BULK: dict[str, Need] = {
    "WORKFLOW_OPERATION_PAUSE": Need.OPERATE,
    "WORKFLOW_OPERATION_RESUME": Need.OPERATE,
    "WORKFLOW_OPERATION_RETRY": Need.OPERATE,
    "WORKFLOW_OPERATION_RESTART": Need.OPERATE,
    "WORKFLOW_OPERATION_TERMINATE": Need.OPERATE,
    "WORKFLOW_OPERATION_DELETE": Need.ADMINISTER,
    "WORKFLOW_OPERATION_TERMINATE_AND_DELETE": Need.ADMINISTER,
}
"""By what OperateWorkflows is to do."""


def named(method: str) -> list[str]:
    """The full names of the methods that somebody may mean."""
    return [full for full in METHODS if full == method or full.lstrip("/").endswith(f"/{method}")]
