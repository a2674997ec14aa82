"""Executors run on the event loop of a node, which tells errors of sockets and of TLS in its own way."""

from __future__ import annotations

from collections.abc import Callable

import uvloop


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], uvloop.Loop]]:
    return {"uvloop": uvloop.new_event_loop}
