"""Schedules: workflows that are started at the times of cron expressions. `Client.schedules` is the way to them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from orchestrator_api.v1 import schedules_pb2 as pb
from orchestrator_api.v1.common_pb2 import PageRequest, ReadOptions
from orchestrator_client.codec import dumps
from orchestrator_client.connection import Connection
from orchestrator_client.execution import named, read_time


class ScheduleRunState(StrEnum):
    # Its execution is about to start.
    PENDING = "PENDING"
    STARTED = "STARTED"
    # There is no execution; the reason says why.
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"
    # Waits for the end of the run before.
    BUFFERED = "BUFFERED"
    # A state of a newer server.
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True)
class Schedule:
    """A schedule, as it was when asked."""

    name: str
    document: dict[str, Any]
    paused: bool
    paused_reason: str
    create_time: datetime | None
    update_time: datetime | None
    # The next time that is armed; None if there is none within a day or so.
    next_time: datetime | None
    # There are no times to come.
    ended: bool
    # The run that has not ended, unless runs may overlap.
    running_workflow_id: str


@dataclass(frozen=True)
class ScheduleRun:
    """A run of a schedule; or several that follow each other and were skipped for the same reason."""

    execution_id: str
    state: ScheduleRunState
    scheduled_time: datetime | None
    executed_time: datetime | None
    # The cron expression and its zone; empty for a run by hand.
    cron: str
    workflow_id: str
    reason: str
    count: int


@dataclass(frozen=True)
class StartedRun:
    """A run by hand: its workflow was started, or waits for the end of the run before and has no id yet."""

    execution_id: str
    state: ScheduleRunState
    workflow_id: str


@dataclass(frozen=True)
class FireTime:
    """A time that is to come."""

    time: datetime
    # The cron expression and its zone.
    cron: str


class Schedules:
    """The schedules of a client's namespace."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._namespace = connection.namespace

    async def put(self, document: Mapping[str, Any]) -> None:
        """Creates a schedule, or replaces the one of its name. The document is in Conductor's shape."""
        request = pb.PutScheduleRequest(namespace=self._namespace, schedule_json=dumps(document))
        await self._connection.call(lambda node: node.schedules.PutSchedule, request, mutating=True)

    async def get(self, name: str) -> Schedule:
        request = pb.GetScheduleRequest(namespace=self._namespace, name=name)
        reply = await self._connection.call(lambda node: node.schedules.GetSchedule, request)
        return _schedule(reply.schedule)

    async def list(self, *, page_size: int = 100, stale_ok: bool = False) -> AsyncIterator[Schedule]:
        """All schedules, by name."""
        request = pb.ListSchedulesRequest(
            namespace=self._namespace, page=PageRequest(size=page_size), read=ReadOptions(stale_ok=stale_ok)
        )
        while True:
            reply = await self._connection.call(lambda node: node.schedules.ListSchedules, request)
            for schedule in reply.schedules:
                yield _schedule(schedule)
            if not reply.next_token:
                return
            request.page.token = reply.next_token

    async def delete(self, name: str) -> None:
        """Removes a schedule and the records of its runs; executions go on."""
        request = pb.DeleteScheduleRequest(namespace=self._namespace, name=name)
        await self._connection.call(lambda node: node.schedules.DeleteSchedule, request, mutating=True)

    async def pause(self, name: str, reason: str = "") -> None:
        """Nothing runs until `resume`; what comes meanwhile is past then, unless the schedule catches up."""
        request = pb.PauseScheduleRequest(namespace=self._namespace, name=name, reason=reason)
        await self._connection.call(lambda node: node.schedules.PauseSchedule, request, mutating=True)

    async def resume(self, name: str) -> None:
        """Goes on after `pause`."""
        request = pb.ResumeScheduleRequest(namespace=self._namespace, name=name)
        await self._connection.call(lambda node: node.schedules.ResumeSchedule, request, mutating=True)

    async def pause_all(self, reason: str = "") -> None:
        """Pauses all schedules of the cluster, in all namespaces."""
        request = pb.PauseAllSchedulesRequest(reason=reason)
        await self._connection.call(lambda node: node.schedules.PauseAllSchedules, request, mutating=True)

    async def resume_all(self) -> None:
        """Goes on after `pause_all`; schedules that are paused themselves stay so."""
        request = pb.ResumeAllSchedulesRequest()
        await self._connection.call(lambda node: node.schedules.ResumeAllSchedules, request, mutating=True)

    async def all_paused(self) -> bool:
        """Whether `pause_all` holds."""
        request = pb.ListSchedulesRequest(namespace=self._namespace, page=PageRequest(size=1))
        reply = await self._connection.call(lambda node: node.schedules.ListSchedules, request)
        return bool(reply.all_paused)

    async def run(self, name: str) -> StartedRun:
        """Runs a schedule now, whatever its times are, also if it is paused. Its overlap policy holds."""
        request = pb.RunScheduleRequest(namespace=self._namespace, name=name)
        reply = await self._connection.call(lambda node: node.schedules.RunSchedule, request, mutating=True)
        return StartedRun(reply.execution_id, _state(reply.state), reply.workflow_id)

    async def runs(self, name: str) -> tuple[ScheduleRun, ...]:
        """The newest runs of a schedule, the newest first."""
        request = pb.ListScheduleRunsRequest(namespace=self._namespace, name=name)
        reply = await self._connection.call(lambda node: node.schedules.ListScheduleRuns, request)
        return tuple(_run(run) for run in reply.runs)

    async def fire_times(self, schedule: str | Mapping[str, Any], count: int = 5) -> tuple[FireTime, ...]:
        """The next times of the schedule of this name; or of a document, which is checked and not stored."""
        request = pb.ListFireTimesRequest(namespace=self._namespace, count=count)
        if isinstance(schedule, str):
            request.name = schedule
        else:
            request.schedule_json = dumps(schedule)
        reply = await self._connection.call(lambda node: node.schedules.ListFireTimes, request)
        times = [(read_time(each.time), each.cron) for each in reply.times]
        return tuple(FireTime(time, cron) for time, cron in times if time is not None)


def _schedule(message: pb.Schedule) -> Schedule:
    return Schedule(
        name=message.name,
        document=json.loads(message.schedule_json),
        paused=message.paused,
        paused_reason=message.paused_reason,
        create_time=read_time(message.create_time),
        update_time=read_time(message.update_time),
        next_time=read_time(message.next_time),
        ended=message.ended,
        running_workflow_id=message.running_workflow_id,
    )


def _run(message: pb.ScheduleRun) -> ScheduleRun:
    return ScheduleRun(
        execution_id=message.execution_id,
        state=_state(message.state),
        scheduled_time=read_time(message.scheduled_time),
        executed_time=read_time(message.executed_time),
        cron=message.cron,
        workflow_id=message.workflow_id,
        reason=message.reason,
        count=message.count,
    )


def _state(number: int) -> ScheduleRunState:
    return named(ScheduleRunState, pb.ScheduleRunState, number, "SCHEDULE_RUN_STATE_")
