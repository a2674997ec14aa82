"""What needs a behaviour level that the cluster has not been raised to is refused with the way out."""

from __future__ import annotations

import json

import grpc
import pytest

from orchestrator.engine.behaviour import HIGHEST
from orchestrator.engine.commands import RaiseBehaviour
from orchestrator_api.v1 import definitions_pb2, events_pb2
from tests.engine.driver import simple
from tests.engine.triggers.making import action, handler
from tests.rpc.bench import Bench, Stubs
from tests.rpc.statuses import info_of
from tests.rpc.test_redis_needed import document


def check_refused(error: grpc.aio.AioRpcError, path: str) -> None:
    info = info_of(error)
    assert (error.code(), info.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "BEHAVIOUR_LEVEL_TOO_LOW")
    assert info.metadata["path"] == path
    assert "the cluster is at 1: `orchestrator cluster raise-behaviour`" in error.details()


async def test_a_definition_and_a_handler_of_a_later_level(bench: Bench, stubs: Stubs) -> None:
    flow = document("w", simple("a"), taskStatusListenerSink="conductor:tasks")
    asked = definitions_pb2.RegisterWorkflowsRequest(definition_json=[document("v", simple("a")), flow])
    signals = json.dumps(handler(action("signal", workflowId="${id}", signal="go"))).encode()
    put = events_pb2.PutEventHandlerRequest(handler_json=signals)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stubs.definitions.RegisterWorkflows(asked)
    check_refused(raised.value, "taskStatusListenerSink")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stubs.events.PutEventHandler(put)
    check_refused(raised.value, "actions[0].signal")
    assert not bench.submitted
    bench.apply(RaiseBehaviour(HIGHEST))
    await stubs.definitions.RegisterWorkflows(asked)
    await stubs.events.PutEventHandler(put)
