"""The message queue of a workflow: messages are kept in their order until a PULL_WORKFLOW_MESSAGES takes them.

They are signals of a name that nobody else can use, with a limit of their own.
"""

from __future__ import annotations

from msgspec.structs import replace

from orchestrator.engine import attempts, limits
from orchestrator.engine.errors import LimitExceeded
from orchestrator.engine.expressions import assemble_array, assemble_object, dump_string
from orchestrator.engine.model import Signal, Table, TaskAttempt, TaskStatus
from orchestrator.engine.payloads import drop, store, store_brought
from orchestrator.engine.step import Step

QUEUE = "$messages"
RESERVED = "$"
"""What names of signals can't begin with."""


def push(step: Step, payload: bytes) -> str:
    """A message has come; answers its id. Raises LimitExceeded."""
    if step.x.messages >= limits.MESSAGES:
        raise LimitExceeded(f"an execution keeps at most {limits.MESSAGES} messages")
    number = step.x.next_number
    step.change(next_number=number + 1)
    kept = Signal(number, QUEUE, store_brought(step, _message(step, number, payload)), step.now)
    size = len(step.hot.load(kept.payload))
    if step.x.signal_bytes + size > limits.SIGNAL_BYTES:
        raise LimitExceeded(f"an execution keeps at most {limits.SIGNAL_BYTES} bytes of messages and signals")
    step.write(Table.SIGNAL, (step.x.namespace, step.x.workflow_id, number), kept)
    step.change(signals=step.x.signals + 1, messages=step.x.messages + 1, signal_bytes=step.x.signal_bytes + size)
    for sequence in sorted(step.hot.open):
        attempt = step.hot.tasks[sequence]
        if attempt.signal == QUEUE and attempt.status is TaskStatus.IN_PROGRESS:
            take(step, attempt, attempt.position)
            break
    return _id(step, number)


def _id(step: Step, number: int) -> str:
    return f"{step.x.workflow_id}:{number}"


def _message(step: Step, number: int, payload: bytes) -> bytes:
    return assemble_object(
        [
            ("id", dump_string(_id(step, number))),
            ("workflowId", dump_string(step.x.workflow_id)),
            ("payload", payload),
            ("receivedAt", b"%d" % step.now),
        ]
    )


def take(step: Step, attempt: TaskAttempt, most: int) -> None:
    """The attempt is done with as many messages as there are, up to so many; none are an empty list."""
    numbers = [number for number in sorted(step.hot.signals) if step.hot.signals[number].name == QUEUE][:most]
    texts = []
    for number in numbers:
        signal = step.hot.signals[number]
        texts.append(step.hot.load(signal.payload))
        step.change(
            signals=step.x.signals - 1,
            messages=step.x.messages - 1,
            signal_bytes=step.x.signal_bytes - len(texts[-1]),
        )
        drop(step, signal.payload)
        step.write(Table.SIGNAL, (step.x.namespace, step.x.workflow_id, number), None)
    output = assemble_object([("messages", assemble_array(texts)), ("count", b"%d" % len(texts))])
    attempts.complete_operator(step, replace(attempt, signal="", position=0), store(step, output))
