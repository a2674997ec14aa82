"""The event loop of a program: the fastest that is installed."""

from __future__ import annotations

import asyncio
import sys

import pytest
import uvloop

from orchestrator_client import run


async def kind_of_loop() -> type:
    return type(asyncio.get_running_loop())


def test_uvloop_is_taken_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(kind_of_loop()) is uvloop.Loop
    monkeypatch.setitem(sys.modules, "uvloop", None)
    assert issubclass(run(kind_of_loop()), asyncio.SelectorEventLoop)
