"""What is recorded of calls: changes by operators and admins, refusals, and never what was in a payload."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from orchestrator.access.audit import AuditLog
from orchestrator.access.methods import METHODS, Need, Rule
from orchestrator.engine import commands
from orchestrator.rpc.audited import Audited
from orchestrator.rpc.caller import Caller
from orchestrator_api.v1 import cluster_pb2, definitions_pb2, services_pb2, workers_pb2
from orchestrator_api.v1 import workflows_pb2 as pb
from orchestrator_api.v1.common_pb2 import ClientSession, Payload, RequestIdentity
from tests.rpc.bench import Bench, until
from tests.rpc.guarding import DENIED, INVALID, NOT_FOUND, NOW_MS, RULES, Guarded, guarded, refused

# It stands where payloads, reasons and values go.
SECRET = "hush-hush"


@pytest.fixture
async def guard(bench: Bench, tmp_path: Path) -> AsyncIterator[Guarded]:
    bench.order("pay", "ship")
    async with guarded(bench, tmp_path) as made:
        yield made


def said(guard: Guarded, **expected: Any) -> dict[str, Any]:
    """The newest line, which says this among other things."""
    found = guard.recorded()[-1]
    assert {name: found.get(name) for name in expected} == expected
    assert SECRET not in guard.audit_file.read_text()
    return found


async def test_a_change_is_recorded_with_who_what_and_which_request(bench: Bench, guard: Guarded) -> None:
    bench.start("w")
    stubs = guard.as_("operator").workflows
    session = (await stubs.OpenClientSession(pb.OpenClientSessionRequest())).session_id
    identity = RequestIdentity(session=ClientSession(id=session, sequence=1))
    await stubs.TerminateWorkflow(pb.TerminateWorkflowRequest(workflow_id="w", reason=SECRET, request=identity))
    assert len(guard.recorded()) == 1
    found = said(
        guard, node="n1", principal="operator", authenticated_by="token", peer="127.0.0.1",
        method="WorkflowService/TerminateWorkflow", namespace="default", target="w", request_id=f"{session}:1",
        outcome="OK", reason=None,
    )
    assert found["time"].startswith("2030-")


async def test_one_that_fails_is_recorded_with_why(guard: Guarded) -> None:
    request = pb.PauseWorkflowRequest(workflow_id="none")
    assert await refused(guard.as_("operator").workflows.PauseWorkflow(request)) == NOT_FOUND
    said(guard, method="WorkflowService/PauseWorkflow", target="none", outcome="NOT_FOUND", reason=NOT_FOUND[1])


async def test_its_line_is_written_before_the_caller_hears_of_it(tmp_path: Path) -> None:
    lines = tmp_path / "audit.jsonl"
    audit = AuditLog(lines, node="n1", wall_ms=lambda: NOW_MS)
    heard = []

    class Context:
        async def abort(self, *_: Any) -> None:
            heard.append(len(lines.read_text().splitlines()))

        def code(self) -> grpc.StatusCode:
            return grpc.StatusCode.NOT_FOUND

    method = "orchestrator.v1.WorkflowService/PauseWorkflow"
    request = pb.PauseWorkflowRequest(workflow_id="none")
    rule = Rule(Need.OPERATE, audited=True)
    call = Audited(audit).call(Context(), Caller(peer="127.0.0.1"), method, rule, request)
    await call.abort(grpc.StatusCode.NOT_FOUND)
    call.broken_off()
    audit.close()
    assert heard == [1] == [len(lines.read_text().splitlines())]


async def test_one_whose_caller_has_gone_is_recorded_too(bench: Bench, guard: Guarded) -> None:
    bench.start("w")
    bench.gate.clear()
    call = guard.as_("operator").workflows.PauseWorkflow(pb.PauseWorkflowRequest(workflow_id="w"), timeout=0.2)
    with pytest.raises(grpc.aio.AioRpcError):
        await call
    await until("the line", lambda: bool(guard.recorded()))
    said(guard, method="WorkflowService/PauseWorkflow", target="w", outcome="CANCELLED")
    bench.gate.set()


async def test_documents_are_recorded_by_their_names(guard: Guarded) -> None:
    stubs = guard.as_("owner")
    documents = [b'{"name":"pay","description":"hush-hush","retryCount":1}', b"hush-hush", b'{"name":7}']
    await refused(stubs.definitions.RegisterTasks(definitions_pb2.RegisterTasksRequest(definition_json=documents)))
    said(guard, method="DefinitionService/RegisterTasks", target=["pay", "", ""], outcome="INVALID_ARGUMENT")
    record = b'{"name":"bank","endpoints":["http://hush-hush.test"]}'
    await stubs.services.RegisterService(services_pb2.RegisterServiceRequest(record_json=record))
    said(guard, method="ServiceRegistryService/RegisterService", target="bank", outcome="OK")


async def test_of_many_all_are_recorded_and_how_many_failed(bench: Bench, guard: Guarded) -> None:
    bench.start("w")
    request = pb.OperateWorkflowsRequest(
        operation=pb.WORKFLOW_OPERATION_TERMINATE, workflow_ids=["w", "none"], reason=SECRET)
    await guard.as_("operator").workflows.OperateWorkflows(request)
    said(guard, operation="TERMINATE", target=["w", "none"], outcome="OK", reason="1 of 2 failed")


async def test_what_concerns_the_cluster_has_no_namespace(guard: Guarded) -> None:
    await guard.as_("admin").cluster.RemoveMember(cluster_pb2.RemoveMemberRequest(name="n3"))
    assert "namespace" not in said(guard, method="ClusterService/RemoveMember", target="n3", principal="admin")


async def test_work_and_reading_are_not_recorded(bench: Bench, guard: Guarded) -> None:
    payload = Payload(inline=b'{"a":"hush-hush"}')
    await guard.as_("starter").workflows.StartWorkflow(pb.StartWorkflowRequest(name="order", input=payload))
    await guard.as_("reader").workflows.SearchWorkflows(pb.SearchWorkflowsRequest())
    await guard.as_("payer").workers.PollTasks(workers_pb2.PollTasksRequest(worker_id="w", task_names=["pay"]))
    assert guard.recorded() == []


async def test_refusals_are_recorded_whoever_they_are_of(guard: Guarded) -> None:
    request = pb.StartWorkflowRequest(name="payroll", input=Payload(inline=b'{"a":"hush-hush"}'))
    await refused(guard.as_("starter").workflows.StartWorkflow(request))
    said(
        guard, principal="starter", method="WorkflowService/StartWorkflow", namespace="default", target="payroll",
        outcome="PERMISSION_DENIED", reason="PERMISSION_DENIED",
    )
    await refused(guard.as_("").workflows.StartWorkflow(request))
    said(guard, principal="anonymous", outcome="UNAUTHENTICATED", reason="CREDENTIALS_MISSING", peer="127.0.0.1")
    await refused(guard.showing(f"Bearer orc_{SECRET}_x").workflows.StartWorkflow(request))
    said(guard, principal="anonymous", outcome="UNAUTHENTICATED", reason="TOKEN_INVALID")


async def test_refusals_do_not_fill_the_disk(guard: Guarded) -> None:
    stubs = guard.as_("reader").cluster
    for _ in range(120):
        assert await refused(stubs.RemoveMember(cluster_pb2.RemoveMemberRequest(name="n3"))) == DENIED
    assert len(guard.recorded()) == 100 and guard.refused["PERMISSION_DENIED"] == 120
    guard.monotonic += 2
    for _ in range(5):
        await refused(stubs.RemoveMember(cluster_pb2.RemoveMemberRequest(name="n3")))
    assert len(guard.recorded()) == 102


async def test_nothing_is_changed_that_can_not_be_recorded(bench: Bench, guard: Guarded) -> None:
    bench.start("w")
    operator = guard.as_("operator").workflows
    await operator.PauseWorkflow(pb.PauseWorkflowRequest(workflow_id="w"))
    guard.audit_file.unlink()
    guard.audit_file.mkdir()
    resumed = await refused(operator.ResumeWorkflow(pb.ResumeWorkflowRequest(workflow_id="w")))
    assert resumed == (grpc.StatusCode.UNAVAILABLE, "AUDIT_UNAVAILABLE")
    submitted = len(bench.submitted)
    removed = guard.as_("admin").cluster.RemoveMember(cluster_pb2.RemoveMemberRequest(name="n3"))
    assert await refused(removed) == (grpc.StatusCode.UNAVAILABLE, "AUDIT_UNAVAILABLE")
    assert len(bench.submitted) == submitted and not bench.changed_members
    # Work goes on.
    await guard.as_("starter").workflows.StartWorkflow(pb.StartWorkflowRequest(name="order"))
    await guard.as_("reader").workflows.GetWorkflow(pb.GetWorkflowRequest(workflow_id="w"))
    guard.audit_file.rmdir()
    await operator.ResumeWorkflow(pb.ResumeWorkflowRequest(workflow_id="w"))
    said(guard, method="WorkflowService/ResumeWorkflow", outcome="OK")


async def test_without_rules_changes_are_recorded_as_of_nobody(bench: Bench, tmp_path: Path) -> None:
    async with guarded(bench, tmp_path, rules=None) as guard:
        await guard.as_("").cluster.RemoveMember(cluster_pb2.RemoveMemberRequest(name="n3"))
        said(guard, principal="anonymous", authenticated_by="anonymous", peer="127.0.0.1", target="n3", outcome="OK")


async def test_a_stream_is_recorded_when_it_has_ended(
    bench: Bench, guard: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a backup is, whose answer is a stream of everything that there is."""
    method = "/orchestrator.v1.WorkflowService/WatchWorkflow"
    monkeypatch.setitem(METHODS, method, replace(METHODS[method], audited=True))
    assert METHODS["/orchestrator.v1.ClusterService/Backup"].audited
    bench.start("w")
    watching = guard.as_("reader").workflows.WatchWorkflow(pb.WatchWorkflowRequest(workflow_id="w"))
    await watching.read()
    assert guard.recorded() == []
    bench.apply(commands.TerminateWorkflow("default", "w", "", commands.TerminateCompensation.SKIP))
    assert (await watching.read()).workflow.status == pb.WORKFLOW_STATUS_TERMINATED
    assert await watching.read() is grpc.aio.EOF
    said(guard, principal="reader", method="WorkflowService/WatchWorkflow", target="w", outcome="OK")


async def test_one_whose_caller_may_not_any_more_ends_with_its_next_message(
    bench: Bench, guard: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = "/orchestrator.v1.WorkflowService/WatchWorkflow"
    monkeypatch.setitem(METHODS, method, replace(METHODS[method], audited=True))
    bench.start("w")
    watching = guard.as_("reader").workflows.WatchWorkflow(pb.WatchWorkflowRequest(workflow_id="w"))
    await watching.read()
    guard.write(RULES.replace('to = ["reader"]', 'to = ["nobody"]'), without="reader")
    await guard.rules.look()
    assert await refused(watching.read()) == INVALID
    said(guard, principal="reader", method="WorkflowService/WatchWorkflow", outcome="UNAUTHENTICATED")
