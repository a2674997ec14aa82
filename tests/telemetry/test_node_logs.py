"""What nodes log while they work, fail and change their leader: where they are, whom it concerns, and no payload."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from orchestrator.telemetry.logs import JsonFormatter
from orchestrator.testing import Cluster
from orchestrator.testing.logs import LOGGERS
from orchestrator.testing.plugin import cluster
from orchestrator_client import TerminalError, Workflow, WorkflowFailed, task

__all__ = ["cluster"]  # the fixture

PAYLOAD = "hush-hush"


@task(name="tell")
async def tell(text: str) -> str:
    return text + PAYLOAD


@tell.compensation
async def untell(text: str, done: str | None) -> None:
    raise TerminalError("NO", "it can't be untold")


@task(name="fail")
async def fail(text: str) -> str:
    raise TerminalError("NO", "it will not do")


saga = Workflow("saga")
saga.step(fail, saga.step(tell, saga.input.text))


@pytest.fixture
def logged(cluster: Cluster) -> Iterator[io.StringIO]:
    """All that nodes and workers log, down to what is for debugging, as JSON; a test's cluster is quiet by itself."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter("a"))
    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    yield stream
    for logger in loggers:
        logger.removeHandler(handler)


async def test_no_payload_is_in_any_record(cluster: Cluster, logged: io.StringIO) -> None:
    cluster.serve(tell, fail, untell)
    run = await cluster.client.start(saga, {"text": PAYLOAD}, id="w")
    await run.signal("hello", {"said": PAYLOAD})
    cluster.kill_leader(restart_after=1)
    await cluster.elected()
    while not (await cluster.client.status()).stuck_compensations:
        await cluster.advance(seconds=1)
    await cluster.client.abandon_compensation("w")
    with pytest.raises(WorkflowFailed):
        await run.result()
    assert "leads now" in logged.getvalue() and "campaigns in term" in logged.getvalue()
    assert PAYLOAD not in logged.getvalue()


async def test_a_node_says_where_it_is_in_the_log(cluster: Cluster) -> None:
    cluster.serve(tell)
    leader = await cluster.elected()
    node = cluster._members[leader].node
    assert node is not None
    before = node.log_facts()
    assert before["term"] == node.log.term and before["applied_index"] <= before["commit_index"]
    await cluster.client.set_retention(count=5)
    assert node.log_facts()["applied_index"] > before["applied_index"]
