"""The logs of nodes are not those of a test: a leader that is killed is no news there."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

LOGGERS = ("orchestrator", "orchestrator_client.worker")


@contextlib.contextmanager
def quiet_logs() -> Iterator[None]:
    """Silences nodes and workers; what task functions log is heard."""
    levels = [(logging.getLogger(name), logging.getLogger(name).level) for name in LOGGERS]
    for logger, _ in levels:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in levels:
            logger.setLevel(level)
