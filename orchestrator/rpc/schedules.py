"""ScheduleService: schedules, made, steered, run by hand and read."""

from __future__ import annotations

from itertools import islice
from typing import Any

import grpc

from orchestrator.engine import commands
from orchestrator.engine.definitions.errors import DefinitionInvalid, DefinitionUnimplemented
from orchestrator.engine.results import Done, ScheduleRan
from orchestrator.engine.triggers import queries
from orchestrator.engine.triggers import schedules as engine
from orchestrator.engine.triggers.rows import RunState, ScheduleRow, ScheduleRun
from orchestrator.engine.triggers.schedule_documents import ParsedSchedule, validate_schedule
from orchestrator.integrations.cron import CronInvalid, Timetable, timetable_of
from orchestrator.rpc import redis_needed
from orchestrator.rpc.backend import Backend
from orchestrator.rpc.definitions import page_of
from orchestrator.rpc.errors import RpcFailure, answers, invalid, not_found
from orchestrator.rpc.requests import (
    REASON_CHARACTERS_MAX,
    identity_of,
    in_range,
    namespace_of,
    refuse_reserved,
    required,
    text,
)
from orchestrator.rpc.views import timestamp
from orchestrator_api.v1 import schedules_pb2 as pb
from orchestrator_api.v1 import schedules_pb2_grpc as pb_grpc

FIRE_TIMES_DEFAULT = 5
FIRE_TIMES_MAX = 100
RUN_STATE = {state: pb.ScheduleRunState.Value(f"SCHEDULE_RUN_STATE_{state.name}") for state in RunState}


class ScheduleServicer(pb_grpc.ScheduleServiceServicer):
    def __init__(self, backend: Backend) -> None:
        self.backend = backend

    @answers
    async def PutSchedule(self, request: pb.PutScheduleRequest, context: Any) -> Any:
        parsed, _ = _checked(request.schedule_json)
        refuse_reserved("schedule_json", request.schedule_json)
        redis_needed.check_inner(self.backend, parsed.request.document, "schedule_json")
        await self._submit(commands.PutSchedule(namespace_of(request.namespace), request.schedule_json), request)
        return pb.PutScheduleResponse()

    @answers
    async def GetSchedule(self, request: pb.GetScheduleRequest, context: Any) -> Any:
        row = await self._read(request)
        all_paused = engine.scheduling(self.backend.state()).paused
        return pb.GetScheduleResponse(schedule=_schedule(row), all_paused=all_paused)

    @answers
    async def ListSchedules(self, request: pb.ListSchedulesRequest, context: Any) -> Any:
        await self.backend.read_point(request.read)
        state = self.backend.state()
        rows = queries.schedules(state, namespace_of(request.namespace))
        page, token = page_of([(row.name, _schedule(row).SerializeToString()) for row in rows], request.page)
        every = engine.scheduling(state)
        return pb.ListSchedulesResponse(
            schedules=[pb.Schedule.FromString(each) for each in page],
            next_token=token,
            all_paused=every.paused,
            all_paused_reason=every.reason,
        )

    @answers
    async def DeleteSchedule(self, request: pb.DeleteScheduleRequest, context: Any) -> Any:
        await self._submit(commands.DeleteSchedule(*_schedule_of(request)), request)
        return pb.DeleteScheduleResponse()

    @answers
    async def PauseSchedule(self, request: pb.PauseScheduleRequest, context: Any) -> Any:
        reason = text("reason", request.reason, REASON_CHARACTERS_MAX)
        await self._submit(commands.PauseSchedule(*_schedule_of(request), reason), request)
        return pb.PauseScheduleResponse()

    @answers
    async def ResumeSchedule(self, request: pb.ResumeScheduleRequest, context: Any) -> Any:
        await self._submit(commands.ResumeSchedule(*_schedule_of(request)), request)
        return pb.ResumeScheduleResponse()

    @answers
    async def PauseAllSchedules(self, request: pb.PauseAllSchedulesRequest, context: Any) -> Any:
        reason = text("reason", request.reason, REASON_CHARACTERS_MAX)
        await self._submit(commands.PauseScheduling(reason), request)
        return pb.PauseAllSchedulesResponse()

    @answers
    async def ResumeAllSchedules(self, request: pb.ResumeAllSchedulesRequest, context: Any) -> Any:
        await self._submit(commands.ResumeScheduling(), request)
        return pb.ResumeAllSchedulesResponse()

    @answers
    async def RunSchedule(self, request: pb.RunScheduleRequest, context: Any) -> Any:
        command = commands.RunSchedule(*_schedule_of(request))
        ran = await self.backend.submit(command, ScheduleRan, identity_of(request.request))
        return pb.RunScheduleResponse(
            execution_id=ran.execution_id, state=RUN_STATE[RunState(ran.state)], workflow_id=ran.workflow_id
        )

    @answers
    async def ListScheduleRuns(self, request: pb.ListScheduleRunsRequest, context: Any) -> Any:
        row = await self._read(request)
        runs = queries.schedule_runs(self.backend.state(), row)
        return pb.ListScheduleRunsResponse(runs=[_run(run) for run in runs])

    @answers
    async def ListFireTimes(self, request: pb.ListFireTimesRequest, context: Any) -> Any:
        count = in_range("count", request.count or FIRE_TIMES_DEFAULT, 1, FIRE_TIMES_MAX)
        if bool(request.name) == bool(request.schedule_json):
            raise invalid("name", "is given, or else schedule_json is")
        document = request.schedule_json or (await self._read(request)).document
        if request.schedule_json:
            await self.backend.read_point(request.read)
        parsed, table = _checked(document)
        times = islice(table.after(self.backend.log_time_ms()), count)
        return pb.ListFireTimesResponse(
            times=[pb.FireTime(time=timestamp(time_ms), cron=str(parsed.crons[number])) for time_ms, number in times]
        )

    async def _submit(self, command: commands.AnyCommand, request: Any) -> None:
        await self.backend.submit(command, Done, identity_of(request.request))

    async def _read(self, request: Any) -> ScheduleRow:
        namespace, name = _schedule_of(request)
        await self.backend.read_point(request.read)
        row = engine.schedule(self.backend.state(), namespace, name)
        if row is None:
            raise not_found("schedule", name)
        return row


