"""Handlers that only listen: what they were told stays as it was raised, for nobody evaluates their conditions."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from orchestrator.engine.model import Table
from orchestrator.engine.triggers.rows import EventRow
from tests.engine.driver import Driver
from tests.engine.triggers.making import action, put_handler

_NEVER = action("terminate_workflow", workflowId="nobody")


def listen(driver: Driver, *events: str) -> None:
    for event in events:
        put_handler(driver, _NEVER, name=f"listens to {event}", event=event, condition="true")


def heard(driver: Driver) -> list[tuple[str, dict[str, Any]]]:
    """(event, payload) of each that was raised, in their order."""
    rows = cast(dict[tuple[int], EventRow], driver.state.resident[Table.EVENT])
    return [(row.event, msgspec.json.decode(row.payload)) for _, row in sorted(rows.items())]
