"""The numbers of a node are those of its parts, and what happens is counted once, by the leader."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.engine.behaviour import HIGHEST
from orchestrator.engine.commands import ExpireSession, PauseWorkflow, PublishEvent
from orchestrator.engine.effects import ExecutionDeleted
from orchestrator.engine.model import TaskStatus, WorkflowStatus
from orchestrator.engine.results import ScheduleRan, Started
from orchestrator.engine.stream_commands import ReceiveEvents, StreamEntry
from orchestrator.replication.log import Role
from orchestrator.replication.status import PeerStatus, Status, TransferStatus
from orchestrator.services.census import Census, Found
from orchestrator.services.gauges import Gauges, Readings
from orchestrator.telemetry.families import OTHER, SERIES_MAX
from orchestrator.telemetry.metrics import Metrics
from tests.engine.driver import Driver, simple, workflow
from tests.engine.triggers.making import action, busy_driver, put, put_handler, run_now


def status(leader: str | None, *, leads: bool = True) -> Status:
    peers = (
        PeerStatus("n2", True, 90, 91, 20, 64, "replicate", 5) if leads
        else PeerStatus("n2", True, None, None, None, None, None, None),
        PeerStatus("n3", False, None, None, None, None, None, None),
    )
    return Status(
        node="n1", role=Role.LEADER, awaiting_reason=None, term=7, leader=leader, ready_to_lead=True, first_index=1,
        last_index=110, durable_index=109, commit_index=100, flushed_index=90, journal_bytes=5,
        configuration=None, configuration_index=0,
        peers=peers, transfers=(TransferStatus("n2", False, 3, 1_000, 400),), counters={},
    )


def readings(
    driver: Driver, leader: str | None = "n1", *, leading: bool = True, log_time_ms: int | None = None
) -> Readings:
    sequencer: Any = SimpleNamespace(queue_bytes=11, queue_commands=2, queue_age_ms=1500.0)
    database = SimpleNamespace(file_bytes=8192, free_bytes=4096)
    flusher: Any = SimpleNamespace(flushed_index=80, dirty_bytes=33, database=database)
    return Readings(status(leader, leads=leading), driver.state, sequencer, flusher, 95,
                    log_time_ms or driver.now_ms, leading)


def read(metrics: Metrics) -> dict[str, float]:
    """By name and own labels, as in `name{task=a,status=b}`."""
    found = {}
    for family in metrics.registry.collect():
        for sample in family.samples:
            own = {name: value for name, value in sample.labels.items() if name != "partition"}
            labels = ",".join(f"{name}={value}" for name, value in own.items())
            found[sample.name.removeprefix("orchestrator_") + (f"{{{labels}}}" if own else "")] = sample.value
    return found


class Counted:
    """A driver, and the metrics of the node that leads."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver
        self.metrics = Metrics(node="n1", version="0")
        self.gauges = Gauges(self.metrics, lambda: 777, lambda state: 555, lambda: driver.state)
        perform = driver._perform

        def performed(effects: list[Any]) -> None:
            perform(effects)
            self.gauges.entry_applied([], effects, leading=True)

        driver._perform = performed  # type: ignore[method-assign]  # every step's effects go by

    def __getitem__(self, name: str) -> float:
        return read(self.metrics).get(name, 0.0)

    def all(self, prefix: str) -> dict[str, float]:
        return {name: value for name, value in read(self.metrics).items() if name.startswith(prefix)}


@pytest.fixture
def counted() -> Counted:
    return Counted(Driver())


