"""Golden transcripts: `testdata/*.txt` read like stories. A comment says why; a command; `----`; what came out.

`REWRITE=1 pytest tests/engine/test_transcripts.py` writes what comes out now: read the difference before keeping it.

    define NAME TASKS...        a workflow: a (task), a^undo_a (with its compensation), a! (no retries), a* (pivot),
                                a? (optional), wait:NAME (for a signal), await:NAME (for the event NAME with the key
                                k), [ a b | c d ] (a fork and its join),
                                { a b } (a loop with a condition), {3 a b } (over three items), {keep:2 a } (keepLastN),
                                sub:NAME (a sub-workflow), fan:a:3 (a dynamic fork of three, and its join), js:NAME
                                (a script), case:NAME ( a | b ) (a switch by script: "1" or "2"), TYPE:REF[:MORE]
                                (any other type: see PLAIN)
    worker ID SLOTS NAMES...    opens a session
    node ID                     opens the session of a node, which evaluates scripts
    start NAME [ID]             starts an execution; the id is w if it is not given
    complete|fail|invalid REF   the result of the newest attempt of a reference; ^REF is the newest compensation of it;
                                REF@w/s that of the execution which the sub-workflow s of w is
    answer REF VALUE            what a script comes to
    late TOKEN REF              a result with an older token
    lose|close ID               the session expires, or says goodbye
    silence REF                 the response deadline of the attempt passes
    release ID TOKEN            the worker has stopped a cancelled attempt
    wait SECONDS                log time passes; timers fire
    pause, resume, retry, terminate [run|skip], signal NAME, undo [retry|skip|abandon]
    retry resume, again [keep|compensate_first], rerun REF, skip REF
    update REF STATUS, push TEXT
    handler EVENT NAME          whenever the event is published, the workflow of this name is started
    correlate EVENT             whenever the event is published, whoever waits for it with its key gets it
    publish EVENT KEY
    raise LEVEL                 of the cluster's behaviour
    restart                     a new replica goes on from the rows
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from orchestrator.engine import choices, queries
from orchestrator.engine import commands as c
from orchestrator.engine.definitions import operators
from orchestrator.engine.definitions.model import TaskType
from orchestrator.engine.effects import AnyEffect, Cancel, Deliver, LeaseEnded, SessionEnded, TaskQueued
from orchestrator.engine.model import SessionKind, TaskAttempt, TaskStatus
from orchestrator.engine.results import Done, Judged, Rejected
from tests.engine.driver import Driver, workflow

FOLDER = Path(__file__).parent / "testdata"
ONE = ("default", "w")


class Story:
    """Runs the commands of one transcript."""

    def __init__(self) -> None:
        self.driver = Driver()
        # The names of executions in the story, by their ids.
        self.names = {"w": "w"}

    def run(self, line: str) -> list[str]:
        name, *words = line.split()
        before = self._tasks()
        self.driver.effects = []
        result = getattr(self, f"_{name}")(*words)
        said = [self._result(result)] if result is not None and not isinstance(result, Done) else []
        changes = self._changes(before)
        effects = filter(None, map(self._effect, self.driver.effects))
        return [self._in_names(text) for text in (*said, *changes, *effects)] or ["ok"]

    def _define(self, name: str, *words: str) -> None:
        self.driver.register(workflow(name, *_tasks(list(words))))

    def _worker(self, session: str, slots: str, *names: str) -> None:
        self.driver.worker(session, *names, slots=int(slots))

    def _start(self, name: str, workflow_id: str = "w") -> Any:
        self.names[workflow_id] = workflow_id
        return self.driver.start(name, workflow_id)

    def _node(self, session: str) -> None:
        names = ("system/script", "system/jq", "system/http", "system/grpc")
        self.driver.ok(c.OpenSession(session, SessionKind.STREAM, "$system", "", session, names, 9, 10_000))

    def _complete(self, reference: str) -> Any:
        return self._give(reference)

    def _fail(self, reference: str) -> Any:
        attempt, workflow_id = self._attempt(reference)
        return self.driver.fail(attempt, workflow_id=workflow_id)

    def _invalid(self, reference: str) -> Any:
        return self._give(reference, b"no json")

    def _late(self, token: str, reference: str) -> Any:
        return self._give(reference, token=int(token))

    def _answer(self, reference: str, value: str) -> Any:
        return self._give(reference, b'{"result":%s}' % value.encode())

    def _give(self, reference: str, output: bytes = b"{}", **fields: Any) -> Any:
        attempt, workflow_id = self._attempt(reference)
        return self.driver.give(attempt, output, workflow_id=workflow_id, **fields)

    def _lose(self, session: str) -> Any:
        return self.driver.do(c.ExpireSession(session))

    def _close(self, session: str) -> Any:
        return self.driver.do(c.CloseSession(session))

    def _silence(self, reference: str) -> Any:
        token = self._attempt(reference)[0].fencing_token
        return self.driver.do(c.ExpireDeadline(choices.DeadlineKind.RESPONSE, token))

    def _release(self, session: str, token: str) -> Any:
        return self.driver.do(c.ReleaseTask(session, int(token)))

    def _wait(self, seconds: str) -> None:
        self.driver.wait(int(float(seconds) * 1000))

    def _pause(self) -> Any:
        return self.driver.do(c.PauseWorkflow(*ONE))

    def _resume(self) -> Any:
        return self.driver.do(c.ResumeWorkflow(*ONE))

    def _retry(self, how: str = "") -> Any:
        return self.driver.do(c.RetryWorkflow(*ONE, resume_sub_workflows=how == "resume"))

    def _again(self, how: str = "unset") -> Any:
        return self.driver.do(c.RestartWorkflow(*ONE, effects=choices.DeleteEffects[how.upper()]))

    def _rerun(self, reference: str) -> Any:
        return self.driver.do(c.RerunWorkflow(*ONE, task_id=self._attempt(reference)[0].task_id))

    def _skip(self, reference: str) -> Any:
        return self.driver.do(c.SkipTask(*ONE, reference))

    def _terminate(self, how: str = "unset") -> Any:
        return self.driver.do(c.TerminateWorkflow(*ONE, "stop", choices.TerminateCompensation[how.upper()]))

    def _signal(self, name: str) -> Any:
        return self.driver.do(c.SignalWorkflow(*ONE, name, b'{"by":"ann"}'))

    def _update(self, reference: str, status: str) -> Any:
        return self.driver.do(c.UpdateTask(*ONE, reference, TaskStatus[status], b'{"by":"ann"}'))

    def _push(self, text: str) -> Any:
        return self.driver.do(c.PushMessage(*ONE, b'{"text":"%s"}' % text.encode()))

    def _handler(self, event: str, name: str) -> None:
        action = {"action": "start_workflow", "start_workflow": {"name": name}}
        document = {"name": name, "event": event, "active": True, "actions": [action]}
        self.driver.ok(c.PutEventHandler("default", msgspec.json.encode(document)))

    def _correlate(self, event: str) -> None:
        action = {"action": "correlate", "correlate": {"correlationKey": "${key}"}}
        document = {"name": f"correlate {event}", "event": event, "active": True, "actions": [action]}
        self.driver.ok(c.PutEventHandler("default", msgspec.json.encode(document)))

    def _publish(self, event: str, key: str) -> None:
        self.driver.ok(c.PublishEvent("default", event, "", msgspec.json.encode({"key": key})))

    def _raise(self, level: str) -> None:
        self.driver.ok(c.RaiseBehaviour(int(level)))

    def _undo(self, how: str) -> Any:
        if how == "abandon":
            return self.driver.do(c.AbandonCompensation(*ONE, "enough"))
        return self.driver.do(c.RetryCompensation(*ONE) if how == "retry" else c.SkipCompensation(*ONE))

    def _restart(self) -> None:
        self.driver = self.driver.restart()

    # --- what came out

    def _attempt(self, reference: str) -> tuple[TaskAttempt, str]:
        reference, _, named = reference.partition("@")
        workflow_id = {name: found for found, name in self.names.items()}[named or "w"]
        if reference.startswith("^"):
            return self._undoing(reference[1:], workflow_id), workflow_id
        return self.driver.latest(reference, workflow_id), workflow_id

    def _undoing(self, reference: str, workflow_id: str) -> TaskAttempt:
        hot = self.driver.hot(workflow_id)
        made = [one for one in hot.tasks.values() if one.compensates]
        return max((one for one in made if hot.records[one.compensates].reference == reference), key=_sequence)

    def _in_names(self, text: str) -> str:
        for workflow_id, name in self.names.items():
            text = text.replace(workflow_id, name)
            for one in self.driver.hot(workflow_id).tasks.values():
                text = text.replace(one.task_id, f"#{one.sequence}")
        return text

    def _name_children(self) -> None:
        for key in self.driver.state.hot_keys():
            hot = self.driver.state.execution(key)
            assert hot is not None
            for one in hot.tasks.values():
                if one.child and one.child not in self.names:
                    name = f"{self.names.get(key[1], key[1])}/{one.reference}"
                    self.names[one.child] = name + "'" * list(self.names.values()).count(name)
        for key in self.driver.state.hot_keys():
            # One that was started by another, which does not wait for it.
            hot = self.driver.state.execution(key)
            assert hot is not None
            self.names.setdefault(key[1], hot.execution.name)

    def _result(self, result: Any) -> str:
        if isinstance(result, Rejected):
            return f"refused: {result.code.name} {result.reason}"
        if isinstance(result, Judged):
            return f"verdict {result.verdict.name}"
        return f"{type(result).__name__}"

    def _tasks(self) -> dict[str, str]:
        found = {}
        self._name_children()
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
            found[f"{key[1]}"] = f"{header.status.name}{ended}{undone}"
        return found

    def _changes(self, before: dict[str, str]) -> list[str]:
        after = self._tasks()
        gone = [f"{name} is gone" for name in before if name not in after]
        return [*gone, *(f"{name} {text}" for name, text in after.items() if before.get(name) != text)]

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


def _sequence(attempt: TaskAttempt) -> int:
    return attempt.sequence


def _describe(attempt: TaskAttempt, hot: Any) -> str:
    what = attempt.reference
    if attempt.compensates:
        what = f"undoing {hot.records[attempt.compensates].reference}"
    retry = f" retry {attempt.retry_count}" if attempt.retry_count else ""
    reason = f" ({attempt.reason})" if attempt.reason and attempt.status is not TaskStatus.CANCELED else ""
    return f"{what}{retry} {attempt.status.name}{reason}"


def _tasks(words: list[str]) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    while words and words[0] not in _CLOSING:
        word = words.pop(0)
        kind, _, rest = word.partition(":")
        if word == "[":
            made += _forked(len(made), "FORK_JOIN", forkTasks=_branches(words))
        elif kind == "fan":
            name, _, count = rest.partition(":")
            made += _forked(len(made), "FORK_JOIN_DYNAMIC", {"forkTaskName": name, "forkTaskInputs": [{}] * int(count)})
        elif word.startswith("{"):
            made.append(_loop(word[1:], words))
        elif kind == "case":
            words.pop(0)
            cases = {str(number): branch for number, branch in enumerate(_branches(words), 1)}
            made.append(_element("SWITCH", rest, evaluatorType="javascript", expression="$.v", decisionCases=cases))
        else:
            made.append(_task(word))
    return made


_CLOSING = ("]", "|", "}", ")")


def _branches(words: list[str]) -> list[list[dict[str, Any]]]:
    """Up to the word that closes them, which is taken."""
    branches = [_tasks(words)]
    while words.pop(0) == "|":
        branches.append(_tasks(words))
    return branches


def _forked(number: int, kind: str, given: dict[str, Any] | None = None, **fields: Any) -> list[dict[str, Any]]:
    last = [branch[-1]["taskReferenceName"] for branch in fields.get("forkTasks", [])]
    return [_element(kind, f"fork{number}", given, **fields), _element("JOIN", f"join{number}", joinOn=last)]


def _loop(how: str, words: list[str]) -> dict[str, Any]:
    [body] = _branches(words)
    if how.isdigit():
        return _element("DO_WHILE", "loop", items=list(range(int(how))), loopOver=body)
    given = {"keepLastN": int(how.removeprefix("keep:"))} if how else {}
    return _element("DO_WHILE", "loop", given, loopCondition="$.more", loopOver=body)


def _element(kind: str, reference: str, given: dict[str, Any] | None = None, **fields: Any) -> dict[str, Any]:
    made = {"name": reference, "taskReferenceName": reference, "type": kind, **fields}
    return {**made, "inputParameters": given} if given else made


PLAIN: dict[str, dict[str, Any]] = {
    "HTTP": {"inputParameters": {"uri": "http://x/"}},
    "GRPC": {"inputParameters": {"target": "x:1", "method": "a.B/C"}},
    "JSON_JQ_TRANSFORM": {"inputParameters": {"queryExpression": ".x"}},
    "LAMBDA": {"inputParameters": {"scriptExpression": "return 1"}},
    "DECISION": {"caseExpression": "$.v", "decisionCases": {"1": [], "2": []}},
    "EXCLUSIVE_JOIN": {},  # MORE: the references, with commas
    "DYNAMIC": {"dynamicTaskNameParam": "n"},  # MORE: the name
    "START_WORKFLOW": {},  # MORE: the name
    "HUMAN": {},
    "EVENT": {"sink": "conductor:told"},
    "PULL_WORKFLOW_MESSAGES": {"inputParameters": {"batchSize": 2}},
    "SET_VARIABLE": {"inputParameters": {"n": 1}},
    "TERMINATE": {},  # MORE: the status
    "NOOP": {},
}


def _plain(kind: str, reference: str, more: str) -> dict[str, Any]:
    fields = dict(PLAIN[kind])
    if kind == "EXCLUSIVE_JOIN":
        fields["joinOn"] = more.split(",")
    elif kind == "DYNAMIC":
        fields["inputParameters"] = {"n": more}
    elif kind == "START_WORKFLOW":
        fields["inputParameters"] = {"startWorkflow": {"name": more}}
    elif kind == "TERMINATE":
        fields["inputParameters"] = {"terminationStatus": more}
    return {"name": reference, "taskReferenceName": reference, "type": kind, **fields}


def _task(word: str) -> dict[str, Any]:
    kind, _, rest = word.partition(":")
    if kind in PLAIN:
        reference, _, more = rest.partition(":")
        return _plain(kind, reference, more)
    if word.startswith("wait:"):
        signal = word.removeprefix("wait:")
        return {"name": "wait", "taskReferenceName": signal, "type": "WAIT", "inputParameters": {"signal": signal}}
    if word.startswith("await:"):
        event = word.removeprefix("await:")
        return _element("WAIT", event, {"event": event, "correlationKey": "k"})
    if word.startswith("sub:"):
        child = word.removeprefix("sub:")
        return _element("SUB_WORKFLOW", child, subWorkflowParam={"name": child})
    if word.startswith("js:"):
        return _element("INLINE", word.removeprefix("js:"), {"evaluatorType": "javascript", "expression": "$.v"})
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


def test_every_type_of_task_has_a_story() -> None:
    words = {word for path in FOLDER.glob("*.txt") for word in path.read_text().split()}
    told = {word.partition(":")[0] for word in words}
    short = {"[": {"FORK_JOIN", "JOIN"}, "fan": {"FORK_JOIN_DYNAMIC"}, "wait": {"WAIT"}, "sub": {"SUB_WORKFLOW"},
             "js": {"INLINE"}, "case": {"SWITCH"}, "{": {"DO_WHILE"}, "complete": {"SIMPLE"}}
    types = told.union(*(types for word, types in short.items() if word in told))
    assert types >= {*TaskType, *operators.ALIASES} - {TaskType.SCHEMA_CHECK}
