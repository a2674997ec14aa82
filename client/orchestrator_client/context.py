"""What a task can know about its attempt, and tell the cluster while it runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Literal

_logger = logging.getLogger("orchestrator_client.task")


class TaskLog(logging.LoggerAdapter[logging.Logger]):
    """Says with each line which attempt wrote it. What it is called with is kept by the cluster, too."""

    def __init__(self, logger: logging.Logger, about: dict[str, Any], keep: Callable[[str], None]) -> None:
        super().__init__(logger, about)
        self._keep = keep

    def __call__(self, message: object, *args: object) -> None:
        """Logs the message here, at the level INFO, and with the task in the cluster: people find it there."""
        self.info(message, *args)
        text = str(message)
        self._keep(text % args if args else text)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        extra = dict(self.extra or {})
        kwargs["extra"] = {**extra, **kwargs.get("extra", {})}
        return f"[{extra['workflow_id']} {extra['reference']} #{extra['attempt']}] {msg}", kwargs


@dataclass
class TaskContext:
    """One attempt of a task. A bare ``TaskContext()`` serves in a unit test of the function."""

    # The same for every attempt of this step in this run, the id of the first: what a service deduplicates by.
    idempotency_key: str = ""
    # Grows with each lease: a service may refuse a lower one.
    fencing_token: int = 0
    namespace: str = "default"
    workflow_id: str = ""
    workflow_name: str = ""
    correlation_id: str = ""
    task_id: str = ""
    task_name: str = ""
    # The reference name of the step in its workflow.
    reference: str = ""
    # 1 for the first attempt.
    attempt: int = 1
    # The iteration of the loop that the step is in; 0 outside loops.
    iteration: int = 0
    # The details of the newest heartbeat of the attempt before, or of the NotDone that this one has raised before; None
    # if there were none.
    previous_details: Any = None
    # What the task's `runtime_metadata` names and the cluster has a value of; what it has not is not in here.
    runtime_metadata: Mapping[str, str] = field(default_factory=dict, repr=False)
    # Set when the attempt has ended without this worker (a plain function looks here; an async one is cancelled).
    cancelled: threading.Event = field(default_factory=threading.Event)
    _beat: Callable[[Any], None] = field(default=lambda details: None, repr=False)
    _keep: Callable[[str], None] = field(default=lambda text: None, repr=False)

    def heartbeat(self, details: Any = None) -> None:
        """A sign of life; the next attempt can read the details, a dict or a dataclass of at most 64 KiB of JSON.

        Never waits, and may be called from any thread.
        """
        self._beat(details)

    @property
    def log(self) -> TaskLog:
        """``ctx.log("text")`` keeps the line with the task in the cluster; ``ctx.log.info()`` and so on log here only.

        Never waits, and may be called from any thread. An execution keeps its newest 1,000 lines.
        """
        about = {"workflow_id": self.workflow_id, "reference": self.reference, "attempt": self.attempt}
        return TaskLog(_logger, about, self._keep)


@dataclass(frozen=True)
class CompensatedStepContext:
    """The step that is being undone."""

    # The key that the step's own attempts carried: what a service knows the effect by.
    idempotency_key: str = ""
    reference: str = ""
    iteration: int = 0
    name: str = ""


@dataclass
class CompensationContext(TaskContext):
    """One attempt to undo a step. Its own `idempotency_key` differs from `step.idempotency_key`."""

    step: CompensatedStepContext = CompensatedStepContext()
    # UNKNOWN: nobody knows whether the step took effect; it may never have happened.
    outcome: Literal["COMPLETED", "UNKNOWN"] = "COMPLETED"
