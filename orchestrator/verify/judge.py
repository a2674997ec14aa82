"""Judges a history against what the cluster holds when nobody is at work. No I/O: all that it knows is given to it."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.verify import linearizability, rules
from orchestrator.verify.attempts import Ran
from orchestrator.verify.history import History, Operation
from orchestrator.verify.models import MADE, kind_of, model_of
from orchestrator.verify.rules import Effect, Labour
from orchestrator.verify.work import expected
from orchestrator_client import Execution

EXCERPT_LINES = 40
# What goes on by itself, with workers; of these what they must come to is known.
WORK = frozenset({"steps", "flaky", "timer", "hold", "saga", "again"})


@dataclass(frozen=True)
class Violation:
    """A promise that was not kept: which, to whom, how, and what was written down of it."""

    promise: str
    subject: str
    what: str
    excerpt: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.promise}: {self.subject}{': ' if self.subject else ''}{self.what}"


@dataclass(frozen=True)
class Seen:
    """What the cluster holds of one subject at the end: one execution or none; of a key all that have it."""

    executions: tuple[Execution, ...]

    @property
    def execution(self) -> Execution | None:
        return self.executions[0] if self.executions else None


@dataclass
class Judge:
    """`sessions_may_end`: faults may keep workers from the cluster for longer than their sessions last."""

    sessions_may_end: bool = False
    configurations_max: int = linearizability.CONFIGURATIONS_MAX
    history: History = field(default_factory=History)
    lost_workers: set[str] = field(default_factory=set)
    checked: Counter[str] = field(default_factory=Counter)
    # Objects whose histories have too many possible orders to look at all.
    undecided: list[str] = field(default_factory=list)
    sessions: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _ran: defaultdict[str, list[tuple[float, Ran]]] = field(default_factory=lambda: defaultdict(list))
    _effects: defaultdict[str, list[Effect]] = field(default_factory=lambda: defaultdict(list))

    # -- what is told ----------------------------------------------------------------------------------------------

    def take_worker_line(self, line: Mapping[str, Any], worker_id: str) -> None:
        if line["line"] == "ran":
            ran = Ran(**line["ran"])
            self._ran[ran.workflow_id].append((line["at"], ran))
        elif line["line"] == "effect":
            self._effects[line["id"]].append(Effect(line["key"], line["undone"]))
        elif line["line"] == "session":
            self.sessions[worker_id].append(line["session"])

    @property
    def objects(self) -> list[str]:
        """Those that are still to be judged."""
        return list(self.history.by_object)

    @property
    def lost_sessions(self) -> int:
        """Of workers that lived on."""
        return sum(len(each) - 1 for each in self.sessions.values())

    # -- verdicts --------------------------------------------------------------------------------------------------

    def record(self, told: Mapping[str, Mapping[str, int]]) -> list[Violation]:
        """Whether everything is there that live processes have written: without it nothing can be judged."""
        found = [Violation("caller", "", fault) for fault in self.history.faults]
        self.history.faults.clear()
        for process, counts in told.items():
            read = {"begun": self.history.begun.get(process, 0), "completed": self.history.completed.get(process, 0)}
            for what, number in read.items():
                if number != counts[what]:
                    found.append(Violation("record", process, f"says it has {what} {counts[what]} operations, and its "
                                                              f"file has {number}"))
            still = self.history.open_operations(process)
            if still:
                found.append(Violation("record", process, f"{len(still)} operations have no end, though it rests",
                                       tuple(map(str, still[:EXCERPT_LINES]))))
        return found

    def judge(self, seen: Mapping[str, Seen]) -> list[Violation]:
        """Of these objects; they are forgotten then."""
        found: list[Violation] = []
        executions = [each for one in seen.values() for each in one.executions]
        for what in rules.handed_out_twice(executions, [ran for each in executions for ran in self._labour(each).ran]):
            found.append(Violation("attempts", "", what))
        for subject, one in seen.items():
            found += self._judge_object(subject, one)
        self.history.forget(list(seen))
        for execution in executions:
            self._ran.pop(execution.workflow_id, None)
            self._effects.pop(execution.workflow_id, None)
        return found

    def _judge_object(self, subject: str, seen: Seen) -> Iterator[Violation]:
        operations = sorted(self.history.by_object.get(subject, []), key=lambda each: each.invoked)
        kind = kind_of(subject)
        self.checked["objects"] += 1
        self.checked["operations"] += len(operations)

        def violation(promise: str, what: str, excerpt: Sequence[object] = operations) -> Violation:
            lines = [*map(str, excerpt[:EXCERPT_LINES]), *(_attempts(seen.execution) if promise != "order" else [])]
            return Violation(promise, subject, what, tuple(lines[: 2 * EXCERPT_LINES]))

        for promise, what in self._presence(kind, operations, seen):
            yield violation(promise, what)
        verdict = linearizability.check(operations, None, model_of(subject), configurations_max=self.configurations_max)
        if verdict.result == "undecided":
            self.undecided.append(subject)
        elif verdict.result == "violated":
            fits = [f"fits: {each}" for each in verdict.order]
            yield violation("order", f"{len(verdict.left)} of {len(operations)} operations fit into no order in which "
                                     "each takes effect between its call and its answer",
                            [*fits[-EXCERPT_LINES // 2 :], *(f"left: {each}" for each in verdict.left)])
        for execution in seen.executions:
            for promise, what in self._rules(kind, operations, execution):
                yield violation(promise, what)

    def _presence(self, kind: str, operations: Sequence[Operation], seen: Seen) -> Iterator[tuple[str, str]]:
        starts = [each for each in operations if each.kind == "start"]
        acknowledged = any(each.is_known for each in starts)
        if acknowledged and not seen.executions:
            yield "acknowledgement", "a start was acknowledged, and it is lost"
        if starts and all(each.outcome == "none" for each in starts) and seen.executions:
            yield "refusal", "every start was refused for certain, and it is there"
        if len(seen.executions) > 1:
            yield "once", f"one key has started {len(seen.executions)} executions"
        if kind != "once" and sum(each.answer == MADE for each in starts) > 1:
            yield "once", "two starts were told that they had made it"

    def _rules(self, kind: str, operations: Sequence[Operation], execution: Execution) -> Iterator[tuple[str, str]]:
        labour = self._labour(execution)
        yield from (("attempts", what) for what in rules.wrong_attempts(execution, labour))
        kind = "steps" if kind == "once" else kind
        if kind not in WORK:
            return
        argument = next((each.argument for each in operations if each.kind == "start"), None) or {}
        terminated = any(each.kind == "terminate" and each.outcome != "none" for each in operations)
        must = expected(kind, argument, terminated=terminated)
        yield from (("end", what) for what in rules.wrong_end(execution, must))
        if kind == "saga":
            yield from (("compensation", what)
                        for what in rules.wrong_compensation(execution, argument, labour.effects))
        if kind == "timer":
            yield from (("timer", what) for what in rules.wrong_timer(execution))

    def _labour(self, execution: Execution) -> Labour:
        lost = set(self.lost_workers)
        if self.sessions_may_end:
            lost |= {worker for worker, sessions in self.sessions.items() if len(sessions) > 1}
        ran = [each for _, each in sorted(self._ran[execution.workflow_id], key=lambda pair: pair[0])]
        return Labour(ran, self._effects[execution.workflow_id], frozenset(lost))


def _attempts(execution: Execution | None) -> list[str]:
    """What the cluster says of it."""
    if execution is None:
        return ["the cluster knows of no such execution"]
    head = f"the cluster: {execution.status} {execution.reason}".rstrip()
    tasks = sorted(execution.tasks, key=lambda task: task.sequence)
    return [head, *(f"  {task.reference} #{task.attempt} {task.status} {task.reason} token {task.fencing_token} "
                    f"worker {task.worker_id or '-'}" for task in tasks)]
