"""What attempts are given besides what their rows say: values of secrets and of runtimeMetadata.

They are looked up each time an attempt is handed out, by the node that does so. What was given is remembered in memory,
for as long as the worker has the attempt, so that it does not come back in what the worker reports.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

from msgspec.structs import replace

from orchestrator.engine import limits, queries
from orchestrator.engine.attempts import LIMIT_EXCEEDED
from orchestrator.engine.commands import CompleteTask
from orchestrator.engine.execution_state import ExecutionState
from orchestrator.engine.expressions.secret_names import SecretUnfit, fill_in
from orchestrator.engine.model import Table, TaskStatus
from orchestrator.engine.resident import Lease
from orchestrator.engine.state import State
from orchestrator.rpc.runtime_metadata import RuntimeMetadata, Source
from orchestrator.sealing.errors import SealBroken, SealingError
from orchestrator.sealing.masks import Masks
from orchestrator.sealing.secret_values import SecretValues

logger = logging.getLogger(__name__)

Lines = tuple[tuple[int, str], ...]
"""(time in milliseconds, text)"""


class Want(StrEnum):
    """What is wrong with a value, as the error code of an attempt that fails for it."""

    MISSING = "SECRET_MISSING"
    INVALID = "SECRET_INVALID"
    UNREADABLE = "SECRET_UNREADABLE"
    ENVIRONMENT_MISSING = "ENVIRONMENT_MISSING"


# What this node can't read now is tried again after this.
AGAIN_SECONDS = 1.0
POLLED_AGAIN_MS = 5_000
# Of so many attempts is remembered what they were given; then those that nobody has any more are forgotten.
_REMEMBERED_MIN = 1_000


class NotGiven(Exception):
    """An attempt is not handed out for want of a value. `is_final`: it fails; otherwise it waits for this node."""

    def __init__(self, error_code: str, reason: str, *, status: TaskStatus | None = None) -> None:
        super().__init__(reason)
        self.error_code = error_code
        self.reason = reason
        self._status = status

    @property
    def is_final(self) -> bool:
        return self._status is not None

    def failure(self, lease: Lease) -> CompleteTask:
        """That the attempt has failed, which had no effect."""
        return CompleteTask(
            namespace=lease.namespace,
            workflow_id=lease.workflow_id,
            task_id=lease.task_id,
            fencing_token=lease.token,
            status=self._status or TaskStatus.FAILED,
            output=b"{}",
            reason=self.reason,
            error_code=self.error_code,
        )


    def later(self, lease: Lease) -> CompleteTask:
        """That the attempt is handed out again after a while: who has polled for it gets nothing."""
        failure = self.failure(lease)
        return replace(failure, status=TaskStatus.IN_PROGRESS, output=b"", callback_ms=POLLED_AGAIN_MS)


class SecretSource:
    """The secrets of the replicated state, opened with this node's keys."""

    def __init__(self, state: Callable[[], State], values: SecretValues) -> None:
        self._state = state
        self._values = values

    def resolve(self, namespace: str, name: str) -> str | None:
        """None if there is no such secret. Raises NotGiven if it can't be read."""
        row = queries.secret(self._state(), namespace, name)
        if row is None:
            return None
        try:
            return self._values.open(row).decode("utf-8")
        except SealBroken as error:
            reason = f"the secret {name!r} can't be read: {error}"
            raise NotGiven(Want.UNREADABLE, reason, status=TaskStatus.FAILED) from None
        except SealingError as error:
            raise NotGiven(Want.UNREADABLE, f"this node can't read the secret {name!r}: {error}") from None

    def text(self, namespace: str, name: str) -> str:
        """Raises NotGiven if there is no such secret, too."""
        value = self.resolve(namespace, name)
        if value is None:
            reason = f"there is no secret {name!r} in the namespace {namespace!r}"
            raise NotGiven(Want.MISSING, reason, status=TaskStatus.FAILED)
        return value


class Given(NamedTuple):
    """`secrets`: the values among all this that must not come back."""

    input: bytes
    metadata: dict[str, str]
    secrets: tuple[str, ...]


