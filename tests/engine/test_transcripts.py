"""Golden transcripts: `testdata/*.txt` read like stories. A comment says why; a command; `----`; what came out.

`REWRITE=1 pytest tests/engine/test_transcripts.py` writes what comes out now: read the difference before keeping it.

    define NAME TASKS...        a workflow: a (task), a^undo_a (with its compensation), a! (no retries), a* (pivot),
                                a? (optional), wait:NAME (for a signal), [a b | c d] (a fork and its join)
    worker ID SLOTS NAMES...    opens a session
    start NAME [ID]             starts an execution; the id is w if it is not given
    complete|fail|invalid REF   the result of the newest attempt of a reference; ^REF is the newest compensation of it
    late TOKEN REF              a result with an older token
    lose|close ID               the session expires, or says goodbye
    silence REF                 the response deadline of the attempt passes
    release ID TOKEN            the worker has stopped a cancelled attempt
    wait SECONDS                log time passes; timers fire
    pause, resume, retry, terminate [run|skip], signal NAME, undo [retry|skip|abandon]
    restart                     a new replica goes on from the rows
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from orchestrator.engine import choices, queries
from orchestrator.engine import commands as c
from orchestrator.engine.effects import AnyEffect, Cancel, Deliver, LeaseEnded, SessionEnded, TaskQueued
from orchestrator.engine.model import TaskAttempt, TaskStatus
from orchestrator.engine.results import Done, Judged, Rejected
from tests.engine.driver import Driver, workflow

FOLDER = Path(__file__).parent / "testdata"
ONE = ("default", "w")


class Story:
    """Runs the commands of one transcript."""

    def __init__(self) -> None:
        self.driver = Driver()

    def run(self, line: str) -> list[str]:
        name, *words = line.split()
        before = self._tasks()
        self.driver.effects = []
        result = getattr(self, f"_{name}")(*words)
        said = [self._result(result)] if result is not None and not isinstance(result, Done) else []
        return [*said, *self._changes(before), *filter(None, map(self._effect, self.driver.effects))] or ["ok"]

    def _define(self, name: str, *words: str) -> None:
        self.driver.register(workflow(name, *_tasks(list(words))))

    def _worker(self, session: str, slots: str, *names: str) -> None:
        self.driver.worker(session, *names, slots=int(slots))

    def _start(self, name: str, workflow_id: str = "w") -> Any:
        return self.driver.start(name, workflow_id)

    def _complete(self, reference: str) -> Any:
        return self.driver.give(self._attempt(reference))

    def _fail(self, reference: str) -> Any:
        return self.driver.fail(self._attempt(reference))

    def _invalid(self, reference: str) -> Any:
        return self.driver.give(self._attempt(reference), b"no json")

    def _late(self, token: str, reference: str) -> Any:
        return self.driver.give(self._attempt(reference), token=int(token))

    def _lose(self, session: str) -> Any:
        return self.driver.do(c.ExpireSession(session))

    def _close(self, session: str) -> Any:
        return self.driver.do(c.CloseSession(session))

    def _silence(self, reference: str) -> Any:
        token = self._attempt(reference).fencing_token
        return self.driver.do(c.ExpireDeadline(choices.DeadlineKind.RESPONSE, token))

    def _release(self, session: str, token: str) -> Any:
        return self.driver.do(c.ReleaseTask(session, int(token)))

    def _wait(self, seconds: str) -> None:
        self.driver.wait(int(float(seconds) * 1000))

    def _pause(self) -> Any:
        return self.driver.do(c.PauseWorkflow(*ONE))

    def _resume(self) -> Any:
        return self.driver.do(c.ResumeWorkflow(*ONE))

    def _retry(self) -> Any:
        return self.driver.do(c.RetryWorkflow(*ONE))

    def _terminate(self, how: str = "unset") -> Any:
        return self.driver.do(c.TerminateWorkflow(*ONE, "stop", choices.TerminateCompensation[how.upper()]))

    def _signal(self, name: str) -> Any:
        return self.driver.do(c.SignalWorkflow(*ONE, name, b'{"by":"ann"}'))

    def _undo(self, how: str) -> Any:
        if how == "abandon":
            return self.driver.do(c.AbandonCompensation(*ONE, "enough"))
        return self.driver.do(c.RetryCompensation(*ONE) if how == "retry" else c.SkipCompensation(*ONE))

    def _restart(self) -> None:
        self.driver = self.driver.restart()

    # --- what came out

    def _attempt(self, reference: str) -> TaskAttempt:
        if reference.startswith("^"):
            return self.driver.undoing(reference[1:])
        return self.driver.latest(reference)

    def _result(self, result: Any) -> str:
        if isinstance(result, Rejected):
            return f"refused: {result.code.name} {result.reason}"
        if isinstance(result, Judged):
            return f"verdict {result.verdict.name}"
        return f"{type(result).__name__}"

    def _tasks(self) -> dict[str, str]:
        found = {}
        for key in self.driver.state.hot_keys():
            hot = self.driver.state.execution(key)
            assert hot is not None
            for attempt in hot.tasks.values():
                found[f"{key[1]} #{attempt.sequence}"] = _describe(attempt, hot)
            view, header = queries.compensation_view(hot), hot.execution
            undone = f", compensation {view.state.name}" if view.state > 1 else ""
            if undone:
                undone += f" done={[one.reference for one in view.done]} left={[one.reference for one in view.left]}"
            ended = f" ({header.reason})" if header.ended_ms and header.reason else ""
            for one in hot.tasks.values():
                ended = ended.replace(one.task_id, f"#{one.sequence}")
            found[f"{key[1]}"] = f"{header.status.name}{ended}{undone}"
        return found

    def _changes(self, before: dict[str, str]) -> list[str]:
        return [f"{name} {text}" for name, text in self._tasks().items() if before.get(name) != text]

    def _effect(self, effect: AnyEffect) -> str | None:
        if isinstance(effect, Deliver):
            what = f"{effect.workflow_id} #{effect.task_sequence}"
            return f"-> deliver {what} to {effect.session_id}, token {effect.token}"
        if isinstance(effect, Cancel):
            return f"-> cancel token {effect.token} of {effect.session_id}{'' if effect.fenced else ', still awaited'}"
        if isinstance(effect, TaskQueued):
            return f"-> {effect.name} waits for a worker"
        if isinstance(effect, SessionEnded):
            return f"-> session {effect.session_id} has ended: {effect.reason}"
        if isinstance(effect, LeaseEnded):
            return f"-> lease {effect.token} has ended"
        return None


def _describe(attempt: TaskAttempt, hot: Any) -> str:
    what = attempt.reference
    if attempt.compensates:
        what = f"undoing {hot.records[attempt.compensates].reference}"
    retry = f" retry {attempt.retry_count}" if attempt.retry_count else ""
    reason = f" ({attempt.reason})" if attempt.reason and attempt.status is not TaskStatus.CANCELED else ""
    return f"{what}{retry} {attempt.status.name}{reason}"


def _tasks(words: list[str], stop: str = "") -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    while words and words[0] not in ("]", "|"):
        word = words.pop(0)
        if word == "[":
            branches = [_tasks(words)]
            while words and words.pop(0) == "|":
                branches.append(_tasks(words))
            number = len(made)
            made.append(
                {"name": "f", "taskReferenceName": f"fork{number}", "type": "FORK_JOIN", "forkTasks": branches}
            )
            made.append({"name": "j", "taskReferenceName": f"join{number}", "type": "JOIN"})
        else:
            made.append(_task(word))
    return made


def _task(word: str) -> dict[str, Any]:
    if word.startswith("wait:"):
        signal = word.removeprefix("wait:")
        return {"name": "wait", "taskReferenceName": signal, "type": "WAIT", "inputParameters": {"signal": signal}}
    name, _, undo = word.partition("^")
    reference = name.rstrip("!*?")
    retries = {"retryCount": 0} if "!" in name else {}
    definition = {"name": reference, "retryCount": 1, "retryDelaySeconds": 5}
    task = {"name": reference, "taskReferenceName": reference, "type": "SIMPLE", "taskDefinition": definition}
    task.update(pivot="*" in name, optional="?" in name, **retries)
    if undo:
        policy = {"name": undo.rstrip("!"), "retryCount": 0 if "!" in undo else 1, "retryDelaySeconds": 5}
        task["compensateWith"] = {"name": undo.rstrip("!"), "type": "SIMPLE", "taskDefinition": policy}
    return task


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    story, written = Story(), []
    for block in path.read_text().split("\n\n"):
        question = block.partition("\n----")[0].strip("\n")
        command = question.split("\n")[-1]
        if command.startswith("#"):
            written.append(question)
            continue
        written.append("\n".join([question, "----", *story.run(command)]))
    text = "\n\n".join(written) + "\n"
    if os.environ.get("REWRITE"):
        path.write_text(text)
    assert text == path.read_text(), "if this is what is wanted: REWRITE=1"
