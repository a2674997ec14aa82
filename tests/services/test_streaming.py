"""A node's streams put together: who runs the link, and what a Redis that nobody understands may not do to a node."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from orchestrator import streaming as module
from orchestrator.config import Config
from orchestrator.engine.behaviour import HIGHEST
from orchestrator.engine.choices import IfExists
from orchestrator.engine.commands import StartWorkflow
from orchestrator.integrations.redis.failures import RedisRefused, RedisUnavailable
from orchestrator.integrations.redis.streams import Appended, OpenAgain
from orchestrator.large_values import LargeValues
from orchestrator.streaming import LinkedReader, LinkedStreams, LinkKeeper, Streaming, streaming, warn_without_redis
from orchestrator.telemetry.metrics import Metrics
from orchestrator.world import World
from tests.engine.driver import Driver, workflow
from tests.engine.triggers.making import action, busy_driver, put_handler
from tests.replication.cluster import wait_until


class Link:
    """Does what a test says."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.connected, self.last_error = False, "not yet"
        self.error: Exception | None = None
        self.runs = 0

    async def run(self) -> None:
        self.runs += 1
        if self.error is not None:
            raise self.error
        self.connected = True
        try:
            await asyncio.Event().wait()
        finally:
            self.connected = False

    async def wait_connected(self) -> None:
        """Nobody is let through here: what they would ask for next is not what these tests are about."""
        await asyncio.Event().wait()

    async def transact(self, commands: Any) -> Any:
        assert self.error is not None
        raise self.error


class Reader:
    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        async def fail(*_: Any, **__: Any) -> None:
            raise self._error

        return fail


def make(driver: Driver, lent: Any = None, **settings: Any) -> Streaming | None:
    async def submit(command: Any) -> Any:
        return driver.do(command)

    config = Config(node="n1", data_dir=Path("data"), grpc_listen="127.0.0.1:7400", peer_listen="127.0.0.1:7500",
                    **settings)
    world = World(redis=Link)  # type: ignore[arg-type]  # as much of a link as is asked of it
    metrics = Metrics(node="n1", version="0")
    return streaming(config, world, metrics, submit=submit, machine=lambda: driver.machine, lent=lent)


def test_without_endpoints_there_is_none() -> None:
    assert make(busy_driver(HIGHEST)) is None


def test_a_group_is_named_by_its_setting_and_its_namespace() -> None:
    made = make(busy_driver(HIGHEST), redis_endpoints="127.0.0.1:6379", redis_group="east")
    assert made is not None and made.group_of("shop") == "east:shop"


async def test_only_a_leader_keeps_a_link_unless_it_is_lent_one() -> None:
    made = make(busy_driver(HIGHEST), redis_endpoints="127.0.0.1:6379")
    assert made is not None and [type(each).__name__ for each in made.services] == [
        "LinkKeeper", "Publisher", "Consumer"]
    assert made.link_state(leading=False) is None and made.link_state(leading=True) is False
    running = asyncio.create_task(made.services[0].run())
    await wait_until("the link", lambda: made.connected)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert not made.connected and made.last_error == "not yet"

    lent = Link()
    made = make(busy_driver(HIGHEST), lent=lent)
    assert made is not None and len(made.services) == 2
    lent.connected = True
    assert made.link_state(leading=False) is True


async def test_a_link_that_breaks_in_an_unforeseen_way_is_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN_SECONDS", 0.001)
    link = Link()
    link.error = UnicodeError("label too long")
    running = asyncio.create_task(LinkKeeper(link).run())  # type: ignore[arg-type]  # see above
    await wait_until("another try", lambda: link.runs > 2)
    link.error = None
    await wait_until("the link", lambda: link.connected)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


CALLS = {
    "open": ("0-0",), "read_new": (1, 1), "read_pending": (1,), "acknowledge": ((),), "lag": (),
}


@pytest.mark.parametrize("name", CALLS)
async def test_an_answer_that_nobody_understands_is_a_refusal(name: str) -> None:
    def call(error: Exception) -> Any:
        reader = LinkedReader(Reader(error))  # type: ignore[arg-type]  # see above
        return getattr(reader, name)(*CALLS[name], **({"begun": True} if name == "open" else {}))

    with pytest.raises(RedisRefused, match="ValueError: nonsense"):
        await call(ValueError("nonsense"))
    for known in (RedisUnavailable("away"), RedisRefused("no"), OpenAgain("gone")):
        with pytest.raises(type(known)):
            await call(known)


async def test_so_is_an_answer_to_what_was_written() -> None:
    link = Link()
    streams = LinkedStreams(link, "g", 0)  # type: ignore[arg-type]  # see above
    for error in (IndexError("nonsense"), RedisUnavailable("away")):
        link.error = error
        written, failure = await streams.append("s", [{"a": b"1"}])
        assert written == 0 and str(error) in str(failure)
        assert isinstance(failure, RedisUnavailable) == isinstance(error, RedisUnavailable)
    assert isinstance(await streams.append("s", [{"a": b"1"}]), Appended)


def test_a_leader_without_redis_says_so_if_something_waits_for_one(caplog: pytest.LogCaptureFixture) -> None:
    driver = busy_driver(HIGHEST)
    warn_without_redis(driver.state)
    assert not caplog.records
    put_handler(driver, action("start_workflow", name="report"), event="redis:paid")
    task = {"name": "sold", "taskReferenceName": "sold", "type": "EVENT", "sink": "redis:orders"}
    driver.register(workflow("sells", task))
    driver.do(StartWorkflow("default", "sells", 0, "w", IfExists.FAIL, b"{}"))
    warn_without_redis(driver.state)
    [record] = caplog.records
    assert "redis_endpoints" in record.message
    assert (record.owed_events, record.streams_handled) == (1, 1)  # type: ignore[attr-defined]  # it is extra


async def test_a_link_that_is_lent_is_kept_going_likewise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "AGAIN_SECONDS", 0.001)
    config = Config(node="n1", data_dir=Path("data"), grpc_listen="127.0.0.1:7400", peer_listen="127.0.0.1:7500",
                    redis_endpoints="127.0.0.1:6379", blob_store="redis")
    values = LargeValues(config, World(redis=Link), Metrics(node="n1", version="0"))  # type: ignore[arg-type]  # see above
    link: Any = values.link
    link.error = UnicodeError("label too long")
    running = asyncio.create_task(values.run())
    await wait_until("another try", lambda: link.runs > 2)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await values.close()
