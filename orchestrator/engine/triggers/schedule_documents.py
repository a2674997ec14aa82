"""The document of a schedule: read, checked against every rule, and kept as it was given. The shape is Conductor's.

Cron expressions and names of time zones are texts here: what they mean is in tables that differ between machines.
"""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache

import msgspec

from orchestrator.engine import limits
from orchestrator.engine.behaviour import HIGHEST
from orchestrator.engine.choices import IdempotencyStrategy
from orchestrator.engine.definitions.errors import DefinitionError, DefinitionInvalid
from orchestrator.engine.definitions.fields import Fields
from orchestrator.engine.definitions.parse import validate_unregistered
from orchestrator.engine.expressions import JsonInvalid, PayloadInvalid, check_json, check_payload, compact, text_of

TIME_MS_MAX = 2**48 - 1
CRON_CHARS = 200
ZONE_CHARS = 100
DOMAINS_MAX = 1_000

_KNOWN = (
    "name cronExpression zoneId cronSchedules startWorkflowRequest scheduleStartTime scheduleEndTime paused"
    " pausedReason runCatchupScheduleInstances overlapPolicy jitterMs"
    # For readers only.
    " description createTime updatedTime createdBy updatedBy nextRunTime"
).split()
_REQUEST_KNOWN = (
    "name version input correlationId priority taskToDomain workflowDef createdBy idempotencyKey idempotencyStrategy"
).split()
_REQUEST_UNBUILT = ("externalInputPayloadStoragePath",)
_REMEMBERED = 256
_SPACES = re.compile(r"[ \t\r\n]+")


class OverlapPolicy(StrEnum):
    """What to do when a time comes while the run before has not ended."""

    ALLOW = "ALLOW"  # they run side by side
    SKIP = "SKIP"  # this time is not run
    BUFFER_ONE = "BUFFER_ONE"  # one run waits for the end; further ones are not run
    TERMINATE_RUNNING = "TERMINATE_RUNNING"  # the run before is terminated, and what it owes is undone


class CronZone(msgspec.Struct, frozen=True):
    """A cron expression, and the time zone that it is meant in."""

    expression: str
    zone: str

    def __str__(self) -> str:
        return f"{self.expression} {self.zone}"


class StartRequest(msgspec.Struct, frozen=True):
    """What is started."""

    name: str
    version: int  # 0: the highest
    input: bytes
    correlation_id: str
    priority: int
    task_to_domain: tuple[tuple[str, str], ...]
    created_by: str
    document: bytes  # a definition to run without registering it; b"": the registered one
    idempotency_key: str = ""
    idempotency: IdempotencyStrategy = IdempotencyStrategy.FAIL


class ParsedSchedule(msgspec.Struct, frozen=True):
    """A schedule that keeps the rules."""

    name: str
    document: bytes  # without white space, otherwise as it was given
    crons: tuple[CronZone, ...]
    start_ms: int  # no time before this one; 0: none
    end_ms: int  # no time after this one; 0: none
    paused: bool
    paused_reason: str
    catch_up: bool
    overlap: OverlapPolicy
    jitter_ms: int
    request: StartRequest

    @property
    def timing(self) -> tuple[object, ...]:
        """What its times are made of."""
        return self.crons, self.start_ms, self.end_ms


def validate_schedule(document: bytes, level: int = HIGHEST) -> ParsedSchedule:
    """By the rules of a behaviour level; what was accepted once is by those of each later one.

    Raises DefinitionInvalid or DefinitionUnimplemented.
    """
    # The same text comes again each time the schedule runs.
    return _remembered(document, level)


def json_document(document: bytes, bytes_max: int) -> bytes:
    """The text without white space. Raises DefinitionInvalid."""
    if len(document) > bytes_max:
        raise DefinitionInvalid("", f"it may have {bytes_max} bytes")
    try:
        check_json(document)
    except JsonInvalid as error:
        raise DefinitionInvalid("", str(error)) from None
    return compact(document)


def read_domains(fields: Fields, key: str) -> tuple[tuple[str, str], ...]:
    """Domains by the names of tasks."""
    mapping = fields.mapping(key)
    if len(mapping) > DOMAINS_MAX:
        raise fields.invalid(key, f"it may have {DOMAINS_MAX} names")
    for name, value in mapping.items():
        if value[:1] != b'"':
            raise fields.invalid(f"{key}.{name}", "it must be a string")
    return tuple(sorted((name, text_of(value)) for name, value in mapping.items()))


