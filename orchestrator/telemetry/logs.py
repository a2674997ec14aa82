"""Structured logs on stderr: one line per record, as text for people or as one JSON object.

Fields are given with `extra={...}` and appear as key=value, or as members of the object; what concerns an execution or
an attempt has `namespace`, `workflow_id` and `task_id`. Every record also has what the process knows of itself at that
moment (`about`): a node's term and indexes. A record never breaks its line, whatever it contains, and logging never
raises. Payloads and secrets are in none.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

# What every record has; all else was given as a field.
_STANDARD = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_PREFIX = "orchestrator."
# Their debug and info lines are about themselves, not about this node, or have headers and addresses of calls in them.
_QUIET = ("asyncio", "grpc", "grpc._cython", "httpcore", "httpx", "pysyncobj")

Facts = Callable[[], Mapping[str, Any]]

_facts: list[Facts] = []  # at most one: that of the node that this process is


def about(facts: Facts) -> None:
    """What every record of this process says besides, asked for each one, in whatever thread; a field wins over it."""
    _facts[:] = [facts]


def configure(*, node: str, log_format: str, level: str, stream: TextIO | None = None) -> None:
    """Sends everything logged in this process to the stream, as of now; calling it again replaces what it set."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.addFilter(_is_no_noise)
    handler.setFormatter(JsonFormatter(node) if log_format == "json" else HumanFormatter(node))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    logging.captureWarnings(True)
    logging.raiseExceptions = False
    _facts.clear()


def _is_no_noise(record: logging.LogRecord) -> bool:
    # gRPC shows a trace for each header of a stranger that is no text: whoever likes could fill the disk with that.
    return not (record.name.startswith("grpc.") and str(record.msg).startswith("Invalid encoding on"))


class HumanFormatter(logging.Formatter):
    """`2026-01-31T12:00:00.000Z INFO    a replication.votes: message key=value`"""

    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        text = f"{_time(record)} {record.levelname:<7} {self._node} {_logger(record)}: {record.getMessage()}"
        for name, value in _fields(record).items():
            text += f" {name}={_quoted(value)}"
        error = _error(self, record)
        # The trace keeps its lines, indented, so that each record still starts at the margin.
        return _one_line(text) + ("".join(f"\n    {line}" for line in error.splitlines()) if error else "")


class JsonFormatter(logging.Formatter):
    """One object per line: time, level, node, logger, message, the fields, and error with its trace."""

    def __init__(self, node: str) -> None:
        super().__init__()
        self._node = node

    def format(self, record: logging.LogRecord) -> str:
        document: dict[str, Any] = {
            "time": _time(record), "level": record.levelname.lower(), "node": self._node,
            "logger": _logger(record), "message": record.getMessage(),
        }
        for name, value in _fields(record).items():
            document[f"field_{name}" if name in document else name] = value
        error = _error(self, record)
        if error:
            document["error"] = error
        return json.dumps(document, ensure_ascii=False, default=str)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _logger(record: logging.LogRecord) -> str:
    return record.name.removeprefix(_PREFIX)


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    given = {name: value for name, value in vars(record).items() if name not in _STANDARD}
    return {**given, **{name: value for name, value in _known().items() if name not in given}}


def _known() -> Mapping[str, Any]:
    try:
        return _facts[0]() if _facts else {}
    except Exception as error:  # noqa: BLE001 - a record is not lost for want of what is said beside it
        return {"about_failed": repr(error)}


def _error(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    parts = [formatter.formatException(record.exc_info)] if record.exc_info else []
    if record.stack_info:
        parts.append(record.stack_info)
    return "\n".join(parts)


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if not text or any(c in text for c in ' "=\n\r\t') else text


def _one_line(text: str) -> str:
    return text.replace("\r", "\\r").replace("\n", "\\n")
