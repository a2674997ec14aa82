"""Pages of what the attempts of an execution have logged."""

from __future__ import annotations

import base64
import binascii
from itertools import islice
from typing import NamedTuple

from orchestrator.engine import task_logs
from orchestrator.engine.execution_state import ExecutionState
from orchestrator.engine.task_logs import LogLine
from orchestrator.rpc import views
from orchestrator.rpc.errors import invalid
from orchestrator.rpc.requests import page_size, text
from orchestrator_api.v1 import workflows_pb2 as pb

_BYTES = 4


class Wanted(NamedTuple):
    """Which lines: "" filters nothing; from which place on, and how many."""

    reference: str
    task_id: str
    number: int
    position: int
    size: int


def wanted(request: pb.GetTaskLogsRequest) -> Wanted:
    number, position = _place_of(request.page.token) if request.page.token else (0, 0)
    return Wanted(
        text("reference", request.reference),
        text("task_id", request.task_id),
        number,
        position,
        page_size(request.page),
    )


def page(held: ExecutionState, which: Wanted) -> pb.GetTaskLogsResponse:
    """The token is good while lines come and go: it names the next line, or the first that is left behind it."""
    behind = task_logs.lines_after(held, which.number, which.position)
    found = list(islice((line for line in behind if _is_wanted(line, which)), which.size + 1))
    return pb.GetTaskLogsResponse(
        lines=[_line(line) for line in found[: which.size]],
        next_token=_token(found[-1]) if len(found) > which.size else "",
        lines_dropped=held.execution.log_lines_dropped,
    )


def _is_wanted(line: LogLine, which: Wanted) -> bool:
    return which.reference in ("", line.attempt.reference) and which.task_id in ("", line.attempt.task_id)


def _line(line: LogLine) -> pb.TaskLogLine:
    return pb.TaskLogLine(
        task_id=line.attempt.task_id,
        reference=line.attempt.reference,
        retry_count=line.attempt.retry_count,
        time=views.timestamp(line.time_ms),
        text=line.text,
    )


def _token(line: LogLine) -> str:
    place = line.number.to_bytes(_BYTES, "big") + line.position.to_bytes(_BYTES, "big")
    return base64.urlsafe_b64encode(place).decode()


def _place_of(token: str) -> tuple[int, int]:
    try:
        place = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
    except (UnicodeError, binascii.Error):
        place = b""
    if len(place) != 2 * _BYTES:
        raise invalid("page.token", "not a token of this call")
    return int.from_bytes(place[:_BYTES], "big"), int.from_bytes(place[_BYTES:], "big")
