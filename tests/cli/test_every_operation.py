"""What the API can do, the SDK can do with and without asyncio, and the command line can."""

from __future__ import annotations

import re
from operator import attrgetter
from pathlib import Path

import click
import pytest

from orchestrator.cli.app import cli
from orchestrator_client import Client, SyncClient
from orchestrator_client.conductor import Conductor
from orchestrator_client.events import Events
from orchestrator_client.schedules import Schedules
from orchestrator_client.schemas import Schemas
from orchestrator_client.secrets import Secrets
from orchestrator_client.sync import SyncConductor, SyncEvents, SyncSchedules, SyncSchemas, SyncSecrets

PROTOS = Path(__file__).parents[2] / "proto/orchestrator_api/v1"

# Call: method of the client, command. "-": nothing that a caller would do by hand.
WAYS = {
    "OpenClientSession": "- -",
    "StartWorkflow": "start workflow/start",
    "Ask": "start_and_wait workflow/start",
    "StartWorkflowAndWait": "start_and_wait workflow/start",
    "ExecuteWorkflow": "execute workflow/execute",
    "AwaitWorkflow": "wait_blocked workflow/wait-blocked",
    "GetWorkflow": "get workflow/get",
    "WaitWorkflow": "wait workflow/wait",
    "WatchWorkflow": "watch workflow/watch",
    "SearchWorkflows": "search workflow/search",
    "SearchTasks": "search_tasks task/search",
    "SignalWorkflow": "signal workflow/signal",
    "SignalTask": "signal_task task/signal",
    "PauseWorkflow": "pause workflow/pause",
    "ResumeWorkflow": "resume workflow/resume",
    "TerminateWorkflow": "terminate workflow/terminate",
    "RetryWorkflow": "retry workflow/retry",
    "RetryCompensation": "retry_compensation workflow/compensation/retry",
    "SkipCompensation": "skip_compensation workflow/compensation/skip",
    "AbandonCompensation": "abandon_compensation workflow/compensation/abandon",
    "DeleteWorkflow": "delete workflow/delete",
    "OperateWorkflows": "operate workflow/pause",
    "UpdateVariables": "update_variables workflow/set-variables",
    "UpdateTask": "update_task task/update",
    "GetTaskLogs": "task_logs task/logs",
    "RestartWorkflow": "restart workflow/restart",
    "RerunWorkflow": "rerun workflow/rerun",
    "SkipTask": "skip_task workflow/skip-task",
    "ExplainWorkflow": "explain workflow/explain",
    "GetWorkflowTiming": "timing workflow/timing",
    "PushMessage": "push_message workflow/push-message",
    "MigrateWorkflow": "migrate workflow/migrate",
    "TestWorkflow": "test_workflow workflow/test",
    "RegisterWorkflows": "register workflow/register",
    "ValidateWorkflows": "validate workflow/validate",
    "RegisterTasks": "register task/register",
    "GetWorkflowDefinition": "workflow_definition workflow/definition",
    "GetTaskDefinition": "task_definition task/definition",
    "ListWorkflowDefinitions": "workflow_definitions workflow/definitions",
    "ListTaskDefinitions": "task_definitions task/definitions",
    "DeleteWorkflowDefinition": "delete_workflow_definition workflow/unregister",
    "DeleteTaskDefinition": "delete_task_definition task/unregister",
    "ListTaskQueues": "task_queues task/queues",
    "AddTaskLogs": "add_task_logs task/add-log",
    # What workers do: `Worker` does it by a stream, others by polling.
    "Work": "- -",
    "PollTasks": "- -",
    "CompleteTask": "- -",
    "RegisterService": "register_service service/register",
    "GetService": "service service/get",
    "ListServices": "services service/list",
    "DeleteService": "delete_service service/delete",
    "RegisterSchemas": "schemas.register schema/register",
    "GetSchema": "schemas.get schema/get",
    "ListSchemas": "schemas.list schema/list",
    "DeleteSchema": "schemas.delete schema/delete",
    "PutSecret": "secrets.put secret/put",
    "GetSecret": "secrets.get secret/get",
    "ListSecrets": "secrets.list secret/list",
    "DeleteSecret": "secrets.delete secret/delete",
    "RotateSecrets": "secrets.rotate secret/rotate",
    "PutSchedule": "schedules.put schedule/put",
    "GetSchedule": "schedules.get schedule/get",
    "ListSchedules": "schedules.list schedule/list",
    "DeleteSchedule": "schedules.delete schedule/delete",
    "PauseSchedule": "schedules.pause schedule/pause",
    "ResumeSchedule": "schedules.resume schedule/resume",
    "PauseAllSchedules": "schedules.pause_all schedule/pause-all",
    "ResumeAllSchedules": "schedules.resume_all schedule/resume-all",
    "RunSchedule": "schedules.run schedule/run",
    "ListScheduleRuns": "schedules.runs schedule/runs",
    "ListFireTimes": "schedules.fire_times schedule/times",
    "PublishEvent": "events.publish event/publish",
    "PutEventHandler": "events.put_handler event/handler/put",
    "GetEventHandler": "events.handler event/handler/get",
    "ListEventHandlers": "events.handlers event/handler/list",
    "DeleteEventHandler": "events.delete_handler event/handler/delete",
    "ListEventRuns": "events.runs event/runs",
    "ListPendingEvents": "events.pending event/pending",
    "ListTrail": "events.trail event/trail",
    "GetStreamStatus": "events.streams event/streams",
    "GetStatus": "status cluster/status",
    "GetLeader": "leader cluster/leader",
    "GetRetention": "retention cluster/retention",
    "SetRetention": "set_retention cluster/retention",
    # Members are changed by operators, who are on the nodes.
    "AddMember": "- cluster/add",
    "RemoveMember": "- cluster/remove",
    "ReplaceMember": "- cluster/replace",
    "TransferLeadership": "- cluster/transfer",
    "DrainNode": "- cluster/drain",
    "UndrainNode": "- cluster/undrain",
    "RaiseBehaviour": "- cluster/raise-behaviour",
    "Backup": "- cluster/backup",
}
PARTS = {
    "schedules": (Schedules, SyncSchedules),
    "events": (Events, SyncEvents),
    "schemas": (Schemas, SyncSchemas),
    "secrets": (Secrets, SyncSecrets),
    "conductor": (Conductor, SyncConductor),
}


def test_the_table_has_every_call() -> None:
    protos = "".join(path.read_text(encoding="utf-8") for path in sorted(PROTOS.glob("*.proto")))
    assert sorted(WAYS) == sorted(re.findall(r"^  rpc (\w+)\(", protos, re.MULTILINE))


@pytest.mark.parametrize("call", WAYS)
def test_it_can_be_done_with_and_without_asyncio_and_by_the_command_line(call: str) -> None:
    method, path = WAYS[call].split()
    if method != "-":
        part, _, name = method.rpartition(".")
        for kind in PARTS[part] if part else (Client, SyncClient):
            assert callable(attrgetter(name)(kind)), f"{kind.__name__} has no {name}"
    command: click.Command = cli
    for step in path.split("/") if path != "-" else ():
        assert isinstance(command, click.Group)
        assert step in command.commands, f"there is no {path}"
        command = command.commands[step]


@pytest.mark.parametrize("kind", [kinds[0] for kinds in PARTS.values()])
def test_every_part_of_the_client_is_there_without_asyncio(kind: type) -> None:
    face = next(faces[1] for faces in PARTS.values() if faces[0] is kind)
    for name in vars(kind):
        assert name.startswith("_") or hasattr(face, name), f"{face.__name__} has no {name}"
