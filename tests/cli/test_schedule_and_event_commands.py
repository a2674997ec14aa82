"""`orchestrator schedule` and `orchestrator event`: one call each, for people and for scripts."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from orchestrator.cli.app import cli
from orchestrator.cli.session import Session
from orchestrator_client import (
    EventRun,
    EventRunState,
    FireTime,
    IncomingStream,
    OutgoingStream,
    PendingEvent,
    PublishedEvent,
    Schedule,
    ScheduleRun,
    ScheduleRunState,
    StartedRun,
    StreamStatus,
    TrailEntry,
    TrailEntryKind,
    WorkflowStatus,
)
from tests.cli.fakes import FakeClient

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
DOCUMENT = {"name": "nightly", "cronExpression": "0 0 2 * * *", "zoneId": "Europe/Berlin", "overlapPolicy": "SKIP",
            "startWorkflowRequest": {"name": "report", "input": {"a": 1}}}
TWO = {"name": "two", "cronSchedules": [{"cronExpression": "a"}, {"cronExpression": "b", "zoneId": "Z"}],
       "startWorkflowRequest": {"name": "x"}}
HANDLER = {"name": "h", "event": "paid", "active": True, "condition": "$.a > 1",
           "actions": [{"action": "start_workflow", "start_workflow": {"name": "x"}}]}


class Schedules:
    def __init__(self, fake: Fake) -> None:
        self._fake = fake
        self.paused = False
        self.started = StartedRun("e1", ScheduleRunState.STARTED, "w1")

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any) -> None:
            self._fake._called(f"schedules.{name}", *arguments)

        return call

    async def get(self, name: str) -> Schedule:
        self._fake._called("schedules.get", name)
        return Schedule("nightly", DOCUMENT, True, "why", NOON, NOON, None, False, "w9")

    async def list(self) -> AsyncIterator[Schedule]:
        self._fake._called("schedules.list")
        yield Schedule("nightly", DOCUMENT, False, "", NOON, NOON, NOON, False, "")
        yield Schedule("two", TWO, False, "", NOON, NOON, None, True, "")

    async def all_paused(self) -> bool:
        return self.paused

    async def run(self, name: str) -> StartedRun:
        self._fake._called("schedules.run", name)
        return self.started

    async def runs(self, name: str) -> tuple[ScheduleRun, ...]:
        self._fake._called("schedules.runs", name)
        return (ScheduleRun("e2", ScheduleRunState.SKIPPED, NOON, NOON, "0 0 2 * * * UTC", "", "overlaps", 3),
                ScheduleRun("e1", ScheduleRunState.STARTED, NOON, NOON, "", "w1", "", 1))

    async def fire_times(self, what: Any, count: int) -> tuple[FireTime, ...]:
        self._fake._called("schedules.fire_times", what, count)
        return (FireTime(NOON, "0 0 2 * * * UTC"),)


class Events:
    def __init__(self, fake: Fake) -> None:
        self._fake = fake
        self.published = PublishedEvent(4, 2, False)

    async def publish(
        self, name: str, payload: Any, *, message_id: str, correlation_id: str, source: str
    ) -> PublishedEvent:
        self._fake._called("events.publish", name, payload, message_id, correlation_id, source)
        return self.published

    async def put_handler(self, document: Any) -> None:
        self._fake._called("events.put_handler", document)

    async def handler(self, name: str) -> dict[str, Any]:
        self._fake._called("events.handler", name)
        return HANDLER

    async def handlers(self, event: str) -> AsyncIterator[dict[str, Any]]:
        self._fake._called("events.handlers", event)
        yield HANDLER

    async def delete_handler(self, name: str) -> None:
        self._fake._called("events.delete_handler", name)

    async def runs(self, *, handler: str, event: str, page_size: int) -> AsyncIterator[EventRun]:
        self._fake._called("events.runs", handler, event, page_size)
        for number in range(3):
            yield EventRun("paid", number, "m", "h", "start_workflow", 0, EventRunState.FAILED, "why", "w1", NOON, NOON)

    async def pending(self) -> AsyncIterator[PendingEvent]:
        self._fake._called("events.pending")
        yield PendingEvent("paid", 7, "m", NOON, ("h", "i"), 1)

    async def streams(self) -> StreamStatus:
        self._fake._called("events.streams")
        leaving = OutgoingStream("orders", 3, 120, NOON, "out of memory")
        coming = IncomingStream("paid", "default@orchestrator", "1-0", 5, 1, 2, None, "")
        return StreamStatus(True, False, "connection refused", (leaving,), (coming,))

    async def trail(self, correlation_id: str) -> AsyncIterator[TrailEntry]:
        self._fake._called("events.trail", correlation_id)
        kind = TrailEntryKind
        blank = TrailEntry(kind.UNKNOWN, NOON, 0, 0, "", "", "", "", "", "", False, "", "", "", None, "")
        event = replace(blank, event="placed", event_id="m")
        ran = replace(blank, workflow_id="w1", workflow="ship")
        for entry in (
            replace(event, kind=kind.EVENT_IN, number=7, source="shop"),
            replace(event, kind=kind.ACTION, number=8, caused_by=7, handler="h", action="start_workflow",
                    workflow_id="w1"),
            replace(ran, kind=kind.WORKFLOW_STARTED, caused_by=8, workflow_status=WorkflowStatus.RUNNING),
            replace(ran, kind=kind.EVENT_OUT, number=9, event="redis:s", event_label="sent", source="task/tell"),
            replace(event, kind=kind.ACTION, number=10, caused_by=1, handler="g", failed=True, reason="why"),
            replace(ran, kind=kind.WORKFLOW_STARTED, workflow_id="w2", parent_workflow_id="w1"),
            replace(ran, kind=kind.WORKFLOW_ENDED, workflow_status=WorkflowStatus.FAILED, reason="so"),
            replace(event, kind=kind.EVENT_IN),
            replace(event, kind=kind.EVENT_IN, source="shop", failed=True, reason="no JSON"),
            replace(event, kind=kind.EVENT_IN, number=11, caused_by=9, event="redis:s"),
            replace(event, kind=kind.ACTION, caused_by=7, action="correlate", workflow_id="w1"),
            blank,
        ):
            yield entry


class Fake(FakeClient):
    def __init__(self) -> None:
        super().__init__()
        self.schedules = Schedules(self)
        self.events = Events(self)


@pytest.fixture
def fake() -> Fake:
    return Fake()


def run(fake: Fake, *arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, obj=Session(connect=fake))


@pytest.mark.parametrize(("arguments", "call"), [
    ("schedule get nightly", ("schedules.get", "nightly")),
    ("schedule list", ("schedules.list",)),
    ("schedule delete nightly", ("schedules.delete", "nightly")),
    ("schedule pause nightly --reason why", ("schedules.pause", "nightly", "why")),
    ("schedule resume nightly", ("schedules.resume", "nightly")),
    ("schedule pause-all", ("schedules.pause_all", "")),
    ("schedule resume-all", ("schedules.resume_all",)),
    ("schedule run nightly", ("schedules.run", "nightly")),
    ("schedule runs nightly", ("schedules.runs", "nightly")),
    ("schedule times nightly --count 7", ("schedules.fire_times", "nightly", 7)),
    ("event publish paid", ("events.publish", "paid", {}, "", "", "")),
    ("event publish paid -p {\"a\":1} --message-id m --correlation-id c --source s",
     ("events.publish", "paid", {"a": 1}, "m", "c", "s")),
    ("event trail c", ("events.trail", "c")),
    ("event handler get h", ("events.handler", "h")),
    ("event handler list --event paid", ("events.handlers", "paid")),
    ("event handler delete h", ("events.delete_handler", "h")),
    ("event runs --handler h --event paid --limit 2", ("events.runs", "h", "paid", 2)),
    ("event pending", ("events.pending",)),
])
def test_each_command_asks_for_one_thing(fake: Fake, arguments: str, call: tuple[Any, ...]) -> None:
    for more in ([], ["--json"]):
        fake.calls.clear()
        result = run(fake, *arguments.split(), *more)
        assert result.exit_code == 0, result.output
        assert fake.calls[1:] == [call] and result.stderr == ""
        assert json.loads(result.stdout) if more else result.stdout


def test_documents_come_from_files(fake: Fake, tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text(json.dumps(DOCUMENT))
    (tmp_path / "two.yaml").write_text("name: a\n---\nname: b\n")
    files = [str(tmp_path / "one.json"), str(tmp_path / "two.yaml")]
    result = run(fake, "schedule", "put", *files, "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"put": ["nightly", "a", "b"]})
    assert [call[1]["name"] for call in fake.calls[1:]] == ["nightly", "a", "b"]
    fake.calls.clear()
    assert run(fake, "event", "handler", "put", files[1]).exit_code == 0
    assert [call for call in fake.calls if call[0] == "events.put_handler"][1][1] == {"name": "b"}
    assert run(fake, "schedule", "put", str(tmp_path / "absent")).exit_code == 2


def test_times_of_an_idea_come_from_a_file(fake: Fake, tmp_path: Path) -> None:
    file = tmp_path / "idea.json"
    file.write_text(json.dumps(DOCUMENT))
    assert run(fake, "schedule", "times", "-f", str(file)).exit_code == 0
    assert fake.calls[-1] == ("schedules.fire_times", DOCUMENT, 5)
    file.write_text(json.dumps([DOCUMENT, TWO]))
    assert run(fake, "schedule", "times", "-f", str(file)).exit_code == 2
    assert run(fake, "schedule", "times").exit_code == 2
    assert run(fake, "schedule", "times", "nightly", "-f", str(file)).exit_code == 2


def test_schedules_for_people(fake: Fake) -> None:
    rows = [line.split() for line in run(fake, "schedule", "list").stdout.splitlines()]
    assert rows[1][:10] == ["nightly", "0", "0", "2", "*", "*", "*", "Europe/Berlin", "report", "ACTIVE"]
    assert rows[2] == ["two", "a", "UTC,", "b", "Z", "x", "ENDED"]
    text = run(fake, "schedule", "get", "nightly").stdout
    for words in ("PAUSED", "why", "SKIP", "w9", '{"a": 1}'):
        assert words in text
    fake.schedules.paused = True
    assert "all schedules are paused" in run(fake, "schedule", "list").stderr


def test_runs_for_people(fake: Fake) -> None:
    _, skipped, started = [line.split() for line in run(fake, "schedule", "runs", "nightly").stdout.splitlines()]
    assert skipped[2:4] == ["SKIPPED", "3"] and skipped[-1] == "overlaps"
    assert started[2:] == ["STARTED", "w1", "by", "hand"]
    fake.schedules.started = StartedRun("e1", ScheduleRunState.BUFFERED, "")
    assert "waits for the end of the one before" in run(fake, "schedule", "run", "nightly").stdout


def test_events_for_people(fake: Fake) -> None:
    assert "2 handlers" in run(fake, "event", "publish", "paid").stdout
    fake.events.published = PublishedEvent(4, 0, True)
    assert "nothing was done" in run(fake, "event", "publish", "paid").stdout
    rows = [line.split() for line in run(fake, "event", "runs", "--limit", "2").stdout.splitlines()]
    assert len(rows) == 3 and rows[1][2:] == ["paid", "h", "start_workflow", "FAILED", "w1", "why"]
    text = run(fake, "event", "handler", "get", "h").stdout
    assert "$.a > 1" in text and "action 1" in text
    rows = [line.split()[3:] for line in run(fake, "event", "trail", "c").stdout.splitlines()[1:]]
    assert [" ".join(row) for row in rows] == [
        "service shop publishes placed",
        "handler h start_workflow w1 COMPLETED line 1",
        "workflow ship w1 begins line 2",
        "workflow ship w1 publishes redis:s (sent) task/tell",
        "handler g FAILED event placed m why",
        "workflow ship w2 begins workflow w1",
        "workflow ship w1 ends FAILED so",
        "a service publishes placed",
        "service shop publishes placed FAILED no JSON",
        "stream brings redis:s line 4",
        "kept event correlate w1 COMPLETED line 1",
        "something that this version does not know",
    ]
    assert run(fake, "event", "pending").stdout.splitlines()[1].split()[-3:] == ["h,", "i", "1"]


def test_the_streams_are_shown_with_what_ails_them(fake: Fake) -> None:
    lines = [line.split() for line in run(fake, "event", "streams").stdout.splitlines()]
    assert ["Redis", "not", "connected"] in lines and ["last", "error", "connection", "refused"] in lines
    assert any(line[:3] == ["orders", "3", "120"] and line[-3:] == ["out", "of", "memory"] for line in lines)
    assert ["paid", "default@orchestrator", "1-0", "5", "1", "2"] in lines
    told = json.loads(run(fake, "event", "streams", "--json").stdout)
    assert (told["connected"], told["incoming"][0]["lag"], told["outgoing"][0]["owed_events"]) == (False, None, 3)
