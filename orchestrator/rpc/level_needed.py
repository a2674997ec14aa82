"""What keeps the rules that this release knows, and not yet those of the cluster's behaviour level, is refused with the
way out: by the rules of the level alone it would be called unknown, or not supported."""

from __future__ import annotations

from collections.abc import Callable

import grpc

from orchestrator.engine.behaviour import HIGHEST
from orchestrator.engine.definitions.errors import DefinitionError
from orchestrator.rpc.backend import Backend
from orchestrator.rpc.errors import RpcFailure


def check_level(backend: Backend, read: Callable[[int], object], field: str) -> None:
    """`read` reads the document by the rules of a level; those of the highest it keeps. Raises RpcFailure."""
    level = backend.state().meta.behaviour_level
    if level >= HIGHEST:
        return
    try:
        read(level)
    except DefinitionError as error:
        where = f"{field}: {error.path}" if error.path else field
        message = (
            f"{where}: this takes behaviour level {HIGHEST}, and the cluster is at {level}: "
            "`orchestrator cluster raise-behaviour`, once no node will go back to a release without it"
        )
        metadata = {"field": field, "path": error.path}
        raise RpcFailure(grpc.StatusCode.FAILED_PRECONDITION, "BEHAVIOUR_LEVEL_TOO_LOW", message, metadata) from error