def test_the_numbers_are_those_of_the_parts(counted: Counted) -> None:
    driver = counted.driver
    driver.register(workflow("order", simple("pay")))
    driver.worker("s", "pay", slots=2)
    for number in range(3):
        driver.start("order", f"w{number}")
    for leader in ("n1", "n1", None, "n2"):
        counted.gauges.set(readings(driver, leader), Census(lambda: driver.machine, _nothing))
    expected = {
        "is_leader": 1, "term": 7, "log_last_index": 110, "log_durable_index": 109, "commit_index": 100,
        "applied_index": 95, "flushed_index": 80, "flush_lag_entries": 15, "journal_bytes": 5, "dirty_bytes": 33,
        "live_workflows": 3, "ready_tasks": 1, "leased_tasks": 2, "worker_sessions": 1, "worker_slots": 2,
        "worker_slots_used": 2, "queue_bytes": 11, "queue_commands": 2, "queue_age_seconds": 1.5,
        "follower_lag_entries{peer=n2}": 20, "follower_in_flight_bytes{peer=n2}": 64,
        "follower_contact_age_seconds{peer=n2}": 0.005, "peers_connected": 1, "disk_free_bytes": 777,
        "unreadable_secrets": 555, "database_bytes": 8192, "database_free_bytes": 4096,
        "snapshot_transfers{direction=out}": 1, "snapshot_left_bytes{direction=out}": 600, "leader_changes_total": 3,
    }
    values = read(counted.metrics)
    assert {name: values.get(name) for name in expected} == expected


async def _nothing(statuses: Sequence[WorkflowStatus]) -> list[int]:
    return [0 for _ in statuses]


async def test_what_waits_is_told_by_queue_and_by_the_leader_alone(counted: Counted) -> None:
    driver = counted.driver
    driver.register(workflow("order", simple("pay")), workflow("parcel", simple("ship")))
    driver.start("order", "w1")
    driver.wait(4_000)
    driver.start("order", "w2")
    driver.start("parcel", "w3")

    async def count(statuses: Sequence[WorkflowStatus]) -> list[int]:
        return [{WorkflowStatus.PAUSED: 4, WorkflowStatus.COMPENSATING: 6}[status] for status in statuses]

    census = Census(lambda: driver.machine, count)
    await census.look()
    assert census.found == Found(4, 6, {
        ("default", "", "pay"): driver.now_ms - 4_000, ("default", "", "ship"): driver.now_ms})
    counted.gauges.set(readings(driver, log_time_ms=driver.now_ms + 1_000), census)
    pay, ship = "{workflow_namespace=default,domain=,task=pay}", "{workflow_namespace=default,domain=,task=ship}"
    assert counted.all("queued_tasks") == {f"queued_tasks{pay}": 2, f"queued_tasks{ship}": 1}
    ages = {f"oldest_queued_task_age_seconds{pay}": 5.0, f"oldest_queued_task_age_seconds{ship}": 1.0}
    assert counted.all("oldest_queued") == ages
    assert (counted["paused_workflows"], counted["compensating_workflows"]) == (4, 6)
    counted.gauges.set(readings(driver, leading=False), census)
    of_leader = ("queued_tasks", "oldest_queued", "paused_", "compensating_", "follower_", "timer_delay")
    assert not [name for prefix in of_leader for name in counted.all(prefix)]


async def test_many_queues_are_summed_up_but_for_the_longest(counted: Counted) -> None:
    driver = counted.driver
    names = [f"t{number:03}" for number in range(SERIES_MAX + 3)]
    for name in names:
        driver.register(workflow(name, simple(name)))
        driver.start(name, f"w-{name}")
    driver.start(names[-1], "w")
    census = Census(lambda: driver.machine, _nothing)
    await census.look()
    counted.gauges.set(readings(driver), census)
    other = f"{{workflow_namespace={OTHER},domain={OTHER},task={OTHER}}}"
    assert len(counted.all("queued_tasks")) == SERIES_MAX + 1
    assert counted[f"queued_tasks{other}"] == 3
    assert counted[f"queued_tasks{{workflow_namespace=default,domain=,task={names[-1]}}}"] == 2
    assert len(counted.all("oldest_queued")) == SERIES_MAX + 1


def test_a_timer_that_is_late_shows(counted: Counted) -> None:
    driver = counted.driver
    wait = {"name": "w", "taskReferenceName": "w", "type": "WAIT", "inputParameters": {"duration": "10 seconds"}}
    driver.register(workflow("later", wait))
    driver.start("later")
    census = Census(lambda: driver.machine, _nothing)
    census.found = Found(0, 0, {})
    for passed_ms, late in ((9_000, 0), (10_000, 0), (13_000, 3)):
        counted.gauges.set(readings(driver, log_time_ms=driver.now_ms + passed_ms), census)
        assert counted["timer_delay_seconds"] == late


