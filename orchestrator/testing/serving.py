"""Workers of a test: the SDK's, whose calls of task functions are noted, and follow a script."""

from __future__ import annotations

import asyncio
import contextvars
import copy
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial
from typing import Any, NoReturn

from orchestrator.testing.client import channels
from orchestrator.testing.machine import Machine
from orchestrator.testing.scripts import Act, Scripted
from orchestrator_client.attempts import WorkerSession
from orchestrator_client.client import Client
from orchestrator_client.context import TaskContext
from orchestrator_client.tasks import Task
from orchestrator_client.worker import Worker

_CONTEXT = "_context_of_the_call"


@dataclass(eq=False)
class Call:
    """One call of a task function, that is one attempt."""

    name: str
    workflow_id: str
    reference: str
    # The idempotency key of the step: the same for all of its attempts.
    key: str
    # The fencing token: it grows with each attempt.
    token: int
    attempt: int
    # The arguments of the function but for its context.
    input: dict[str, Any]
    at: datetime
    # RUNNING, COMPLETED, FAILED or CANCELLED; RUNNING for ever if its worker died.
    state: str = "RUNNING"
    # The function has returned, whatever became of its result.
    took_effect: bool = False
    error: BaseException | None = None


@dataclass
class Calls:
    """What the worker was asked to do, in the order in which it began."""

    # The name of the worker, for `cluster.kill`; or the kind of calls.
    worker: str
    all: list[Call] = field(default_factory=list)
    _effects: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def effects(self) -> list[str]:
        """The names of the tasks that took effect, in that order, once for each idempotency key.

        A service that knows a repeated key again does nothing then: what it did is here.
        """
        return list(self._effects.values())

    def of(self, task: Task[..., Any] | str) -> list[Call]:
        """The calls of one task."""
        name = task if isinstance(task, str) else task.name
        return [call for call in self.all if call.name == name]

    def note_effect(self, call: Call) -> None:
        """It has taken place."""
        call.took_effect = True
        self._effects.setdefault((call.name, call.key), call.name)


class ServedWorker:
    """A machine with a worker, which is started again when it dies."""

    def __init__(
        self,
        machine: Machine,
        tasks: Iterable[Task[..., Any] | Scripted],
        *,
        endpoints: list[str],
        options: dict[str, Any],
        now: Callable[[], datetime],
        kill: Callable[[str], None],
        on_failed: Callable[[str], None],
    ) -> None:
        self.machine = machine
        self.calls = Calls(machine.name)
        self._scripts = _by_name(tasks)
        self._endpoints = endpoints
        self._options = options
        self._now = now
        self._kill = kill
        self._on_failed = on_failed
        self._counts: Counter[str] = Counter()
        self._worker: Worker | None = None

    def start(self) -> None:
        """Boots the machine and opens a session, soon."""
        self.machine.boot()
        self._worker = None
        _ = self.machine.spawn(self._run(), self.machine.name)

    async def _run(self) -> None:
        assert self.machine.process is not None
        dice = self.machine.dice
        open_channel = channels(self.machine, self.machine.process)
        try:
            client = Client(self._endpoints, open_channel=open_channel, rng=dice)
            self._worker = Worker(
                client,
                [self._played(task, acts) for task, acts in self._scripts.values()],
                worker_id=self.machine.name,
                handle_signals=False,
                make_session_id=lambda: f"{dice.getrandbits(128):032x}",
                **self._options,
            )
            await self._worker.run()
        except Exception as error:  # noqa: BLE001 - the test is told
            self._on_failed(f"{self.machine.name} ended: {error!r}")

    async def die(self) -> NoReturn:
        self._kill(self.machine.name)
        # Its process is not called any more.
        await asyncio.get_running_loop().create_future()
        raise AssertionError("a dead process goes on")

    @property
    def session(self) -> WorkerSession | None:
        """Its session while it is connected."""
        return self._worker.session if self._worker is not None and self.machine.running else None

    # -- calls -----------------------------------------------------------------------------------------------------

    def _played(self, task: Task[..., Any], acts: tuple[Act, ...]) -> Task[..., Any]:
        """The same task, whose function is called here and notes it."""
        signature = task.signature
        context_name = signature.context or _CONTEXT

        async def function(**arguments: Any) -> Any:
            context: TaskContext = arguments[context_name]
            if signature.context is None:
                del arguments[context_name]
            given = {name: value for name, value in arguments.items() if name != signature.context}
            call = self._note(task.name, context, given)
            playing = self._play(task, acts, call, arguments)
            # For task functions time passes that is passed over, for their worker it does not.
            process = self.machine.companion("tasks")
            return await self.machine.loop.spawn(process, playing, f"{task.name} of {call.workflow_id}")

        clone = copy.copy(task)
        clone.compensator = None  # it is among the tasks, with a script of its own
        clone.function = function
        clone._signature = replace(signature, context=context_name)
        return clone

    def _note(self, name: str, context: TaskContext, given: dict[str, Any]) -> Call:
        call = Call(
            name=name,
            workflow_id=context.workflow_id,
            reference=context.reference,
            key=context.idempotency_key,
            token=context.fencing_token,
            attempt=context.attempt,
            input=given,
            at=self._now(),
        )
        self.calls.all.append(call)
        return call

    async def _play(self, task: Task[..., Any], acts: tuple[Act, ...], call: Call, arguments: dict[str, Any]) -> Any:
        async def execute() -> Any:
            if task.is_async:
                value = await task.function(**arguments)
            else:
                run = partial(contextvars.copy_context().run, partial(task.function, **arguments))
                value = await asyncio.get_running_loop().run_in_executor(None, run)
            self.calls.note_effect(call)
            return value

        self._counts[call.name] += 1
        perform: Callable[[], Awaitable[Any]] = execute
        for act in reversed(acts):
            perform = partial(act.play, self._counts[call.name], perform, self)
        try:
            value = await perform()
        except asyncio.CancelledError:
            call.state = "CANCELLED"
            raise
        except BaseException as error:
            call.state, call.error = "FAILED", error
            raise
        call.state = "COMPLETED"
        return value


def _by_name(tasks: Iterable[Task[..., Any] | Scripted]) -> dict[str, tuple[Task[..., Any], tuple[Act, ...]]]:
    """With the compensations of the tasks, unless those were given a script of their own."""
    found: dict[str, tuple[Task[..., Any], tuple[Act, ...]]] = {}
    for each in tasks:
        task, acts = (each.task, each.acts) if isinstance(each, Scripted) else (each, ())
        if not isinstance(task, Task):
            raise TypeError(f"a worker serves @task functions, and {task!r} is none")
        if task.name in found:
            raise ValueError(f"the task {task.name!r} is served twice")
        found[task.name] = (task, acts)
    for task, _ in list(found.values()):
        if task.compensator is not None:
            found.setdefault(task.compensator.name, (task.compensator, ()))
    return found
