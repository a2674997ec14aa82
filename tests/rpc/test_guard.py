"""The door: who calls is found out, and gets what was granted and nothing else, whatever the method."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from orchestrator.access.methods import METHODS
from orchestrator.access.roles import Need
from orchestrator.engine import commands
from orchestrator.engine.log_commands import AddTaskLogs
from orchestrator.replication.log import Role
from orchestrator_api.v1 import cluster_pb2, definitions_pb2, events_pb2, schedules_pb2, workers_pb2
from orchestrator_api.v1 import workflows_pb2 as pb
from orchestrator_api.v1.common_pb2 import PageRequest
from tests.access.issuing import ISSUER, Issuer
from tests.engine.driver import simple, workflow
from tests.rpc.bench import Bench, Stubs, soon
from tests.rpc.guarding import (
    DENIED,
    EXPIRED,
    INVALID,
    MISSING,
    NOT_FOUND,
    NOW_MS,
    RULES,
    Guarded,
    guarded,
    refused,
)
from tests.rpc.statuses import info_of
from tests.rpc.test_cluster import status

STREAMS = {"/orchestrator.v1.AskService/Ask", "/orchestrator.v1.WorkerService/Work"}
SERVED_STREAMS = {"/orchestrator.v1.WorkflowService/WatchWorkflow", "/orchestrator.v1.ClusterService/Backup"}


@pytest.fixture
async def guard(bench: Bench, tmp_path: Path) -> AsyncIterator[Guarded]:
    bench.order("pay", "ship")
    bench.driver.register(workflow("payroll", simple("pay")))
    async with guarded(bench, tmp_path) as made:
        yield made


def untouched(bench: Bench) -> bool:
    return not bench.submitted and not bench.changed_members


async def raw(stubs: Stubs, method: str) -> Any:
    """The call with an empty request, of whatever kind it is."""
    if method in STREAMS or method.startswith("/grpc.reflection"):
        call = stubs.channel.stream_stream(method)()
        await call.done_writing()
        return await call.read()
    if method in SERVED_STREAMS or method.endswith("Health/Watch"):
        return await stubs.channel.unary_stream(method)(b"").read()
    return await stubs.channel.unary_unary(method)(b"")


GUARDED = sorted(name for name, rule in METHODS.items() if rule.need is not Need.NOTHING)


@pytest.mark.parametrize("method", GUARDED)
async def test_no_method_does_anything_for_who_shows_nothing_or_was_granted_nothing(
    bench: Bench, guard: Guarded, method: str
) -> None:
    assert await refused(raw(guard.as_(""), method)) == MISSING
    assert await refused(raw(guard.as_("nobody"), method)) == DENIED
    assert await refused(raw(guard.showing("Bearer orc_aaaa_bbbb"), method)) == INVALID
    assert untouched(bench)


@pytest.mark.parametrize(
    "method", sorted(name for name, rule in METHODS.items() if rule.need in (Need.ADMINISTER, Need.ADMINISTER_CLUSTER))
)
async def test_administering_takes_an_admin(bench: Bench, guard: Guarded, method: str) -> None:
    for name in ("reader", "starter", "payer", "operator"):
        assert await refused(raw(guard.as_(name), method)) == DENIED
    if METHODS[method].need is Need.ADMINISTER_CLUSTER:
        assert await refused(raw(guard.as_("owner"), method)) == DENIED
    assert untouched(bench)


@pytest.mark.parametrize("method", sorted(name for name, rule in METHODS.items() if rule.need is Need.OPERATE))
async def test_operating_takes_an_operator(bench: Bench, guard: Guarded, method: str) -> None:
    for name in ("reader", "starter", "payer"):
        assert await refused(raw(guard.as_(name), method)) == DENIED
    assert untouched(bench)


async def test_probes_need_nothing(guard: Guarded) -> None:
    stub = health_pb2_grpc.HealthStub(guard.as_("").channel)
    await stub.Check(health_pb2.HealthCheckRequest())  # type: ignore[misc]  # the stub is of both kinds of channel


async def test_reflection_is_for_who_has_any_role(guard: Guarded) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(guard.as_("reader").channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))  # type: ignore[arg-type]  # same
    answer = await soon("the list", call.read())  # type: ignore[attr-defined]  # same
    assert len(answer.list_services_response.service) > 5


async def test_what_is_refused_says_what_it_would_take_and_nothing_else(bench: Bench, guard: Guarded) -> None:
    bench.start("w")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await guard.as_("reader").workflows.TerminateWorkflow(pb.TerminateWorkflowRequest(workflow_id="w"))
    assert dict(info_of(caught.value).metadata) == {
        "method": "TerminateWorkflow", "role": "operator or admin", "namespace": "default"
    }
    assert caught.value.details() == (
        "reader may not do TerminateWorkflow: it takes the role operator or admin in the namespace 'default'")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await guard.as_("starter").workflows.StartWorkflow(pb.StartWorkflowRequest(name="payroll"))
    assert info_of(caught.value).metadata["name"] == "payroll"


# --- namespaces


@pytest.mark.parametrize("name", ["reader", "starter", "operator", "owner"])
async def test_another_namespace_is_none_of_theirs(bench: Bench, guard: Guarded, name: str) -> None:
    stubs = guard.as_(name)
    asked = [
        stubs.workflows.SearchWorkflows(pb.SearchWorkflowsRequest(namespace="other")),
        stubs.workflows.GetWorkflow(pb.GetWorkflowRequest(namespace="other", workflow_id="w")),
        stubs.workflows.StartWorkflow(pb.StartWorkflowRequest(namespace="other", name="order")),
        stubs.workflows.OpenClientSession(pb.OpenClientSessionRequest(namespace="other")),
        stubs.workflows.OperateWorkflows(pb.OperateWorkflowsRequest(namespace="other", operation=1)),
        stubs.workflows.TestWorkflow(pb.TestWorkflowRequest(start=pb.StartWorkflowRequest(namespace="other"))),
        stubs.definitions.RegisterTasks(definitions_pb2.RegisterTasksRequest(namespace="other")),
        stubs.workers.ListTaskQueues(workers_pb2.ListTaskQueuesRequest(namespace="other")),
    ]
    for call in asked:
        assert await refused(call) == DENIED
    assert untouched(bench)


async def test_an_admin_of_all_namespaces_does_everything(bench: Bench, guard: Guarded) -> None:
    stubs = guard.as_("admin")
    await stubs.workflows.StartWorkflow(pb.StartWorkflowRequest(name="order", workflow_id="w"))
    await stubs.cluster.RemoveMember(cluster_pb2.RemoveMemberRequest(name="n3"))
    await stubs.schedules.PauseAllSchedules(schedules_pb2.PauseAllSchedulesRequest())
    assert bench.changed_members == [("remove", "n3")]


async def test_the_clusters_id_is_told_to_its_admins_only(bench: Bench, guard: Guarded) -> None:
    """With it, ids of others' client sessions could be worked out."""
    bench.status_answer = status(Role.LEADER)
    told = {}
    for name in ("reader", "starter", "payer", "owner", "admin"):
        told[name] = (await guard.as_(name).cluster.GetStatus(cluster_pb2.GetStatusRequest())).cluster_id
    assert told == {"reader": "", "starter": "", "payer": "", "owner": "", "admin": "c"}