def test_attempts_are_counted_by_task_and_how_they_end(counted: Counted) -> None:
    driver = counted.driver
    driver.register_task(name="pay", retryCount=1, retryDelaySeconds=0)
    driver.register(workflow("order", simple("pay")))
    driver.start("order")
    driver.wait(2_000)
    driver.worker("s", "pay")
    driver.wait(3_000)
    driver.fail("pay")
    driver.give("pay")
    assert counted.all("task_attempts_ended") == {
        "task_attempts_ended_total{task=pay,status=FAILED}": 1,
        "task_attempts_ended_total{task=pay,status=COMPLETED}": 1,
    }
    assert counted["task_retries_total{task=pay}"] == 1
    assert counted["task_wait_seconds_count{task=pay}"] == counted["schedule_to_start_seconds_count"] == 2
    assert counted["task_wait_seconds_sum{task=pay}"] == counted["schedule_to_start_seconds_sum"] == 2.0
    assert counted["task_execution_seconds_sum{task=pay}"] == 3.0
    assert counted["workflows_ended_total{workflow=order,status=COMPLETED}"] == 1
    assert counted["workflow_duration_seconds_sum{workflow=order}"] == 5.0


def test_what_times_out_is_counted_by_its_reason(counted: Counted) -> None:
    driver = counted.driver
    driver.register_task(name="pay", retryCount=0, timeoutSeconds=10, timeoutPolicy="RETRY", responseTimeoutSeconds=5)
    driver.register(workflow("order", simple("pay")))
    driver.worker("s", "pay", slots=2)
    driver.start("order", "w1")
    driver.wait(10_000)
    driver.start("order", "w2")
    driver.do(ExpireSession("s"))
    assert counted.all("task_timeouts") == {
        "task_timeouts_total{task=pay,reason=TASK_TIMEOUT}": 1, "task_timeouts_total{task=pay,reason=WORKER_LOST}": 1}
    assert counted["sessions_lost_total"] == 1
    assert sum(counted.all("workflows_ended").values()) == 2


def test_what_was_undone_is_counted_when_its_execution_has_ended(counted: Counted) -> None:
    driver = counted.driver
    driver.register(workflow("order", simple("pay", undo="refund"), simple("ship")))
    driver.worker("s", "pay", "ship", "refund")
    driver.start("order")
    driver.give("pay")
    driver.give("ship", b"", TaskStatus.FAILED_WITH_TERMINAL_ERROR)
    assert not counted.all("compensations_ended")
    driver.give(driver.undoing("pay"))
    assert counted.all("compensations_ended") == {"compensations_ended_total{workflow=order,outcome=COMPLETE}": 1}


def test_an_end_is_counted_once_whatever_is_done_to_the_execution_later(counted: Counted) -> None:
    driver = counted.driver
    driver.register(workflow("order", simple("pay")))
    driver.worker("s", "pay")
    driver.start("order")
    driver.do(PauseWorkflow("default", "w"))
    driver.give("pay")
    assert not counted.all("workflows_ended")
    driver.register(workflow("parcel", simple("ship")))
    driver.worker("t", "ship")
    driver.start("parcel", "v")
    driver.give("ship", workflow_id="v")
    before = counted.all("workflows_ended")
    assert before == {"workflows_ended_total{workflow=parcel,status=COMPLETED}": 1}
    driver.do(ExpireSession("t"))
    assert counted.all("workflows_ended") == before


def test_names_of_users_are_bounded(counted: Counted) -> None:
    driver = counted.driver
    names = [f"t{number}" for number in range(SERIES_MAX + 2)]
    for name in names:
        driver.register(workflow(name, simple(name)))
    driver.worker("s", *names)
    for name in names:
        driver.start(name, f"w-{name}")
        driver.give(name, workflow_id=f"w-{name}")
    ended = counted.all("task_attempts_ended")
    assert len(ended) == SERIES_MAX + 1
    assert ended[f"task_attempts_ended_total{{task={OTHER},status=COMPLETED}}"] == 2
    assert counted[f"workflow_duration_seconds_count{{workflow={OTHER}}}"] == 2


def test_what_has_gone_is_counted_by_the_leader_alone(counted: Counted) -> None:
    for leading in (True, False, True):
        effects = [ExecutionDeleted("default", "w1"), ExecutionDeleted("default", "w2")]
        counted.gauges.entry_applied([], effects, leading=leading)
    assert counted["workflows_deleted_total"] == 4