def _validated(document: bytes, level: int) -> ParsedSchedule:
    text = json_document(document, limits.SCHEDULE_DOCUMENT_BYTES)
    fields = Fields(text, "", _KNOWN)
    for key in ("description", "createdBy", "updatedBy"):
        fields.text(key)
    start_ms = fields.integer("scheduleStartTime", 0, most=TIME_MS_MAX)
    end_ms = fields.integer("scheduleEndTime", 0, most=TIME_MS_MAX)
    if end_ms and end_ms < start_ms:
        raise fields.invalid("scheduleEndTime", "it is before scheduleStartTime")
    if not fields.has("startWorkflowRequest"):
        raise fields.invalid("startWorkflowRequest", "it is missing: what is to be started")
    return ParsedSchedule(
        name=fields.name("name"),
        document=text,
        crons=_crons(fields),
        start_ms=start_ms,
        end_ms=end_ms,
        paused=fields.flag("paused"),
        paused_reason=fields.text("pausedReason")[: limits.REASON_CHARS],
        catch_up=fields.flag("runCatchupScheduleInstances"),
        overlap=fields.choice("overlapPolicy", OverlapPolicy, OverlapPolicy.ALLOW),
        jitter_ms=fields.integer("jitterMs", 0, most=limits.SCHEDULE_JITTER_MS),
        request=_request(fields.object("startWorkflowRequest"), fields.text("createdBy"), level),
    )


_remembered = lru_cache(_REMEMBERED)(_validated)


def _crons(fields: Fields) -> tuple[CronZone, ...]:
    """Those of the list, if it has any; otherwise the single one."""
    items = fields.items("cronSchedules")
    if len(items) > limits.SCHEDULE_CRONS:
        raise fields.invalid("cronSchedules", f"it may have {limits.SCHEDULE_CRONS} elements")
    if items:
        return tuple(
            _cron(Fields(item, f"cronSchedules[{position}]", ("cronExpression", "zoneId")))
            for position, item in enumerate(items)
        )
    if not fields.has("cronExpression"):
        raise fields.invalid("cronExpression", "it is missing, and so are cronSchedules")
    return (_cron(fields),)


def _cron(fields: Fields) -> CronZone:
    expression = _SPACES.sub(" ", fields.name("cronExpression")).strip(" ")
    if not expression or len(expression) > CRON_CHARS:
        raise fields.invalid("cronExpression", f"it must have 1 to {CRON_CHARS} characters")
    zone = fields.text("zoneId") or "UTC"
    if len(zone) > ZONE_CHARS:
        raise fields.invalid("zoneId", f"it may have {ZONE_CHARS} characters")
    return CronZone(expression, zone)


def _request(raw: bytes, created_by: str, level: int) -> StartRequest:
    fields = Fields(raw, "startWorkflowRequest", _REQUEST_KNOWN, _REQUEST_UNBUILT)
    given = fields.object("input")
    try:
        check_payload(given)
    except PayloadInvalid as invalid:
        raise fields.invalid("input", str(invalid)) from None
    document = fields.object("workflowDef") if fields.is_set("workflowDef") else b""
    if document:
        try:
            validate_unregistered(document, level)
        except DefinitionError as error:
            path = f"{fields.at('workflowDef')}.{error.path}" if error.path else fields.at("workflowDef")
            raise type(error)(path, error.message) from None
    return StartRequest(
        name=fields.text("name") if document else fields.name("name"),
        version=fields.integer("version", 0),
        input=given,
        correlation_id=_short(fields, "correlationId"),
        priority=fields.integer("priority", 0, most=limits.PRIORITY),
        task_to_domain=read_domains(fields, "taskToDomain"),
        created_by=_short(fields, "createdBy") or created_by[: limits.NAME_CHARS],
        document=document,
        idempotency_key=_short(fields, "idempotencyKey"),
        idempotency=_strategy(fields),
    )


def _strategy(fields: Fields) -> IdempotencyStrategy:
    name = fields.text("idempotencyStrategy") or IdempotencyStrategy.FAIL.name
    if name not in IdempotencyStrategy.__members__:
        raise fields.invalid("idempotencyStrategy", f"it is none of {', '.join(IdempotencyStrategy.__members__)}")
    return IdempotencyStrategy[name]


def _short(fields: Fields, key: str) -> str:
    text = fields.text(key)
    if len(text) > limits.NAME_CHARS:
        raise fields.invalid(key, f"it may have {limits.NAME_CHARS} characters")
    return text
