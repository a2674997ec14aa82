"""When things happened, against what the definition asks for: nothing early, nothing twice, and in peace nothing late.

Everything is recomputed from the document that was registered; none of the engine's own arithmetic is used. Times are
milliseconds of log time.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from orchestrator.engine.model import CompensationState, TaskAttempt, TaskStatus, WorkflowStatus
from tests.simulation.held import Held
from tests.simulation.history import History
from tests.simulation.labour import BEATS_ITSELF

# In peace: from when it is due until it is in the log. An election may come in between.
LATE_MS = 6_000
# Deadlines that a leader keeps in memory: its clock and the log's differ by up to a twentieth, and they are asked for
# every now and then only.
CLOCK_SHARE = 0.94
SCAN_MS = 2_500
WAITS_MS = {"5 seconds": 5_000, "9s": 9_000}


class Step(NamedTuple):
    """What a definition says of a worker's task: the element, and its task definition."""

    element: dict[str, Any]
    task: dict[str, Any]

    def ms(self, key: str) -> int:
        return 1000 * int(self.task.get(key, 0))

    @property
    def start_delay_ms(self) -> int:
        return 1000 * int(self.element.get("startDelay", 0))

    @property
    def alerts_only(self) -> bool:
        return self.task.get("timeoutPolicy", "TIME_OUT_WF") == "ALERT_ONLY"

    def retry_delay_ms(self, made: int) -> int:
        """The least delay after so many retries."""
        delay_ms = self.ms("retryDelaySeconds")
        match self.task.get("retryLogic", "FIXED"):
            case "LINEAR_BACKOFF":
                delay_ms *= int(self.task.get("backoffScaleFactor", 1)) * (made + 1)
            case "EXPONENTIAL_BACKOFF":
                delay_ms *= 2**made
        longest_ms = self.ms("maxRetryDelaySeconds")
        return min(delay_ms, longest_ms) if longest_ms else delay_ms


def steps_of(tasks: list[dict[str, Any]]) -> Iterator[tuple[str, Step]]:
    """All steps of workers, by reference; compensations by that of their step and "undo"."""
    for element in tasks:
        branches = [*element.get("forkTasks", []), *element.get("decisionCases", {}).values()]
        for branch in [*branches, element.get("defaultCase", []), element.get("loopOver", [])]:
            yield from steps_of(branch)
        if element["type"] == "SIMPLE":
            reference = element["taskReferenceName"]
            yield reference, Step(element, element["taskDefinition"])
            if undo := element.get("compensateWith"):
                yield f"{reference}/undo", Step(undo, undo["taskDefinition"])


def problems(held: Held, document: dict[str, Any], recovered_ms: int, history: History) -> Iterator[str]:
    """`recovered_ms`: when the cluster took something again after the faults."""
    steps = dict(steps_of(document["tasks"]))
    by_step: dict[str, list[TaskAttempt]] = {}
    for attempt in sorted(held.tasks, key=lambda attempt: attempt.sequence):
        name = attempt.reference
        if attempt.compensates:
            record = held.records[attempt.compensates]
            name = f"{record.reference}{_suffix(record.iterations)}/undo"
        by_step.setdefault(name, []).append(attempt)
    yield from _workflow(held, document, recovered_ms)
    for name, attempts in by_step.items():
        step = steps.get(_OF_AN_ITERATION.sub("", name))
        for attempt in attempts:
            found = [*_waits(held, attempt, recovered_ms)]
            if step is not None:
                found += [*_early(step, attempt), *_late(step, attempt, recovered_ms)]
            for problem in found:
                yield f"{held.place} {attempt.reference} #{attempt.sequence}: {problem}"
        if step is not None:
            by_hand = history.was_retried_by_hand(held.place)
            for problem in _retries(step, attempts, by_hand=by_hand):
                yield f"{held.place} {name}: {problem}"


_OF_AN_ITERATION = re.compile(r"(__[0-9]+)+(?=$|/)")


def _suffix(iterations: tuple[int, ...]) -> str:
    return "".join(f"__{number}" for number in iterations)


def _workflow(held: Held, document: dict[str, Any], recovered_ms: int) -> Iterator[str]:
    """The timeout of the whole."""
    execution = held.execution
    timeout_ms = 1000 * int(document.get("timeoutSeconds", 0))
    due_ms = execution.timeout_base_ms + timeout_ms
    if execution.reason.startswith("Workflow timed out") and execution.ended_ms < due_ms:
        yield f"{held.place} timed out {due_ms - execution.ended_ms} ms too early"
    if not timeout_ms or document.get("timeoutPolicy") == "ALERT_ONLY":
        return
    is_plain = execution.compensation is CompensationState.NONE and execution.status >= WorkflowStatus.COMPLETED
    if is_plain and execution.ended_ms > max(due_ms, recovered_ms) + LATE_MS:
        yield f"{held.place} ended {execution.ended_ms - due_ms} ms after its timeout"