class HandOut:
    """Of one node. `others`: where values of runtimeMetadata are that are no secrets."""

    def __init__(self, state: Callable[[], State], values: SecretValues, *others: Source) -> None:
        self._state = state
        self._source = SecretSource(state, values)
        self._metadata = RuntimeMetadata(self._source, *others)
        self._variables = RuntimeMetadata(*others)
        self._masks: dict[int, Masks] = {}
        self._remembered_max = _REMEMBERED_MIN

    def given(self, view: queries.AssignmentView) -> Given | None:
        """None if the attempt asks for nothing. Raises NotGiven."""
        if not view.secrets and not view.runtime_metadata:
            return None
        text, used = self._filled(view) if view.secrets else (view.input, ())
        metadata = self._metadata.values(view.namespace, view.runtime_metadata)
        state = self._state()
        kept = tuple(value for name, value in metadata.items() if queries.secret(state, view.namespace, name))
        self._remember(view.fencing_token, (*used, *kept))
        return Given(text, metadata, (*used, *kept))

    def _filled(self, view: queries.AssignmentView) -> tuple[bytes, tuple[str, ...]]:
        def secret(name: str) -> str:
            return self._source.text(view.namespace, name)

        def variable(name: str) -> str:
            values = self._variables.values(view.namespace, (name,))
            if name not in values:
                reason = f"the node that leads has no variable for {name!r} (task_environment_prefix)"
                raise NotGiven(Want.ENVIRONMENT_MISSING, reason, status=TaskStatus.FAILED)
            return values[name]

        most = len(view.input) + limits.PAYLOAD_BYTES
        terminal = TaskStatus.FAILED_WITH_TERMINAL_ERROR
        try:
            text, used = fill_in(view.input, view.secrets, secret, variable)
        except SecretUnfit as error:
            raise NotGiven(Want.INVALID, str(error), status=terminal) from None
        if len(text) > most:
            reason = f"the input exceeds the limit of {most} bytes with its secrets in it"
            raise NotGiven(LIMIT_EXCEEDED, reason, status=terminal)
        return text, used

    # --- what must not come back

    def fit_result(self, command: CompleteTask) -> CompleteTask:
        """What a worker reports, without what it was given. Of what counts no more, nothing but that it came."""
        token = command.fencing_token
        masks = self._masks.get(token) if self._masks else None
        if masks is None:
            return command if self._is_harmless(token) else replace(command, output=b"", reason="", logs=())
        return replace(
            command,
            output=masks.json(command.output),
            reason=masks.text(command.reason, is_cut=True),
            error_code=masks.text(command.error_code),
            logs=_masked_lines(command.logs, masks),
        )

    def fit_details(self, token: int, details: bytes) -> bytes:
        """As `fit_result`, of a heartbeat's details: a JSON text."""
        masks = self._masks.get(token) if self._masks else None
        if masks is None:
            return details if self._is_harmless(token) else b"null"
        return masks.json(details)

    def fit_lines(self, token: int, lines: Lines) -> Lines:
        """As `fit_result`, of lines that are logged. Those that are an operator's (without a token) are left alone."""
        masks = self._masks.get(token) if self._masks else None
        if masks is None:
            return lines if not token or self._is_harmless(token) else ()
        return _masked_lines(lines, masks)

    def is_remembered(self, token: int) -> bool:
        return token in self._masks

    def _is_harmless(self, token: int) -> bool:
        """Whether the worker has the attempt still, and was given no secret; what it was given before is forgotten."""
        if not self.has_secrets:
            return True
        lease = self._state().leases.get((token,))
        return lease is not None and not lease.fenced

    def forget(self, token: int) -> None:
        """The worker has answered."""
        if self._masks:
            self._masks.pop(token, None)

    def recall(self, held: ExecutionState, token: int) -> None:
        """Of an attempt that another node has handed out: the values as they are now."""
        if token in self._masks or not self.has_secrets:
            return
        view = queries.assignment_view(self._state(), held, token)
        if view is not None:
            try:
                self.given(view)
            except NotGiven:
                # Then nobody can say what it was given.
                return

    @property
    def has_secrets(self) -> bool:
        return bool(self._state().resident[Table.SECRET])

    def _remember(self, token: int, values: tuple[str, ...]) -> None:
        masks = Masks(values)
        if not masks:
            return
        if len(self._masks) >= self._remembered_max:
            leases = self._state().leases
            self._masks = {token: kept for token, kept in self._masks.items() if (token,) in leases}
            self._remembered_max = max(_REMEMBERED_MIN, 2 * len(self._masks))
        self._masks[token] = masks


def _masked_lines(lines: Lines, masks: Masks) -> Lines:
    return tuple(
        (time_ms, masks.text(line, is_cut=len(line) >= limits.LOG_LINE_CHARS)) for time_ms, line in lines
    )


class Withheld:
    """Attempts of one stream that wait until this node can read their secrets; `again` is called with their leases."""

    def __init__(self, again: Callable[[Lease], None]) -> None:
        self._again = again
        self._waiting: dict[int, tuple[Lease, NotGiven, asyncio.TimerHandle | None]] = {}
        self._told: tuple[str, str] = ("", "")

    def add(self, lease: Lease, why: NotGiven) -> None:
        if (lease.namespace, why.reason) != self._told:
            # Once, and not for each attempt each second.
            self._told = (lease.namespace, why.reason)
            where = {"workflow_id": lease.workflow_id, "task_id": lease.task_id, "namespace": lease.namespace}
            logger.warning("tasks are not handed out: %s", why.reason, extra=where)
        timer = asyncio.get_running_loop().call_later(AGAIN_SECONDS, self._try_again, lease.token)
        self._waiting[lease.token] = (lease, why, timer)

    def keep(self, lease: Lease, why: NotGiven) -> None:
        """Until it is taken."""
        self._waiting[lease.token] = (lease, why, None)

    def keeps(self, token: int) -> bool:
        """Whether `take` would say so."""
        return token in self._waiting

    def take(self, token: int) -> bool:
        """Whether the attempt, which was kept, is wanted still."""
        return self._waiting.pop(token, None) is not None

    def failure(self, token: int) -> CompleteTask | None:
        """What there is to be said of an attempt that is not wanted any more; None if it does not wait."""
        waiting = self._waiting.pop(token, None)
        if waiting is None:
            return None
        lease, why, timer = waiting
        if timer is not None:
            timer.cancel()
        return why.failure(lease)

    def close(self) -> None:
        for _, _, timer in self._waiting.values():
            if timer is not None:
                timer.cancel()
        self._waiting.clear()

    def _try_again(self, token: int) -> None:
        waiting = self._waiting.pop(token, None)
        if waiting is not None:
            self._again(waiting[0])
