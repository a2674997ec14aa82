"""Where the time of a workflow went, by the command line."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from orchestrator.cli.timing_commands import _length
from orchestrator_client import AttemptTiming, TaskStatus, TimeKind, WorkflowTiming
from tests.cli.fakes import FakeClient
from tests.cli.test_workflow_commands import run

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


def seconds(value: float) -> timedelta:
    return timedelta(seconds=value)


class Timed(FakeClient):
    async def timing(self, workflow_id: str) -> WorkflowTiming:
        self._called("timing", workflow_id)
        spent = {TimeKind.DELAY: seconds(5), TimeKind.QUEUE: seconds(60), TimeKind.WORKER: seconds(4)}
        charged = AttemptTiming(
            "charge", "charge", "SIMPLE", "t1", 2, TaskStatus.COMPLETED, "vm:7", NOON + seconds(1), NOON + seconds(66),
            NOON + seconds(70), spent, "")
        undone = AttemptTiming(
            "charge__compensation", "refund", "SIMPLE", "t2", 1, TaskStatus.SCHEDULED, "", NOON + seconds(70), None,
            None, {TimeKind.QUEUE: seconds(30)}, "charge")
        shares = {TimeKind.WORKER: seconds(4), TimeKind.QUEUE: seconds(90), TimeKind.DELAY: seconds(5),
                  TimeKind.OTHER: seconds(1)}
        return WorkflowTiming(NOON, NOON + seconds(100), shares, [charged, undone], 3)


@pytest.fixture
def fake() -> Timed:
    return Timed()


def test_the_whole_and_each_attempt_are_shown(fake: Timed) -> None:
    lines = run(fake, "workflow", "timing", "w1").stdout.splitlines()
    facts = dict(line.split(maxsplit=1) for line in lines[:6])
    assert facts["in"].split(maxsplit=1)[1].strip() == "1 min 40 s"
    assert facts["worker"].strip() == "4 s  4.0%" and facts["queue"].strip() == "1 min 30 s  90.0%"
    [charged] = [line for line in lines if line.startswith("charge ")]
    assert [" ".join(part.split()) for part in charged.split("  ") if part.strip()] == [
        "charge", "SIMPLE", "2", "COMPLETED", "+1 s", "5 s", "1 min 0 s", "4 s", "+1 min 10 s", "vm:7"]
    [undone] = [line for line in lines if line.startswith("charge__compensation")]
    assert "undoes charge" in undone and "30 s" in undone
    assert lines[-1] == "and 3 more that took less"


def test_for_scripts_it_is_json(fake: Timed) -> None:
    values = json.loads(run(fake, "workflow", "timing", "w1", "--json").stdout)
    assert values["shares_s"] == {"worker": 4.0, "queue": 90.0, "delay": 5.0, "other": 1.0}
    assert values["attempts"][0]["spent_s"]["delay"] == 5.0
    assert values["attempts"][1]["leased"] is None and values["left_out"] == 3


@pytest.mark.parametrize(("length", "said"), [
    (0, "0 ms"), (0.04, "40 ms"), (3.25, "3.25 s"), (59.999, "59.999 s"), (60, "1 min 0 s"), (3_725, "1 h 2 min"),
    (100 * 3_600, "4 d 4 h"),
])
def test_lengths_are_said_as_short_as_can_be(length: float, said: str) -> None:
    assert _length(timedelta(seconds=length)) == said