def _waits(held: Held, attempt: TaskAttempt, recovered_ms: int) -> Iterator[str]:
    if attempt.ended_ms and attempt.ended_ms < attempt.scheduled_ms:
        yield "it ended before it was scheduled"
    if attempt.type != "WAIT" or not attempt.started_ms:
        return
    wait_ms = WAITS_MS.get(json.loads(held.payload(attempt.input) or b"{}").get("duration", ""))
    if wait_ms is None:
        return
    waited_ms = attempt.ended_ms - attempt.started_ms
    if attempt.status is TaskStatus.COMPLETED and not attempt.signal and waited_ms < wait_ms:
        yield f"it waited {waited_ms} ms instead of {wait_ms}"
    if attempt.ended_ms > max(attempt.started_ms + wait_ms, recovered_ms) + LATE_MS:
        yield f"it waited {waited_ms} ms, {waited_ms - wait_ms} too long"


def _early(step: Step, attempt: TaskAttempt) -> Iterator[str]:
    """No attempt is handed out or timed out before its time."""
    taken_ms, ended_ms = attempt.started_ms, attempt.ended_ms
    is_first = attempt.retry_count == attempt.losses == 0 and not attempt.compensates
    if is_first and 0 < taken_ms < attempt.scheduled_ms + step.start_delay_ms:
        yield f"it was handed out {taken_ms - attempt.scheduled_ms} ms after it was scheduled"
    if attempt.status is not TaskStatus.TIMED_OUT:
        return
    since_ms, least_ms = {
        "TASK_TIMEOUT": (taken_ms, step.ms("timeoutSeconds") + step.start_delay_ms),
        "TOTAL_TIMEOUT": (attempt.first_scheduled_ms, step.ms("totalTimeoutSeconds")),
        "POLL_TIMEOUT": (attempt.scheduled_ms, int(step.ms("pollTimeoutSeconds") * CLOCK_SHARE)),
        "RESPONSE_TIMEOUT": (taken_ms, int(step.ms("responseTimeoutSeconds") * CLOCK_SHARE)),
    }.get(attempt.error_code, (0, 0))
    if ended_ms - since_ms < least_ms:
        yield f"{attempt.error_code} after {ended_ms - since_ms} ms, and the least is {least_ms}"


def _late(step: Step, attempt: TaskAttempt, recovered_ms: int) -> Iterator[str]:
    """Every attempt has ended by the time of each of its timeouts, or soon after the faults."""

    def limits() -> Iterator[tuple[str, int]]:
        if total_ms := step.ms("totalTimeoutSeconds"):
            yield "TOTAL_TIMEOUT", max(attempt.first_scheduled_ms + total_ms, recovered_ms)
        if attempt.started_ms and (task_ms := step.ms("timeoutSeconds")):
            yield "TASK_TIMEOUT", max(attempt.started_ms + task_ms + step.start_delay_ms, recovered_ms)

    if not step.alerts_only:
        for what, due_ms in limits():
            if attempt.ended_ms > due_ms + LATE_MS:
                yield f"it ended {attempt.ended_ms - due_ms} ms after its {what}"
    # Every heartbeat gives it a new deadline, and so does every leader; for most tasks their worker's are enough.
    response_ms = step.ms("responseTimeoutSeconds")
    if response_ms and attempt.started_ms and attempt.name == BEATS_ITSELF and not attempt.details:
        due_ms = max(attempt.started_ms, recovered_ms) + int(response_ms / CLOCK_SHARE)
        if attempt.ended_ms > due_ms + SCAN_MS + LATE_MS:
            yield f"it ended {attempt.ended_ms - due_ms} ms after its RESPONSE_TIMEOUT"


def _retries(step: Step, attempts: list[TaskAttempt], *, by_hand: bool) -> Iterator[str]:
    """One attempt at a time, each for a reason, and none before its delay."""
    for before, after in itertools.pairwise(attempts):
        what = f"attempt #{after.sequence} follows #{before.sequence}"
        if after.scheduled_ms < before.ended_ms or not before.ended_ms:
            yield f"{what}, which had not ended"
        was_lost = before.status is TaskStatus.TIMED_OUT and before.error_code == "WORKER_LOST"
        if after.retry_count == before.retry_count + 1:
            least_ms = step.retry_delay_ms(before.retry_count)
            if after.started_ms and after.started_ms - before.ended_ms < least_ms:
                yield f"{what} after {after.started_ms - before.ended_ms} ms, and the least is {least_ms}"
        elif not (was_lost and after.retry_count == before.retry_count) and not (by_hand and after.retry_count == 0):
            yield f"{what}, and nobody asked for it: {before}, {after}"
        if after.retry_count > int(step.task.get("retryCount", 3)):
            yield f"{what}, and there are {step.task.get('retryCount')} retries"