def _schedule_of(request: Any) -> tuple[str, str]:
    return namespace_of(request.namespace), required("name", request.name)


def _checked(document: bytes) -> tuple[ParsedSchedule, Timetable]:
    """Early, so that a document that breaks a rule costs no log entry, and what only can be checked outside of it."""
    try:
        parsed = validate_schedule(document)
    except DefinitionInvalid as error:
        raise _invalid(error.path, str(error)) from error
    except DefinitionUnimplemented as error:
        metadata = {"field": "schedule_json", "path": error.path}
        raise RpcFailure(
            grpc.StatusCode.UNIMPLEMENTED, "DEFINITION_UNIMPLEMENTED", f"schedule_json: {error}", metadata
        ) from error
    many = len(parsed.crons) > 1
    for position, cron in enumerate(parsed.crons):
        try:
            Timetable([(cron.expression, cron.zone)])
        except CronInvalid as error:
            path = f"cronSchedules[{position}].{error.field}" if many else error.field
            raise _invalid(path, f"{path}: {error}") from error
    return parsed, timetable_of(parsed)


def _invalid(path: str, message: str) -> RpcFailure:
    metadata = {"field": "schedule_json", "path": path}
    return RpcFailure(grpc.StatusCode.INVALID_ARGUMENT, "SCHEDULE_INVALID", f"schedule_json: {message}", metadata)


def _schedule(row: ScheduleRow) -> pb.Schedule:
    return pb.Schedule(
        schedule_json=row.document,
        name=row.name,
        paused=row.paused,
        paused_reason=row.paused_reason,
        create_time=timestamp(row.created_ms),
        update_time=timestamp(row.updated_ms),
        next_time=timestamp(row.due[0][0]) if row.due else None,
        ended=row.exhausted and not row.due,
        running_workflow_id=row.running,
    )


def _run(run: ScheduleRun) -> pb.ScheduleRun:
    return pb.ScheduleRun(
        execution_id=run.execution_id,
        state=RUN_STATE[run.state],
        scheduled_time=timestamp(run.scheduled_ms),
        executed_time=timestamp(run.executed_ms),
        cron=run.cron,
        workflow_id=run.workflow_id,
        reason=run.reason,
        count=run.count,
    )
