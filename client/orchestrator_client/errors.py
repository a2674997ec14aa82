"""What can go wrong, and whose fault it is.

OrchestratorError
├── RequestError            the request: sending it again changes nothing
│   ├── InvalidRequest      .field and .limit say what is wrong
│   ├── NotFound
│   ├── AlreadyExists       the id or the definition is taken
│   ├── WrongState          .reason says which rule forbids it now, e.g. PIVOT_PASSED
│   ├── Unauthenticated     no token or certificate was shown, or none that is good
│   ├── PermissionDenied    .role, .method, .namespace and .name say what it would take
│   ├── RequestExpired      the request was too old to be executed
│   └── Unimplemented
├── ClusterError            the cluster: the same call may succeed later
│   ├── NoLeader            no leader answered in time; the request had no effect
│   ├── Overloaded          refused for lack of room; the request had no effect
│   ├── OutcomeUnknown      nobody can tell whether the request had its effect
│   ├── DeadlineExceeded    what was waited for did not happen in time (also a TimeoutError)
│   └── InternalError       a bug in the server
├── InsecureConnection      a token would have been sent where others can read it; nothing was sent
├── WorkflowFailed          the workflow: it ended, but not well
│   ├── WorkflowTimedOut
│   └── WorkflowTerminated
├── TerminalError           raised by a task: do not try again
├── NotDone                 raised by a task: it goes on later
├── TLSUnusable             files that TLS can't be spoken with (also a ValueError)
└── CodecError              a value that does not fit its type (also a ValueError); .path says where
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator_client.execution import CompensationReport, Execution, WorkflowStatus


class OrchestratorError(Exception):
    """Base of everything that this package raises on purpose."""


class ReplyError(OrchestratorError):
    """An error with the stable reason and the metadata that the server gave."""

    def __init__(self, message: str, *, reason: str = "", metadata: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.metadata: dict[str, str] = dict(metadata or {})

    def __str__(self) -> str:
        return f"{self.message} [{self.reason}]" if self.reason else self.message


class RequestError(ReplyError):
    """The request is at fault: sending it again changes nothing."""


class InvalidRequest(RequestError):
    """The request breaks a rule; `field` names the part and `limit` the bound, where there is one."""

    @property
    def field(self) -> str:
        return self.metadata.get("field", "")

    @property
    def limit(self) -> str:
        return self.metadata.get("limit", "")


class NotFound(RequestError):
    """There is no such execution, definition or task."""


class AlreadyExists(RequestError):
    """The workflow id is taken, or the definition exists with other content."""


class WrongState(RequestError):
    """The state of the execution forbids it; `reason` names the rule."""


class Unauthenticated(RequestError):
    """Nothing was shown that says who calls, or nothing that is good; `reason` says which, e.g. TOKEN_EXPIRED."""


class PermissionDenied(RequestError):
    """Who calls may not do that. What it would take is in the attributes; those that do not matter are empty."""

    @property
    def role(self) -> str:
        return self.metadata.get("role", "")

    @property
    def method(self) -> str:
        return self.metadata.get("method", "")

    @property
    def namespace(self) -> str:
        return self.metadata.get("namespace", "")

    @property
    def name(self) -> str:
        return self.metadata.get("name", "")


class InsecureConnection(OrchestratorError):
    """A token is not sent over a connection without TLS, unless that stays within this machine."""


class RequestExpired(RequestError):
    """The request reached the cluster outside the time in which it may be executed; this sending was not executed.

    If the same request was sent before, that one may have been.
    """


class Unimplemented(RequestError):
    """This server cannot do that."""


class ClusterError(ReplyError):
    """The cluster is at fault: the same call may succeed later."""


class NoLeader(ClusterError):
    """No leader answered before the deadline; the request had no effect."""


class Overloaded(ClusterError):
    """The cluster refused the request for lack of room until the deadline; it had no effect."""


class OutcomeUnknown(ClusterError):
    """The request was sent and no answer came: nobody can tell whether it had its effect.

    Look, before trying again. A start with an id of your own is safe to repeat with ``if_exists="return"``.
    """


class DeadlineExceeded(ClusterError, TimeoutError):
    """What was waited for did not happen in time."""


class InternalError(ClusterError):
    """The server met a bug of its own."""


class WorkflowFailed(OrchestratorError):
    """The workflow ended, but not well; what was undone is in `compensation`."""

    def __init__(self, execution: Execution) -> None:
        self.execution = execution
        self.workflow_id: str = execution.workflow_id
        self.status: WorkflowStatus = execution.status
        self.reason: str = execution.reason
        self.failed_task: str = execution.failed_task
        self.error_code: str = execution.error_code
        self.compensation: CompensationReport = execution.compensation
        super().__init__(self._sentence())

    def _sentence(self) -> str:
        sentence = f"workflow {self.workflow_id} ended {self.status}"
        if self.failed_task:
            sentence += f" at {self.failed_task}"
        if self.reason:
            sentence += f": {self.reason}"
        if self.compensation.state != "NONE":
            sentence += f" (compensation {self.compensation.state}"
            left = ", ".join(step.reference for step in self.compensation.left)
            sentence += f", left: {left})" if left else ")"
        return sentence


class WorkflowTimedOut(WorkflowFailed):
    """The workflow or one of its tasks ran out of time."""


class WorkflowTerminated(WorkflowFailed):
    """The workflow was ended on request."""


class TerminalError(OrchestratorError):
    """Raised by a task to fail for good, without retries; `code` is a stable name for the kind of failure.

    `outcome_unknown`: the step may have taken effect all the same (a payment that timed out, say), so a saga undoes it.
    """

    def __init__(self, code: str, message: str = "", *, outcome_unknown: bool = False) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message
        self.outcome_unknown = outcome_unknown

    def __str__(self) -> str:
        return f"{self.code}: {self.message}" if self.message else self.code


class NotDone(OrchestratorError):
    """Raised by a task that is not done, to let go of it: the same attempt is handed out again after a while.

    `details`, a dict or a dataclass, is what `ctx.previous_details` says then; without, what it said before. Nobody
    holds the task meanwhile, and no retry is used up; its timeouts go on, but for the response timeout.
    """

    def __init__(self, after_s: float, details: object = None) -> None:
        if not 0 <= after_s < float("inf"):
            raise ValueError(f"after_s is a number of seconds from 0 on, not {after_s}")
        super().__init__(after_s, details)
        self.after_s = after_s
        self.details = details

    def __str__(self) -> str:
        return f"not done: goes on after {self.after_s:g} s"


class TLSUnusable(OrchestratorError, ValueError):
    """A file for TLS is missing, no PEM, or does not fit to the others; the message names it."""


class CodecError(OrchestratorError, ValueError):
    """A value does not fit its type; `path` says where in the document."""

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)
        self.path = path
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.path or 'the value'}: {self.problem}"