def test_executions_are_counted_as_they_start_whoever_wants_them() -> None:
    counted = Counted(busy_driver())
    driver, started = counted.driver, 0
    put(driver)
    for again in (lambda: driver.start("report"), lambda: driver.start("report"), lambda: run_now(driver)):
        started += isinstance(again(), Started | ScheduleRan)
    put_handler(driver, action("start_workflow", name="report"))
    driver.do(PublishEvent("default", "paid", "", b"{}"))
    assert counted["workflows_started_total"] == started + 1 == 3


class Known:
    def __init__(self, *, connected: bool) -> None:
        self._connected = connected

    def link_state(self, *, leading: bool) -> bool | None:
        return self._connected if leading else None

    def lag(self, namespace: str, event: str) -> int | None:
        return 7 if event == "redis:paid" else None


def test_the_leader_says_what_is_owed_to_streams_and_has_come_from_them() -> None:
    driver = busy_driver(HIGHEST)
    task = {"name": "sold", "taskReferenceName": "sold", "type": "EVENT", "sink": "redis:${workflow.input.to}"}
    driver.register(workflow("sells", task))
    for number, stream in enumerate(("orders", "orders", "bills")):
        driver.now_ms += 1_000
        driver.start("sells", f"w{number}", b'{"to":"%s"}' % stream.encode())
    for stream in ("paid", "shipped"):
        put_handler(driver, action("start_workflow", name="report"), name=stream, event=f"redis:{stream}")
    entries = [StreamEntry(f"{driver.now_ms + number}-0", "e", b"{}") for number in (1, 2)]
    entries.append(StreamEntry(f"{driver.now_ms + 3}-0", "f", b"{}", invalid="no"))
    driver.do(ReceiveEvents("default", "redis:paid", tuple(entries)))
    metrics = Metrics(node="n1", version="0")
    gauges = Gauges(metrics, lambda: 1, lambda state: 0, lambda: driver.state)
    census = Census(lambda: driver.machine, dict)
    now = readings(driver, log_time_ms=driver.now_ms + 2_000)
    gauges.set(replace(now, streams=Known(connected=True)), census)
    found = read(metrics)
    bills, orders = driver.state.triggers.owed.oldest("bills"), driver.state.triggers.owed.oldest("orders")
    assert bills is not None and orders is not None
    assert found["redis_connected"] == 1
    assert (found["outbox_events{stream=orders}"], found["outbox_events{stream=bills}"]) == (2, 1)
    assert found["outbox_bytes"] == driver.state.triggers.owed.bytes
    assert found["outbox_oldest_age_seconds{stream=orders}"] == (driver.now_ms + 2_000 - orders.time_ms) / 1_000 >= 4
    assert found["outbox_oldest_age_seconds{stream=bills}"] < found["outbox_oldest_age_seconds{stream=orders}"]
    paid = "{workflow_namespace=default,stream=paid}"
    assert (found[f"events_received_total{paid}"], found[f"events_repeated_total{paid}"]) == (2, 1)
    assert found[f"events_dead_lettered_total{paid}"] == 1
    assert {name: lag for name, lag in found.items() if "lag_entries" in name and "stream" in name} == {
        f"stream_lag_entries{paid}": 7}
    gauges.set(replace(readings(driver, leading=False), streams=Known(connected=False)), census)
    gone = {name.partition("{")[0] for name in found} - {name.partition("{")[0] for name in read(metrics)}
    assert {"outbox_events", "outbox_bytes", "outbox_oldest_age_seconds", "stream_lag_entries", "redis_connected",
            "events_received_total", "events_repeated_total", "events_dead_lettered_total"} <= gone


def test_without_redis_there_is_no_link_to_speak_of() -> None:
    driver = busy_driver(HIGHEST)
    metrics = Metrics(node="n1", version="0")
    census = Census(lambda: driver.machine, dict)
    Gauges(metrics, lambda: 1, lambda state: 0, lambda: driver.state).set(readings(driver), census)
    found = read(metrics)
    assert "redis_connected" not in found and found["outbox_bytes"] == 0