# --- starters


async def test_who_starts_some_workflows_does_what_belongs_to_them(bench: Bench, guard: Guarded) -> None:
    stubs = guard.as_("starter")
    await stubs.workflows.StartWorkflow(pb.StartWorkflowRequest(name="order", workflow_id="w"))
    seen = await stubs.workflows.GetWorkflow(pb.GetWorkflowRequest(workflow_id="w"))
    assert seen.workflow.name == "order"
    await stubs.workflows.SignalWorkflow(pb.SignalWorkflowRequest(workflow_id="w", name="s"))
    await stubs.workflows.ExplainWorkflow(pb.ExplainWorkflowRequest(workflow_id="w"))
    await stubs.workflows.OpenClientSession(pb.OpenClientSessionRequest())
    await stubs.events.PublishEvent(events_pb2.PublishEventRequest(event="paid"))
    assert await refused(stubs.events.PublishEvent(events_pb2.PublishEventRequest(event="fired"))) == DENIED


async def test_who_starts_some_workflows_learns_of_no_other_that_it_is_there(bench: Bench, guard: Guarded) -> None:
    bench.driver.start("payroll", "p")
    submitted = len(bench.submitted)
    stubs = guard.as_("starter").workflows
    for workflow_id in ("p", "none"):
        for call in (
            stubs.GetWorkflow(pb.GetWorkflowRequest(workflow_id=workflow_id)),
            stubs.WaitWorkflow(pb.WaitWorkflowRequest(workflow_id=workflow_id)),
            stubs.AwaitWorkflow(pb.AwaitWorkflowRequest(workflow_id=workflow_id)),
            stubs.ExplainWorkflow(pb.ExplainWorkflowRequest(workflow_id=workflow_id)),
            stubs.GetTaskLogs(pb.GetTaskLogsRequest(workflow_id=workflow_id)),
            stubs.SignalWorkflow(pb.SignalWorkflowRequest(workflow_id=workflow_id, name="s")),
            stubs.SignalTask(pb.SignalTaskRequest(workflow_id=workflow_id, status=pb.TASK_STATUS_COMPLETED)),
            stubs.PushMessage(pb.PushMessageRequest(workflow_id=workflow_id)),
            stubs.WatchWorkflow(pb.WatchWorkflowRequest(workflow_id=workflow_id)).read(),
        ):
            assert await refused(call) == NOT_FOUND
    assert len(bench.submitted) == submitted
    assert {line["target"] for line in guard.recorded()} == {"payroll"}  # those of none are nobody's refusals
    assert await refused(stubs.SearchWorkflows(pb.SearchWorkflowsRequest(name="order"))) == DENIED


