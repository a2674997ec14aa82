"""The numbers of a node are those of its parts, and each change of leader is counted once."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from orchestrator.engine.commands import PublishEvent
from orchestrator.engine.effects import ExecutionDeleted
from orchestrator.engine.results import ScheduleRan, Started
from orchestrator.replication.log import Role
from orchestrator.replication.status import PeerStatus, Status
from orchestrator.services.gauges import Gauges
from orchestrator.telemetry.metrics import Metrics
from tests.engine.driver import Driver, simple, workflow
from tests.engine.triggers.making import action, busy_driver, put, put_handler, run_now


def status(leader: str | None) -> Status:
    peers = (
        PeerStatus("n2", True, 90, 91, 20, 0, "replicate", 5),
        PeerStatus("n3", False, None, None, None, None, None, None),
    )
    return Status(
        node="n1", role=Role.LEADER, awaiting_reason=None, term=7, leader=leader, ready_to_lead=True, first_index=1,
        last_index=110, durable_index=109, commit_index=100, flushed_index=90, journal_bytes=5,
        configuration=None, configuration_index=0,
        peers=peers, transfers=(), counters={},
    )


def read(metrics: Metrics) -> dict[str, float]:
    return {
        sample.name + "".join(sample.labels.get(label, "") for label in ("peer", "role")): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
    }


def test_the_numbers_are_those_of_the_parts() -> None:
    driver = Driver()
    driver.register(workflow("order", simple("pay")))
    driver.worker("s", "pay")
    for number in range(3):
        driver.start("order", f"w{number}")
    metrics = Metrics(node="n1", version="0")
    gauges = Gauges(metrics, lambda: 777, lambda state: 555)
    sequencer: Any = SimpleNamespace(queue_bytes=11, queue_commands=2)
    database = SimpleNamespace(file_bytes=8192, free_bytes=4096)
    flusher: Any = SimpleNamespace(flushed_index=80, dirty_bytes=33, database=database)
    for leader in ("n1", "n1", None, "n2"):
        gauges.set(status(leader), driver.state, sequencer, flusher, 95)
    values = set(read(metrics).values())
    for value in (7, 110, 109, 100, 95, 80, 15, 5, 33, 3, 11, 2, 1, 20, 777, 555, 8192, 4096):
        assert value in values, value
    changes = [value for name, value in read(metrics).items() if "leader_changes_total" in name]
    assert changes == [3]



def test_what_has_gone_is_counted_by_the_leader_alone() -> None:
    metrics = Metrics(node="n1", version="0")
    gauges = Gauges(metrics, lambda: 0, lambda state: 0)
    for leading in (True, False, True):
        effects = [ExecutionDeleted("default", "w1"), ExecutionDeleted("default", "w2")]
        gauges.entry_applied([], effects, leading=leading)
    assert read(metrics)["orchestrator_workflows_deleted_total"] == 4


def test_executions_are_counted_as_they_start_whoever_wants_them() -> None:
    driver = busy_driver()
    metrics = Metrics(node="n1", version="0")
    gauges = Gauges(metrics, lambda: 0, lambda state: 0)
    started = 0
    put(driver)
    for again in (lambda: driver.start("report"), lambda: driver.start("report"), lambda: run_now(driver)):
        result = again()
        gauges.entry_applied([result], driver.effects, leading=True)
        started += isinstance(result, Started | ScheduleRan)
    put_handler(driver, action("start_workflow", name="report"))
    result = driver.do(PublishEvent("default", "paid", "", b"{}"))
    gauges.entry_applied([result], driver.effects, leading=True)
    assert read(metrics)["orchestrator_workflows_started_total"] == started + 1 == 3
