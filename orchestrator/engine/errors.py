"""Refusals: raised anywhere in a step, turned into a returned `Rejected` by the machine; nothing has changed then."""

from __future__ import annotations

from typing import NoReturn

from orchestrator.engine.definitions.errors import DefinitionError, DefinitionUnimplemented
from orchestrator.engine.results import Code, Rejected


class Refused(Exception):
    """Carries the rejection out of a step."""

    def __init__(self, rejected: Rejected) -> None:
        super().__init__(rejected.message)
        self.rejected = rejected


class LimitExceeded(Exception):
    """A limit of one execution was crossed; the message names it. It fails a task, never a request."""


def refuse(code: Code, reason: str, message: str, **metadata: str) -> NoReturn:
    raise Refused(Rejected(code, reason, message, tuple(sorted(metadata.items()))))


def not_found(workflow_id: str) -> NoReturn:
    refuse(Code.NOT_FOUND, "WORKFLOW_NOT_FOUND", f"no workflow has the id {workflow_id!r}")


def has_ended(status: str) -> NoReturn:
    refuse(Code.FAILED_PRECONDITION, "WORKFLOW_ENDED", f"the workflow has ended: {status}")


def being_cleared(workflow_id: str) -> NoReturn:
    message = f"the workflow {workflow_id!r} is about to run again: what its run before has left is still being removed"
    refuse(Code.RESOURCE_EXHAUSTED, "WORKFLOW_CLEARING", message)


def refuse_definition(error: DefinitionError) -> NoReturn:
    if isinstance(error, DefinitionUnimplemented):
        refuse(Code.UNIMPLEMENTED, "NOT_SUPPORTED", str(error), path=error.path)
    refuse(Code.INVALID_ARGUMENT, "DEFINITION_INVALID", str(error), path=error.path)
