"""The exit codes, which scripts rely on, and which error gives which."""

from __future__ import annotations

from typing import IO, Any

import click

from orchestrator_client import errors

DONE = 0
FAILED = 1
USAGE = 2
NOT_FOUND = 3
REJECTED = 4
UNAVAILABLE = 5

# `orchestrator serve` and `init`; 0, 1 and 2 as above.
DATA_DIRECTORY_REFUSED = 3
NODE_STOPPED_ITSELF = 4

# `orchestrator verify`; 0 only if nothing was violated, 2, 4 and 5 as above.
VIOLATED = 6
NOT_WHOLE = 7
NOT_UNDONE = 8

INTERRUPTED = 130

HELP = """\b
Exit codes:
  0  done
  1  the operation failed, or the workflow did (with --wait and `workflow wait`)
  2  wrong usage, configuration or definition
  3  not found
  4  refused: the id is taken, the state forbids it, or you may not
  5  the cluster did not answer, or has no room (what was asked may be tried again),
     or --timeout passed first
  130  interrupted

\b
Exit codes of `serve`, `init`, `restore` and `recover`:
  0  stopped on request
  1  could not start, e.g. an address is in use
  2  wrong usage or configuration
  3  the data directory was refused: not this node's, not initialised, in use, not blank, or damaged
  4  the node stopped itself because going on could do harm; its log says why

\b
Exit codes of `verify`, besides 2, 4 and 5:
  0  every fault was borne, and no promise violated
  6  a promise was violated: see the report
  7  nothing violated was found, but not all could be done or decided
  8  a fault could not be undone, or what the run made not removed: `verify --undo FILE`
"""

_CODES: tuple[tuple[type[Exception], int], ...] = (
    (errors.InvalidRequest, USAGE),
    (errors.CodecError, USAGE),
    (errors.InsecureConnection, USAGE),
    (errors.TLSUnusable, USAGE),
    (errors.NotFound, NOT_FOUND),
    (errors.RequestError, REJECTED),
    (errors.InternalError, FAILED),
    (errors.ClusterError, UNAVAILABLE),
    (errors.WorkflowFailed, FAILED),
    (errors.OrchestratorError, FAILED),
)


class Failure(click.ClickException):
    """One line on stderr and an exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(" ".join(message.split()))
        self.exit_code = exit_code  # type: ignore[misc]  # click reads it from the instance, too

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(click.style("error: ", fg="red") + self.message, err=True, file=file)


def of(error: errors.OrchestratorError) -> Failure:
    code = next(code for kind, code in _CODES if isinstance(error, kind))
    message = str(error)
    if isinstance(error, errors.OutcomeUnknown):
        message += " (nobody can tell whether it took effect: look before you repeat it)"
    return Failure(message, code)
