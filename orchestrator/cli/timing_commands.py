"""Where the time of a workflow went."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import click
from rich.console import Group
from rich.text import Text

from orchestrator.cli.output import facts, moment, table
from orchestrator.cli.session import Session, calls_cluster
from orchestrator_client import AttemptTiming, Client, TimeKind, WorkflowTiming

_WAITS = (TimeKind.SUB_WORKFLOW, TimeKind.SIGNAL, TimeKind.PERSON, TimeKind.TIMER)
_HEADINGS = ("TASK", "TYPE", "TRY", "STATUS", "SCHEDULED", "DELAY", "QUEUE", "WORKED", "WAITED", "ENDED", "WORKER")


@click.command()
@click.argument("workflow_id", metavar="ID")
@calls_cluster
async def timing(session: Session, client: Client, workflow_id: str) -> None:
    """Show where the time of a workflow went, as a whole and task by task.

    All times are the log's: a task is scheduled, waits for its delay (before a retry, say) and then in its queue, is
    leased to a worker, and has ended when its result is in the log. Of the whole, each moment counts once: as work if
    anything is worked on, else as a queue, a delay or a wait, and as `other` if nothing of that was going on.
    """
    found = await client.timing(workflow_id)
    session.output.show(_document(found), _shown(found))


def _document(found: WorkflowTiming) -> dict[str, Any]:
    return {
        "began": _iso(found.began), "until": _iso(found.until), "shares_s": _seconds(found.shares),
        "left_out": found.left_out, "attempts": [_attempt_document(one) for one in found.attempts],
    }


def _attempt_document(one: AttemptTiming) -> dict[str, Any]:
    return {
        "reference": one.reference, "name": one.name, "type": one.type, "task_id": one.task_id, "attempt": one.attempt,
        "status": one.status.value, "worker_id": one.worker_id, "undoes": one.undoes,
        "scheduled": _iso(one.scheduled), "leased": _iso(one.leased), "ended": _iso(one.ended),
        "spent_s": _seconds(one.spent),
    }


def _shown(found: WorkflowTiming) -> Group:
    whole = found.until - found.began
    shares = [(str(kind), f"{_length(spent)}  {_percent(spent, whole)}") for kind, spent in found.shares.items()]
    rows = [_row(found.began, one) for one in found.attempts]
    more = [Text(f"and {found.left_out} more that took less")] if found.left_out else []
    return Group(
        facts((("began", moment(found.began)), ("in all", _length(whole)), *shares)), Text(),
        table(_HEADINGS, rows, right=(2, 4, 5, 6, 7, 8, 9)), *more)


def _row(began: datetime, one: AttemptTiming) -> tuple[str, ...]:
    return (
        one.reference, f"undoes {one.undoes}" if one.undoes else one.type, str(one.attempt), one.status.value,
        f"+{_length(one.scheduled - began)}", _sum(one, TimeKind.DELAY), _sum(one, TimeKind.QUEUE),
        _sum(one, TimeKind.WORKER, TimeKind.NODE), _sum(one, *_WAITS),
        f"+{_length(one.ended - began)}" if one.ended else "", one.worker_id,
    )


def _sum(one: AttemptTiming, *kinds: TimeKind) -> str:
    spent = sum((one.spent.get(kind, timedelta()) for kind in kinds), timedelta())
    return _length(spent) if spent else ""


def _length(value: timedelta) -> str:
    """As short as it can be said: 40 ms, 3.25 s, 2 min 5 s, 3 h 20 min, 4 d 2 h."""
    milliseconds = round(value / timedelta(milliseconds=1))
    if milliseconds < 1_000:
        return f"{milliseconds} ms"
    if milliseconds < 60_000:
        return f"{milliseconds / 1000:g} s"
    seconds = milliseconds // 1000
    for large, small, names in ((86_400, 3_600, "d h"), (3_600, 60, "h min"), (60, 1, "min s")):
        if seconds >= large:
            first, second = names.split()
            return f"{seconds // large} {first} {seconds % large // small} {second}"
    raise AssertionError(seconds)


def _percent(part: timedelta, whole: timedelta) -> str:
    return f"{part / whole:.1%}" if whole else ""


def _seconds(shares: dict[TimeKind, timedelta]) -> dict[str, float]:
    return {str(kind): spent.total_seconds() for kind, spent in shares.items()}


def _iso(value: datetime | None) -> str | None:
    return None if value is None else value.isoformat(timespec="milliseconds")


WORKFLOW_COMMANDS = (timing,)
TASK_COMMANDS = ()
