"""The history of a run: every operation with its invocation and its completion, in files of JSON lines.

A line is written before an operation begins, and one when it is over: of a client that was killed there are operations
without the second, whose outcome nobody knows. All times are of one monotonic clock, that of this machine.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

# answered: the cluster said what became of it, be it that the state forbids it. none: it had no effect, for certain.
Outcome = Literal["answered", "none", "unknown"]


@dataclass
class Operation:
    """What a caller did to one object, its subject, and was told."""

    name: str
    caller: str
    kind: str
    subject: str
    argument: Any
    invoked: float
    completed: float | None = None
    outcome: Outcome = "unknown"
    answer: Any = None

    @property
    def is_known(self) -> bool:
        return self.outcome == "answered"

    def __str__(self) -> str:
        argument = "" if self.argument is None else f" {json.dumps(self.argument)}"
        until = f"{self.completed:.3f}" if self.completed is not None else "never"
        said = json.dumps(self.answer) if self.is_known else {"none": "no effect", "unknown": "unknown"}[self.outcome]
        return f"{self.invoked:.3f} to {until}  {self.caller}  {self.kind}{argument} -> {said}"


class Recorder:
    """Writes the file of one process; each line is with the system before anything else is done."""

    def __init__(self, file: Path, process: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = file.open("a", buffering=1, encoding="utf-8")
        self._process = process
        self._clock = clock
        # How many operations were begun and completed, by which a reader knows that it has all of them.
        self.begun = 0
        self.completed = 0

    def begin(self, caller: int, kind: str, subject: str, argument: Any = None) -> str:
        """Answers the name by which `complete` knows the operation."""
        self.begun += 1
        name = f"{self._process}-{self.begun}"
        self._write({"line": "begun", "name": name, "caller": f"{self._process}.{caller}", "kind": kind,
                     "subject": subject, "argument": argument, "at": self._clock()})
        return name

    def complete(self, name: str, outcome: Outcome, answer: Any = None) -> None:
        self.completed += 1
        self._write({"line": "over", "name": name, "outcome": outcome, "answer": answer, "at": self._clock()})

    def fault(self, what: str) -> None:
        """Something that no caller should ever meet."""
        self._write({"line": "fault", "what": what, "at": self._clock()})

    def _write(self, document: dict[str, Any]) -> None:
        self._file.write(json.dumps(document, separators=(",", ":")) + "\n")

    def close(self) -> None:
        self._file.close()


class Lines:
    """The lines of growing files, each once; of a process that was killed the last may be half of one."""

    def __init__(self) -> None:
        self._read: dict[Path, int] = {}

    def new(self, file: Path) -> Iterator[dict[str, Any]]:
        offset = self._read.get(file, 0)
        with file.open("rb") as opened:
            opened.seek(offset)
            data = opened.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._read[file] = offset + len(whole)
        for line in whole.splitlines():
            yield json.loads(line)


@dataclass
class History:
    """What the files of clients say, as far as they have been written and `forget` has left it."""

    by_object: dict[str, list[Operation]] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    # Of each process.
    begun: dict[str, int] = field(default_factory=dict)
    completed: dict[str, int] = field(default_factory=dict)
    _open: dict[str, Operation] = field(default_factory=dict)

    def take(self, line: dict[str, Any]) -> Operation | None:
        """Answers the operation that has come to its end."""
        if line["line"] == "fault":
            self.faults.append(line["what"])
            return None
        process = line["name"].rpartition("-")[0]
        if line["line"] == "begun":
            self.begun[process] = self.begun.get(process, 0) + 1
            made = Operation(line["name"], line["caller"], line["kind"], line["subject"], line["argument"], line["at"])
            self._open[made.name] = made
            self.by_object.setdefault(made.subject, []).append(made)
            return None
        self.completed[process] = self.completed.get(process, 0) + 1
        found = self._open.pop(line["name"], None)
        if found is None:
            self.faults.append(f"the operation {line['name']} ended, and had not begun")
            return None
        found.completed, found.outcome, found.answer = line["at"], line["outcome"], line["answer"]
        return found

    def add(self, operation: Operation) -> None:
        """One that the judge itself has done, and that is over."""
        self.by_object.setdefault(operation.subject, []).append(operation)

    def forget(self, objects: list[str]) -> None:
        for name in objects:
            for operation in self.by_object.pop(name, []):
                self._open.pop(operation.name, None)

    def open_operations(self, process: str) -> list[Operation]:
        return [each for each in self._open.values() if each.name.rpartition("-")[0] == process]
