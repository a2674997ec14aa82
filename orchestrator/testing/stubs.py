"""What nodes execute themselves, in a test: stand-ins for calls of services, and real evaluators of scripts.

A call reaches nobody: a handler of the test answers it. A script is evaluated as on any node, by a process of its own,
while virtual time stands still.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Protocol

from orchestrator.integrations.executors import ExecutorFactory
from orchestrator.integrations.sandbox.executor import KINDS, SandboxExecutor
from orchestrator.integrations.sandbox.sandbox import Sandbox
from orchestrator.integrations.work import CALLS, Ended, Executor, Kind, Outcome, Work
from orchestrator.testing.machine import Machine
from orchestrator.testing.serving import Call, Calls
from orchestrator_client.errors import TerminalError

EVALUATORS = 1
# Under which Conductor puts what the call is about.
_REQUEST = {Kind.HTTP: "http_request", Kind.GRPC: "grpc_request"}


class Handler(Protocol):
    """Answers a call: the task's output, or an Outcome. What it raises fails the task. May be async."""

    def __call__(self, request: dict[str, Any], /) -> Any: ...


def http_answer(body: Any = None, status: int = 200, headers: Mapping[str, str] | None = None) -> Outcome:
    """What an HTTP task comes to when it is answered so: 2xx completes it, anything else fails it."""
    response = {
        "statusCode": status,
        "reasonPhrase": "",
        "headers": {name: [value] for name, value in (headers or {}).items()},
        "body": body,
    }
    output = json.dumps({"response": response}).encode()
    if 200 <= status < 300:
        return Outcome(ended=Ended.COMPLETED, output=output)
    return Outcome(ended=Ended.FAILED, output=output, reason=json.dumps(body), error_code=f"HTTP_{status}")


class Stubs:
    """The handlers of a test, and what they were asked."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._handlers: dict[str, tuple[Handler, Calls]] = {}
        self._attempts: Counter[str] = Counter()

    def add(self, kind: str, handler: Handler) -> Calls:
        """From now on calls of this kind go there."""
        if kind not in CALLS:
            raise ValueError(f"{kind!r} is no kind of call; there are {', '.join(CALLS)}")
        calls = Calls(kind)
        self._handlers[kind] = (handler, calls)
        return calls

    def executors(self, machine: Machine) -> ExecutorFactory:
        """Of a node on the machine."""
        calls: dict[str, Executor] = dict.fromkeys(CALLS, _StandIn(self, machine))
        scripts: dict[str, Executor] = dict.fromkeys(KINDS, _Scripts())
        return lambda config, surroundings: {**calls, **scripts}

    async def answer(self, work: Work) -> Outcome:
        if work.kind not in self._handlers:
            hint = f"nothing stands in for {work.kind} in this test: cluster.stub({work.kind!r}, handler) would"
            return Outcome(ended=Ended.FAILED_WITH_TERMINAL_ERROR, reason=hint, error_code="NO_STUB")
        handler, calls = self._handlers[work.kind]
        given = json.loads(work.input)
        request = given.get(_REQUEST[Kind(work.kind)], given)
        call = self._note(work, request)
        calls.all.append(call)
        try:
            answer = handler(request)
            outcome = _as_outcome(await answer if inspect.isawaitable(answer) else answer)
        except asyncio.CancelledError:
            call.state = "CANCELLED"
            raise
        except Exception as error:  # noqa: BLE001 - as of a task function
            call.state, call.error = "FAILED", error
            return _as_failure(error)
        call.state = "COMPLETED" if outcome.ended is Ended.COMPLETED else "FAILED"
        if outcome.ended is Ended.COMPLETED or outcome.outcome_unknown:
            calls.note_effect(call)
        return outcome

    def _note(self, work: Work, request: dict[str, Any]) -> Call:
        self._attempts[work.idempotency_key] += 1
        return Call(
            name=work.name,
            workflow_id=work.workflow_id,
            reference=work.reference,
            key=work.idempotency_key,
            token=work.fencing_token,
            attempt=self._attempts[work.idempotency_key],
            input=request,
            at=self._now(),
        )


def _as_outcome(answer: Any) -> Outcome:
    if isinstance(answer, Outcome):
        return answer
    if not isinstance(answer, dict):
        raise TypeError(f"a handler answers a dict or an Outcome (http_answer makes one), not {answer!r}")
    return Outcome(ended=Ended.COMPLETED, output=json.dumps(answer).encode())


def _as_failure(error: Exception) -> Outcome:
    if isinstance(error, TerminalError):
        return Outcome(
            ended=Ended.FAILED_WITH_TERMINAL_ERROR,
            reason=str(error),
            error_code=error.code,
            outcome_unknown=error.outcome_unknown,
        )
    name = type(error).__name__
    return Outcome(ended=Ended.FAILED, reason=f"{name}: {error}", error_code=name)


class _StandIn:
    """The executor of calls of one node."""

    def __init__(self, stubs: Stubs, machine: Machine) -> None:
        self._stubs = stubs
        self._machine = machine

    async def execute(self, work: Work) -> Outcome:
        # In the time of the test, as task functions are.
        answering = self._stubs.answer(work)
        process = self._machine.companion("calls")
        return await self._machine.loop.spawn(process, answering, f"{work.kind} of {work.name}")

    async def close(self) -> None:
        """There is nothing to close."""


class _Scripts:
    """The executor of scripts of one node."""

    async def execute(self, work: Work) -> Outcome:
        return await asyncio.get_running_loop().run_in_executor(None, _evaluators().evaluate, work)

    async def close(self) -> None:
        """Others go on using them."""


class _Evaluators:
    """Evaluators in the real world, with a loop and a thread of their own. They end with this process."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, name="evaluators", daemon=True).start()
        self._executor = SandboxExecutor(Sandbox(size=EVALUATORS))

    def evaluate(self, work: Work) -> Outcome:
        """Waits for the outcome."""
        return asyncio.run_coroutine_threadsafe(self._executor.execute(work), self._loop).result()


@functools.cache
def _evaluators() -> _Evaluators:
    return _Evaluators()
