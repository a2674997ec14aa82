"""The table of what calls need has every method, everything that is said on streams, and every bulk operation."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

import orchestrator_api.v1
from orchestrator.access.methods import BULK, METHODS, STREAMED, Rule, named
from orchestrator.access.roles import LIMITED_BY, NAMED, ROLES, Need
from orchestrator_api.v1 import asks_pb2, workers_pb2, workflows_pb2

# A call that is named so changes nothing.
READING = ("Get", "List", "Search", "Wait", "Watch", "Await", "Explain", "Validate", "Test")


def methods() -> Iterator[Any]:
    for module in pkgutil.iter_modules(orchestrator_api.v1.__path__):
        if module.name.endswith("_pb2"):
            file = importlib.import_module(f"orchestrator_api.v1.{module.name}").DESCRIPTOR
            for service in file.services_by_name.values():
                yield from service.methods


def full_name(method: Any) -> str:
    return f"/{method.containing_service.full_name}/{method.name}"


def test_every_method_has_a_rule_and_every_rule_a_method() -> None:
    ours = {full_name(method) for method in methods()}
    assert len(ours) > 70
    assert ours == {name for name in METHODS if not name.startswith("/grpc.")}


def paths(rule: Rule) -> list[str]:
    return [path for path in (rule.namespace, rule.name, rule.target) if path]


def test_every_rule_names_fields_that_there_are() -> None:
    for method in methods():
        for path in paths(METHODS[full_name(method)]):
            message = method.input_type
            for name in path.split("."):
                assert name in message.fields_by_name, f"{method.name}: {path}"
                message = message.fields_by_name[name].message_type


def test_what_has_a_namespace_is_judged_by_it() -> None:
    for method in methods():
        fields = method.input_type.fields_by_name
        if "namespace" in fields:
            assert METHODS[full_name(method)].namespace == "namespace", method.name
        elif "start" in fields and fields["start"].message_type.name == "StartWorkflowRequest":
            assert METHODS[full_name(method)].namespace == "start.namespace", method.name


def test_what_names_a_workflow_is_judged_by_it_or_takes_every_workflow() -> None:
    """Whoever is limited to some workflows must not reach another by its id."""
    limited = {need for _, need in LIMITED_BY}
    for method in methods():
        rule = METHODS[full_name(method)]
        if "workflow_id" in method.input_type.fields_by_name and rule.need in limited:
            assert rule.of_execution or rule.closer == "start", method.name


def test_what_changes_something_and_takes_an_operator_or_admin_is_recorded() -> None:
    for method in methods():
        rule = METHODS[full_name(method)]
        mighty = rule.need in (Need.OPERATE, Need.ADMINISTER, Need.ADMINISTER_CLUSTER)
        assert rule.audited == (mighty and not method.name.startswith(READING)), method.name
        assert not rule.audited or rule.target or rule.need is Need.ADMINISTER_CLUSTER, method.name


def test_nothing_but_health_is_open_to_everybody() -> None:
    open_ = {name for name, rule in METHODS.items() if rule.need is Need.NOTHING}
    assert open_ and all(name.startswith("/grpc.health.v1.Health/") for name in open_)


def test_whatever_concerns_the_whole_cluster_takes_its_admin() -> None:
    for method in methods():
        rule = METHODS[full_name(method)]
        if not rule.namespace and not method.name.startswith("Get") and not method.client_streaming:
            assert rule.need is Need.ADMINISTER_CLUSTER, method.name


def said(message: Any, oneof: str, prefix: str) -> set[str]:
    return {f"{prefix}{field.name}" for field in message.DESCRIPTOR.oneofs_by_name[oneof].fields}


def test_everything_that_is_said_on_streams_has_a_need() -> None:
    expected = said(workers_pb2.WorkRequest, "frame", "Work/") | said(asks_pb2.AskRequest, "frame", "Ask/")
    expected |= said(asks_pb2.Ask, "ask", "Ask/asks/")
    expected.remove("Ask/asks")
    assert set(STREAMED) == expected


def test_every_bulk_operation_has_a_need() -> None:
    assert set(BULK) == set(workflows_pb2.WorkflowOperation.keys()) - {"WORKFLOW_OPERATION_UNSPECIFIED"}


def test_every_need_has_roles_and_what_is_limited_has_names() -> None:
    assert set(ROLES) == set(Need) - {Need.NOTHING}
    assert {need for _, need in LIMITED_BY} == set(NAMED)
    assert all(role in ROLES[need] for role, need in LIMITED_BY)


def test_a_method_may_be_meant_by_its_short_name() -> None:
    assert named("StartWorkflow") == ["/orchestrator.v1.WorkflowService/StartWorkflow"]
    assert named("orchestrator.v1.WorkflowService/StartWorkflow") == []
    assert named("StartWorkflows") == []