async def test_a_cold_execution_is_judged_by_its_workflow_too(bench: Bench, guard: Guarded) -> None:
    for name, workflow_id in (("payroll", "p"), ("order", "w")):
        bench.driver.start(name, workflow_id)
        bench.go_cold(workflow_id)
    stubs = guard.as_("starter").workflows
    assert await refused(stubs.GetWorkflow(pb.GetWorkflowRequest(workflow_id="p"))) == NOT_FOUND
    assert (await stubs.GetWorkflow(pb.GetWorkflowRequest(workflow_id="w"))).workflow.name == "order"


async def test_an_execution_that_another_node_knows_is_asked_for_there(bench: Bench, guard: Guarded) -> None:
    bench.is_leading, bench.leader = False, "n2"
    found = await refused(guard.as_("starter").workflows.GetWorkflow(pb.GetWorkflowRequest(workflow_id="w")))
    assert found == (grpc.StatusCode.UNAVAILABLE, "NOT_LEADER")


@pytest.mark.parametrize("call", ["StartWorkflow", "StartWorkflowAndWait", "ExecuteWorkflow"])
async def test_a_definition_that_travels_along_takes_who_may_register_it(
    bench: Bench, guard: Guarded, call: str
) -> None:
    start = pb.StartWorkflowRequest(name="order", definition_json=b'{"name":"order","tasks":[]}')
    request = start if call == "StartWorkflow" else getattr(pb, f"{call}Request")(start=start)
    for name in ("starter", "operator"):
        assert await refused(getattr(guard.as_(name).workflows, call)(request)) == DENIED
    assert untouched(bench)


# --- many at once


@pytest.mark.parametrize(
    ("operation", "who"),
    [
        (pb.WORKFLOW_OPERATION_PAUSE, "operator"),
        (pb.WORKFLOW_OPERATION_TERMINATE, "operator"),
        (pb.WORKFLOW_OPERATION_DELETE, "owner"),
        (pb.WORKFLOW_OPERATION_TERMINATE_AND_DELETE, "owner"),
    ],
)
async def test_an_operation_on_many_takes_what_it_takes_on_one(
    bench: Bench, guard: Guarded, operation: pb.WorkflowOperation, who: str
) -> None:
    request = pb.OperateWorkflowsRequest(operation=operation, workflow_ids=["w"])
    lesser = {"operator": "reader", "owner": "operator"}[who]
    assert await refused(guard.as_(lesser).workflows.OperateWorkflows(request)) == DENIED
    assert untouched(bench)
    await guard.as_(who).workflows.OperateWorkflows(request)
    assert bench.submitted


# --- workers


