"""Who uses the bus meanwhile: workflows that publish, a service that publishes, another that answers, and others that
need no Redis at all. What each knows to have been taken is what the judge asks for."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from orchestrator_client import Client
from tests.cluster.bus_faults.reading import GONE, TIMEOUT_S, Reading, client_of, payload_of
from tests.cluster.workload import eventually, within
from tests.integrations.redis.servers import RedisServer

OUT, IN, QUESTIONS, ANSWERS = "out", "in", "questions", "answers"
DEAD_LETTERS = f"{IN}:dead-letters"
PARTS = ("part_0", "part_1", "part_2", "status")
"""The events of a workflow that speaks, in order."""

# Shares of what is written: events that are written once more, entries that are no events, events without an id.
REPEATED, POISON, NAMELESS = 0.15, 0.02, 0.1
SHUFFLED = 5
PAUSE_S = 0.05

Json = dict[str, Any]


def _event(reference: str, stream: str, **inputs: Any) -> Json:
    return {"name": reference, "taskReferenceName": reference, "type": "EVENT", "sink": f"redis:{stream}",
            "inputParameters": inputs}


def _wait(**inputs: Any) -> Json:
    return {"name": "waits", "taskReferenceName": "waits", "type": "WAIT", "inputParameters": inputs}


def _noop() -> Json:
    return {"name": "noop", "taskReferenceName": "noop", "type": "NOOP"}


SPEAKS = {
    "name": "speaks", "workflowStatusListenerEnabled": True, "workflowStatusListenerSink": f"redis:{OUT}",
    "tasks": [_event("part_0", OUT), _event("part_1", OUT), _wait(duration="1s"), _event("part_2", OUT)],
}
ASKS = {
    "name": "asks", "outputParameters": {"said": "${waits.output.said}"},
    "tasks": [_event("asks", QUESTIONS, key="${workflow.workflowId}"),
              _wait(event="answer", correlationKey="${workflow.workflowId}")],
}
PLAIN = [{"name": name, "tasks": [_noop()]} for name in ("heard", "counted", "quiet")]


def _starts(name: str) -> Json:
    return {"action": "start_workflow", "start_workflow": {
        "name": name, "correlationId": "${id}", "input": {"n": "${n}"}}}


HANDLERS = (
    {"name": "hears", "event": f"redis:{IN}", "active": True, "actions": [_starts("heard")]},
    {"name": "counts", "event": f"redis:{IN}", "active": True, "condition": "$.n % 2 == 0",
     "actions": [_starts("counted")]},
    {"name": "answers", "event": f"redis:{ANSWERS}", "active": True, "actions": [{
        "action": "correlate",
        "correlate": {"event": "answer", "correlationKey": "${key}", "output": {"said": "${key}"}}}]},
)


class Crowd:
    """All begin with `start`; `pause` lets them come to rest, and they know then what became of what they have done."""

    def __init__(self, client: Client, server: RedisServer, reading: Reading, dice: random.Random) -> None:
        self._client = client
        self._redis = client_of(server)
        self._reading = reading
        self._dice = dice
        # Workflows that were started, in order.
        self.spoken: list[str] = []
        self.asked: list[str] = []
        self.quiet = 0
        # What the publisher wrote, by the ids of events: the id of the first entry that Redis has confirmed, "" if
        # none; and the number that it says.
        self.written: dict[str, str] = {}
        self.numbers: dict[str, int] = {}
        self.poison: dict[str, str] = {}
        self._unordered: list[int] = []
        self._next = 0
        self._answered = self._surely_answered = 0
        self._going = asyncio.Event()
        self._answering = asyncio.Event()
        self._busy: Counter[asyncio.Event] = Counter()
        self._lanes: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        await self._client.register(SPEAKS, ASKS, *PLAIN)
        for handler in HANDLERS:
            await self._client.events.put_handler(handler)
        steps = (self._speak, self._speak, self._speak, self._ask, self._be_quiet, self._write)
        self._lanes = [asyncio.create_task(self._lane(step, self._going)) for step in steps]
        self._lanes.append(asyncio.create_task(self._lane(self._answer, self._answering)))
        self.resume()

    async def stop(self) -> None:
        for lane in self._lanes:
            lane.cancel()
        await asyncio.gather(*self._lanes, return_exceptions=True)
        await self._redis.aclose()

    def resume(self) -> None:
        self._going.set()
        self._answering.set()

    async def pause(self, *, answers: bool = True) -> None:
        """`answers`: who answers goes on with that."""
        self._going.clear()
        if not answers:
            self._answering.clear()
        await eventually(self._is_idle, "everybody to come to rest", 120)

    async def progress(self, more: int = 20) -> None:
        """Returns when so many more workflows have been started that publish and ask, and ended that do not; for none
        of these Redis is needed."""
        spoken, asked, quiet = len(self.spoken) + more, len(self.asked) + more // 2, self.quiet + more // 2

        def reached() -> bool:
            self.check()
            return len(self.spoken) >= spoken and len(self.asked) >= asked and self.quiet >= quiet

        await eventually(reached, f"{more} workflows more")

    def check(self) -> None:
        """Raises what has ended somebody."""
        self._reading.check()
        for lane in self._lanes:
            if lane.done():
                lane.result()

    async def write(self, again: list[str], new: int, *, first_ms: int = 0) -> None:
        """Events of which the publisher does not know what became of them, and new ones; `first_ms`: all at that time,
        by a clock that was set back."""
        numbers = itertools.count(1)
        for event_id in [*again, *(self._new_event() for _ in range(new))]:
            while not await self._add(event_id, entry_id=f"{first_ms}-{next(numbers)}" if first_ms else "*"):
                pass  # it has still had the connection to the Redis that was before

    def answer_again(self) -> None:
        """All that may not have been taken up."""
        self._answered = self._surely_answered
        self._answering.set()

    def all_have_answers(self) -> None:
        """Everybody rests, and has been asked."""
        self._surely_answered = len(self._reading.streams[QUESTIONS].entries)

    # --- those who work

    async def _lane(self, step: Callable[[], Awaitable[None]], going: asyncio.Event) -> None:
        while True:
            await going.wait()
            self._busy[going] += 1
            await step()
            self._busy[going] -= 1
            await asyncio.sleep(PAUSE_S)

    def _is_idle(self) -> bool:
        self.check()
        return not any(self._busy[going] for going in (self._going, self._answering) if not going.is_set())

    async def _speak(self) -> None:
        run = await self._client.start("speaks")
        self.spoken.append(run.workflow_id)

    async def _ask(self) -> None:
        run = await self._client.start("asks")
        self.asked.append(run.workflow_id)

    async def _be_quiet(self) -> None:
        run = await self._client.start("quiet")
        execution = await within(run.wait(), "a workflow that needs no Redis")
        assert execution.status == "COMPLETED", execution
        self.quiet += 1

    async def _write(self) -> None:
        for _ in range(self._dice.choice((1, 1, 3, 8))):
            await self._write_next()

    async def _write_next(self) -> None:
        if self._dice.random() < POISON:
            await self._add_poison(f"bad-{self._number()}")
            return
        if self._dice.random() < NAMELESS:
            await self._add(self._new_event("nameless"))
            return
        await self._add(self._new_event())
        if self._dice.random() < REPEATED:
            recent = [each for each in list(self.written)[-50:] if self.has_id(each)]
            await self._add(self._dice.choice(recent))

    @staticmethod
    def has_id(event_id: str) -> bool:
        """Whether it can be written again: one without an id of its own would be another event."""
        return not event_id.startswith("nameless")

    def _number(self) -> int:
        if not self._unordered:
            self._unordered = self._dice.sample(range(self._next, self._next + SHUFFLED), SHUFFLED)
            self._next += SHUFFLED
        return self._unordered.pop()

    def _new_event(self, kind: str = "event") -> str:
        number = self._number()
        event_id = f"{kind}-{number}"
        self.numbers[event_id] = number
        self.written[event_id] = ""
        return event_id

    async def _answer(self) -> None:
        """All that was asked since, those again whose answer may not have been taken."""
        asked = self._reading.streams[QUESTIONS].entries
        while self._answered < len(asked):
            key = payload_of(asked[self._answered])["key"]
            if not await self._added(ANSWERS, {"event_id": f"answer-{key}", "payload": json.dumps({"key": key})}):
                return
            self._answered += 1

    # --- what is written

    async def _add(self, event_id: str, entry_id: str = "*") -> bool:
        """Whether Redis has confirmed it."""
        fields = {"event_id": event_id} if self.has_id(event_id) else {}
        fields["payload"] = json.dumps({"id": event_id, "n": self.numbers[event_id]})
        confirmed = await self._added(IN, fields, entry_id)
        if confirmed:
            self.written[event_id] = self.written[event_id] or confirmed
        return bool(confirmed)

    async def _add_poison(self, event_id: str) -> None:
        self.poison[event_id] = await self._added(IN, {"event_id": event_id, "payload": "no event"})

    async def _added(self, stream: str, fields: dict[str, str], entry_id: str = "*") -> str:
        """The id of the entry; "" if nobody knows whether there is one."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return str(await self._redis.xadd(stream, fields, entry_id))  # type: ignore[arg-type]  # it takes these
        except GONE:
            return ""
