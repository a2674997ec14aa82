"""Short runs of `tests.cluster.bus_faults`: Redis, the network to it and the leader break, and effects equal events."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from tests.cluster.bus_faults.crowd import DEAD_LETTERS, OUT, PARTS, QUESTIONS, Crowd
from tests.cluster.bus_faults.gate import HOST, Gate
from tests.cluster.bus_faults.judge import LONG_AGO, Found, Judge
from tests.cluster.bus_faults.kinds import FAULTS
from tests.cluster.bus_faults.reading import Reading
from tests.cluster.bus_faults.session import Session
from tests.cluster.workload import eventually, within
from tests.integrations.redis.servers import RedisServer, needs_redis


@needs_redis
@pytest.mark.parametrize("faults", [
    ("kill_redis", "kill_leader", "deliver_again"), ("swallow", "lose_data", "cut", "turn_back"),
], ids=" ".join)
@pytest.mark.long
async def test_effects_equal_events(tmp_path: Path, chance: random.Random, faults: tuple[str, ...]) -> None:
    async with Session(tmp_path, chance) as session:
        await session.crowd.progress()
        for name in faults:
            await FAULTS[name](session)
        await session.cluster.wait_ready()
        await session.crowd.progress()
        await session.crowd.pause()
        await session.judge.check(all_again=True)
        counts = await session.judge.counts()
        print(counts)
        assert counts["events of these"] == 4 * counts["workflows that published"] > 0
        assert counts["entries that came again"] > 0


# --- what the runs rest on

# Nobody asks it.
SERVER = cast(RedisServer, SimpleNamespace(port=1))


class Known:
    """A judge's crowd, and the executions that it finds."""

    def __init__(self) -> None:
        self.reading = Reading(SERVER, OUT, QUESTIONS, DEAD_LETTERS)
        self.crowd = Crowd(self, SERVER, self.reading, random.Random(1))  # type: ignore[arg-type]  # as far as it is used
        self.executions: list[SimpleNamespace] = []

    async def search(self, *, name: str, **_: object) -> AsyncIterator[SimpleNamespace]:
        for execution in self.executions:
            if execution.name == name:
                yield execution

    def published(self, workflow_id: str, *events: str) -> None:
        self.crowd.spoken.append(workflow_id)
        self.reading.streams[OUT].entries += [
            {"workflow_id": workflow_id, "event": event, "event_id": f"{workflow_id}/{event}"} for event in events]

    def written(self, number: int, *, effects: int, confirmed: bool = True) -> None:
        event_id = f"event-{number}"
        self.crowd.numbers[event_id] = number
        self.crowd.written[event_id] = "1-1" if confirmed else ""
        for _ in range(effects):
            self.executions.append(SimpleNamespace(
                name="heard", workflow_id=f"w-{len(self.executions)}", correlation_id=event_id, start_time=LONG_AGO))

    async def found(self) -> Found:
        found = Found()
        await Judge(self, self.crowd, self.reading)._look(found)  # type: ignore[arg-type]
        return found


@pytest.fixture
def known() -> Known:
    return Known()


async def test_a_judge_is_content_if_effects_equal_events(known: Known) -> None:
    known.published("w", *PARTS)
    known.reading.streams[OUT].entries *= 2
    known.written(1, effects=1)
    known.written(3, effects=0, confirmed=False)
    assert await known.found() == Found()


async def test_a_judge_misses_what_is_lost(known: Known) -> None:
    known.published("w", *PARTS[:3])
    known.written(1, effects=0)
    found = await known.found()
    assert len(found.missing) == 2 and not found.wrong


async def test_a_judge_finds_what_is_doubled_out_of_order_or_has_no_cause(known: Known) -> None:
    known.published("w", *PARTS[:2], *PARTS[3:], PARTS[2])
    known.written(1, effects=2)
    known.executions.append(SimpleNamespace(name="asks", workflow_id="a", status="FAILED"))
    known.reading.streams[DEAD_LETTERS].entries.append({"event_id": "event-1/default/hears/0"})
    assert len((await known.found()).wrong) == 4


async def test_what_a_gate_holds_back_arrives_when_it_heals_and_what_it_cuts_does_not() -> None:
    came: list[bytes] = []
    arrived = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(100):
            came.append(piece)
            arrived.set()
        writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    gate = Gate(server.sockets[0].getsockname()[1])
    await gate.listen()
    _, writer = await asyncio.open_connection(HOST, gate.port)
    writer.write(b"one")
    await within(arrived.wait(), "the first word")
    gate.hold()
    writer.write(b"two")
    late_reader, late = await asyncio.open_connection(HOST, gate.port)
    late.write(b"three")
    # Whoever spoke is gone before it is heard.
    writer.close()
    await writer.wait_closed()
    assert came == [b"one"]
    gate.heal()
    await eventually(lambda: len(came) == 3, "what was held back")
    assert sorted(came) == [b"one", b"three", b"two"]
    gate.cut()
    again_reader, again = await asyncio.open_connection(HOST, gate.port)
    for cut_off in (late_reader, again_reader):
        assert await within(ended(cut_off), "the end of a connection")
    again.close()
    late.close()
    await gate.close()
    server.close()


async def ended(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read(1) == b""
    except ConnectionError:
        return True
