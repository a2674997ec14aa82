"""Whether effects equal events: of what workflows have published, what was written for them, and what was answered."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from orchestrator_client import Client
from tests.cluster.bus_faults.crowd import DEAD_LETTERS, OUT, PARTS, Crowd
from tests.cluster.bus_faults.reading import Reading
from tests.cluster.workload import eventually

# Executions are looked for from so long before the last time on: clocks differ, and some come late.
BACK = timedelta(seconds=90)
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)
SHOWN = 5
PATIENCE_S = 90.0


@dataclass
class Found:
    """`missing` may come yet; what is `wrong` stays so."""

    missing: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Judge:
    def __init__(self, client: Client, crowd: Crowd, reading: Reading) -> None:
        self._client = client
        self._crowd = crowd
        self._reading = reading
        # Events that were in Redis alone when it lost its data.
        self.excused: set[str] = set()
        # The names of workflows -> those that were started, and for which event.
        self._effects: dict[str, dict[str, str]] = {"heard": {}, "counted": {}}
        # The newest that was found, and what was known when all had come.
        self._newest = self._since = LONG_AGO
        self._spoken_from = 0

    async def check(self, *, all_again: bool = False, unread: bool = False) -> None:
        """Returns when all has come that is to; everybody rests. Raises AssertionError for what is wrong, or missing
        for too long. `unread`: nor is there anything left to be read, which a leader asks Redis for now and then."""
        if all_again:
            self._since = LONG_AGO
            self._spoken_from = 0
        spoken = len(self._crowd.spoken)
        await self._settled(self._look)
        # Repeats that are still under way must do nothing.
        await self._nothing_is_pending(unread=unread)
        again = Found()
        await self._look(again)
        assert not again.wrong and not again.missing, f"then {again.wrong[:SHOWN]} {again.missing[:SHOWN]}"
        self._since = self._newest - BACK
        self._spoken_from = spoken
        self._crowd.all_have_answers()

    async def events_taken(self) -> None:
        """Returns when all that was written for workflows has taken effect."""
        await self._settled(self._look_at_effects)

    async def counts(self) -> dict[str, int]:
        crowd = self._crowd
        status = await self._client.events.streams()
        return {
            "workflows that published": len(crowd.spoken),
            "events of these": len(self._reading.streams[OUT].ids()),
            "entries of these": len(self._reading.streams[OUT].entries),
            "events written for workflows": len(crowd.written),
            "entries that came again": sum(stream.repeated for stream in status.incoming),
            "lost with Redis": len([each for each in self.excused if each not in self._effects["heard"].values()]),
            "workflows that they started": sum(map(len, self._effects.values())),
            "dead letters": len(crowd.poison),
            "questions answered": len(crowd.asked),
            "workflows without Redis": crowd.quiet,
        }

    async def _nothing_is_pending(self, *, unread: bool) -> None:
        async def nothing() -> bool:
            status = await self._client.events.streams()
            pending = [event async for event in self._client.events.pending()]
            lags = [stream.lag for stream in status.incoming] if unread else []
            return not pending and not status.outgoing and not any(lags)

        await eventually(nothing, "nothing to be owed, unread or under way", PATIENCE_S)

    async def _settled(self, look: Callable[[Found], Awaitable[None]]) -> None:
        """Returns when it finds that nothing is missing; soon if it finds that something is wrong."""
        last = Found()

        async def found_all() -> bool:
            nonlocal last
            self._crowd.check()
            last = Found()
            await look(last)
            return bool(last.wrong) or not last.missing

        try:
            await eventually(found_all, "all events to take effect", PATIENCE_S)
        except AssertionError as error:
            raise AssertionError(f"{error}; {len(last.missing)} are missing: {last.missing[:SHOWN]}") from None
        assert not last.wrong, f"{len(last.wrong)} are wrong: {last.wrong[:SHOWN]}"

    async def _look(self, found: Found) -> None:
        self._look_at_published(found)
        await self._look_at_effects(found)
        await self._look_at_questions(found)
        self._look_at_dead_letters(found)

    def _look_at_published(self, found: Found) -> None:
        """Each workflow has published each event, under one id, in order."""
        events: dict[str, list[str]] = {}
        for entry in self._reading.streams[OUT].first_of_each():
            events.setdefault(entry["workflow_id"], []).append(entry["event"])
        for workflow_id in self._crowd.spoken[self._spoken_from:]:
            said = events.get(workflow_id, [])
            if said != list(PARTS[:len(said)]):
                found.wrong.append(f"{workflow_id} has published {said}")
            elif len(said) < len(PARTS):
                found.missing.append(f"{workflow_id} has published {said} only")

    async def _look_at_effects(self, found: Found) -> None:
        for name, started in self._effects.items():
            async for execution in self._client.search(name=name, started_from=self._since, page_size=1_000):
                started[execution.workflow_id] = execution.correlation_id
                assert execution.start_time is not None
                self._newest = max(self._newest, execution.start_time)
            effects = Counter(started.values())
            wanted = [each for each in self._crowd.written if name == "heard" or self._crowd.numbers[each] % 2 == 0]
            found.wrong += [f"{each} has started {name}, and was never written"
                            for each in effects.keys() - set(wanted)]
            found.wrong += [f"{each} has started {name} {count} times" for each, count in effects.items() if count > 1]
            found.missing += [f"{each} ({self._crowd.written[each]}) has not started {name}"
                              for each in self._needed(wanted) if not effects[each]]

    def _needed(self, event_ids: Iterable[str]) -> list[str]:
        return [each for each in event_ids if self._crowd.written[each] and each not in self.excused]

    async def _look_at_questions(self, found: Found) -> None:
        states = {each.workflow_id: each.status
                  async for each in self._client.search(name="asks", started_from=self._since, page_size=1_000)}
        for workflow_id, status in states.items():
            if status == "RUNNING":
                found.missing.append(f"{workflow_id} waits for its answer")
            elif status != "COMPLETED":
                found.wrong.append(f"{workflow_id} asked, and is {status}")
        if self._spoken_from == 0:
            found.wrong += [f"{each} was started, and is not there" for each in set(self._crowd.asked) - states.keys()]

    def _look_at_dead_letters(self, found: Found) -> None:
        told = {each.partition("/")[0] for each in self._reading.streams[DEAD_LETTERS].ids()}
        poison = self._crowd.poison
        found.wrong += [f"{each} is a dead letter, and was an event" for each in told - poison.keys()]
        found.missing += [f"{each} is no dead letter" for each, confirmed in poison.items()
                          if confirmed and each not in told | self.excused]
