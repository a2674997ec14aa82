"""What is printed on stdout: JSON for scripts; for people tables, in colour on a terminal.

Texts that users stored are shown with their control characters made visible, so that none can take over a terminal.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

# Without a terminal nothing is cut off, so that grep and a test see everything.
_WIDTH_WITHOUT_TERMINAL = 1_000

_STYLES = {
    "RUNNING": "cyan", "PAUSED": "yellow", "COMPENSATING": "magenta", "COMPLETED": "green", "COMPLETE": "green",
    "FAILED": "red", "FAILED_WITH_TERMINAL_ERROR": "red", "TIMED_OUT": "red", "TERMINATED": "yellow",
    "STUCK": "bold red", "INCOMPLETE": "red", "IN_PROGRESS": "cyan", "SCHEDULED": "blue", "CANCELED": "yellow",
    "LEADER": "bold green", "FOLLOWER": "green", "CANDIDATE": "yellow", "UNREACHABLE": "bold red",
    "AWAITING_ADMISSION": "yellow", "LEARNER": "cyan",
    "ACTIVE": "green", "STARTED": "green", "PENDING": "cyan", "BUFFERED": "blue", "SKIPPED": "yellow",
}


class Output:
    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._console = Console(file=sys.stdout, highlight=False,
                                width=None if sys.stdout.isatty() else _WIDTH_WITHOUT_TERMINAL)

    def data(self, value: object, *, on_one_line: bool = False) -> None:
        """JSON, whatever the format asked for."""
        text = json.dumps(plain(value), ensure_ascii=False, indent=None if on_one_line else 2)
        self._console.file.write(text + "\n")
        self._console.file.flush()

    def show(self, value: object, for_people: Any) -> None:
        """The value as JSON, or else what a person is to see of it: a text or anything that rich can print."""
        if self.as_json:
            self.data(value)
        else:
            self._console.print(visible(for_people) if isinstance(for_people, str) else for_people, soft_wrap=True)

    def said(self, message: str, value: object) -> None:
        """The outcome of something that was done."""
        self.show(value, Text.assemble(("✓ ", "green"), visible(message)))


def plain(value: object) -> Any:
    """The value in JSON's own types."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return value


def visible(value: object) -> Text:
    text = value if isinstance(value, str) else "" if value is None else str(value)
    return Text("".join(character if character.isprintable() else repr(character)[1:-1] for character in text))


def status(value: object) -> Text:
    text = visible(value)
    text.stylize(_STYLES.get(text.plain, ""))
    return text


def moment(value: datetime | None, *, milliseconds: bool = False) -> Text:
    shown = value.astimezone() if value else None
    if shown is None:
        return Text("")
    return Text(f"{shown:%Y-%m-%d %H:%M:%S}" + (f".{shown.microsecond // 1000:03}" if milliseconds else ""))


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]], right: Iterable[int] = ()) -> Table:
    """`right` are the columns of numbers."""
    numbers = set(right)
    built = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for position, heading in enumerate(headings):
        built.add_column(heading, justify="right" if position in numbers else "left", overflow="fold")
    for row in rows:
        built.add_row(*(cell if isinstance(cell, Text) else visible(cell) for cell in row))
    return built


def facts(pairs: Iterable[tuple[str, Any]]) -> Table:
    """One fact per line; those without a value are left out."""
    built = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    built.add_column(style="bold")
    built.add_column(overflow="fold")
    for name, value in pairs:
        cell = value if isinstance(value, Text) else visible(value)
        if cell.plain:
            built.add_row(name, cell)
    return built


def compact(value: object) -> Text:
    """A JSON document on one line; nothing for an empty one."""
    return Text(json.dumps(plain(value), ensure_ascii=True)) if value not in ({}, None) else Text("")


def stacked(*parts: Any) -> Group:
    return Group(*(part for part in parts if part is not None))