async def test_a_poller_gets_what_it_may_execute(bench: Bench, guard: Guarded) -> None:
    bench.start("w")
    poll = workers_pb2.PollTasksRequest(worker_id="x", task_names=["pay", "ship"])
    assert await refused(guard.as_("payer").workers.PollTasks(poll)) == DENIED
    del poll.task_names[1:]
    assert await refused(guard.as_("shipper").workers.PollTasks(poll)) == DENIED
    (given,) = (await guard.as_("payer").workers.PollTasks(poll)).assignments
    assert given.name == "pay"


def completing(given: workers_pb2.Assignment, **fields: Any) -> workers_pb2.CompleteTaskRequest:
    told = {
        "workflow_id": given.workflow_id, "task_id": given.task_id, "fencing_token": given.fencing_token,
        "status": pb.TASK_STATUS_COMPLETED,
    }
    return workers_pb2.CompleteTaskRequest(result=workers_pb2.TaskResult(**(told | fields)))


async def test_the_token_of_anothers_attempt_completes_nothing(bench: Bench, guard: Guarded) -> None:
    bench.start("w")
    poll = workers_pb2.PollTasksRequest(worker_id="x", task_names=["pay"])
    (given,) = (await guard.as_("payer").workers.PollTasks(poll)).assignments
    thief = guard.as_("shipper").workers
    count = len(bench.submitted_of(commands.CompleteTask))
    reply = await thief.CompleteTask(completing(given))
    assert reply.verdict.verdict == workers_pb2.VERDICT_INVALID and "PERMISSION_DENIED" in reply.verdict.message
    # Nor does naming something else with it, nor guessing what will be the token.
    for token in (given.fencing_token + 1, 0):
        reply = await thief.CompleteTask(completing(given, fencing_token=token))
        assert reply.verdict.verdict == workers_pb2.VERDICT_FENCED
    reply = await thief.CompleteTask(completing(given, task_id="none", fencing_token=99))
    assert reply.verdict.verdict == workers_pb2.VERDICT_UNKNOWN
    logs = workers_pb2.AttemptLogs(workflow_id="w", task_id=given.task_id, fencing_token=given.fencing_token)
    logged = await thief.AddTaskLogs(workers_pb2.AddTaskLogsRequest(logs=logs))
    assert logged.verdict.verdict == workers_pb2.VERDICT_INVALID
    assert len(bench.submitted_of(commands.CompleteTask)) == count and not bench.submitted_of(AddTaskLogs)
    # Its own worker is told twice that it counts, the second time without a lease.
    for _ in range(2):
        reply = await guard.as_("payer").workers.CompleteTask(completing(given))
        assert reply.verdict.verdict == workers_pb2.VERDICT_ACCEPTED


async def test_a_log_line_without_a_token_is_an_operators_word(bench: Bench, guard: Guarded) -> None:
    bench.start("w")
    logs = workers_pb2.AttemptLogs(workflow_id="w", task_id=bench.driver.latest("pay", "w").task_id)
    request = workers_pb2.AddTaskLogsRequest(logs=logs)
    assert await refused(guard.as_("payer").workers.AddTaskLogs(request)) == DENIED
    reply = await guard.as_("operator").workers.AddTaskLogs(request)
    assert reply.verdict.verdict == workers_pb2.VERDICT_ACCEPTED


# --- credentials


async def test_a_jwt_is_good_until_it_expires(bench: Bench, tmp_path: Path) -> None:
    bench.order("pay")
    signer = Issuer()
    signer.write(tmp_path / "keys.json")
    more = f"""
        [[jwt]]
        name = "corp"
        issuer = "{ISSUER}"
        audience = "orchestrator"
        jwks_file = "keys.json"
        groups = {{ ops = "operators" }}
        [[grant]]
        to = ["group:operators", "corp:bob"]
        role = "operator"
        namespaces = ["default"]
    """
    request = pb.SearchWorkflowsRequest()
    async with guarded(bench, tmp_path, more=more) as guard:
        good = guard.showing("Bearer " + signer.token(exp=NOW_MS / 1000, groups=["ops"]))
        await good.workflows.SearchWorkflows(request)
        await guard.showing("bearer " + signer.token(sub="bob")).workflows.SearchWorkflows(request)
        assert await refused(guard.showing("Bearer " + signer.token()).workflows.SearchWorkflows(request)) == DENIED
        guard.now_ms += 30_000
        assert await refused(good.workflows.SearchWorkflows(request)) == EXPIRED
        forged = guard.showing("Bearer " + Issuer().token(groups=["ops"]))
        assert await refused(forged.workflows.SearchWorkflows(request)) == INVALID


async def test_signatures_that_are_not_good_are_looked_at_so_often_and_nobody_else_is_in_the_way(
    bench: Bench, guard: Guarded
) -> None:
    guesses = guard.showing(lambda: "Bearer " + forger.token(jti=str(next(numbers)))).cluster
    forger, numbers = Issuer(), itertools.count()
    known = guard.as_("reader").cluster
    await known.GetLeader(cluster_pb2.GetLeaderRequest())
    found = [await refused(guesses.GetLeader(cluster_pb2.GetLeaderRequest())) for _ in range(101)]
    assert found[:100] == [INVALID] * 100
    assert found[100] == (grpc.StatusCode.RESOURCE_EXHAUSTED, "RATE_LIMITED")
    await known.GetLeader(cluster_pb2.GetLeaderRequest())
    await guard.as_("owner").cluster.GetLeader(cluster_pb2.GetLeaderRequest())
    guard.monotonic += 1.0
    assert await refused(guesses.GetLeader(cluster_pb2.GetLeaderRequest())) == INVALID


async def test_nodes_know_each_other_and_do_nothing_but_system_work(bench: Bench, guard: Guarded) -> None:
    node = guard.node()
    await node.cluster.GetLeader(cluster_pb2.GetLeaderRequest())
    assert await refused(node.workflows.SearchWorkflows(pb.SearchWorkflowsRequest())) == DENIED
    assert await refused(node.workers.PollTasks(workers_pb2.PollTasksRequest(task_names=["pay"]))) == DENIED
    assert await refused(guard.showing("Node a.1.00").cluster.GetLeader(cluster_pb2.GetLeaderRequest())) == INVALID


async def test_without_rules_everybody_does_everything(bench: Bench, tmp_path: Path) -> None:
    bench.order("pay")
    async with guarded(bench, tmp_path, rules=None) as guard:
        for stubs in (guard.as_(""), guard.as_("nobody")):
            await stubs.workflows.StartWorkflow(pb.StartWorkflowRequest(name="order"))
            await stubs.cluster.RemoveMember(cluster_pb2.RemoveMemberRequest(name="n3"))


async def test_a_method_without_a_rule_takes_the_admin_of_the_cluster(
    bench: Bench, guard: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(METHODS, "/orchestrator.v1.ClusterService/GetStatus")
    await guard.as_("owner").cluster.GetRetention(cluster_pb2.GetRetentionRequest())
    assert await refused(guard.as_("owner").cluster.GetStatus(cluster_pb2.GetStatusRequest())) == DENIED


# --- other rules


async def test_what_is_changed_counts_at_once_and_what_is_wrong_is_not_taken(bench: Bench, guard: Guarded) -> None:
    reader = guard.as_("reader").workflows
    request = pb.SearchWorkflowsRequest(page=PageRequest(size=1))
    await reader.SearchWorkflows(request)
    guard.file.write_text("[[grant]]\nnonsense")
    await guard.rules.look()
    await reader.SearchWorkflows(request)
    guard.write(RULES.replace('to = ["reader"]', 'to = ["nobody"]'))
    await guard.rules.look()
    assert await refused(reader.SearchWorkflows(request)) == DENIED
    await guard.as_("nobody").workflows.SearchWorkflows(request)


async def test_requests_that_wait_are_not_in_the_way(bench: Bench, guard: Guarded) -> None:
    bench.start("w")
    waiting = asyncio.ensure_future(guard.as_("reader").workflows.WaitWorkflow(pb.WaitWorkflowRequest(workflow_id="w")))
    await guard.as_("reader").cluster.GetLeader(cluster_pb2.GetLeaderRequest())
    await guard.as_("operator").workflows.TerminateWorkflow(pb.TerminateWorkflowRequest(workflow_id="w"))
    assert (await soon("the end", waiting)).workflow.status == pb.WORKFLOW_STATUS_TERMINATED
