"""A whole history is judged: each promise that is broken in it is named, with what was written down of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from orchestrator.verify.history import History, Lines, Operation, Recorder
from orchestrator.verify.judge import Judge, Seen, Violation
from orchestrator.verify.models import DONE, MADE
from orchestrator.verify.report import PROMISES
from orchestrator_client import Execution
from tests.verify.making import attempt, execution, operation, ran

STEPS = "v-steps-c1x1"


def judged(subject: str, operations: list[Operation], *executions: Execution, worked: bool = True) -> list[Violation]:
    judge = Judge()
    for each in operations:
        judge.history.add(dataclasses.replace(each, subject=subject))
    for one in executions:
        for task in one.tasks if worked else []:
            line = {"line": "ran", "at": task.sequence, "ran": dataclasses.asdict(ran(task, one.workflow_id))}
            judge.take_worker_line(line, task.worker_id)
    return judge.judge({subject: Seen(executions)})


def promises(found: list[Violation]) -> set[str]:
    assert {each.promise for each in found} <= PROMISES.keys()
    return {each.promise for each in found}


def start(answer: Any = MADE, **more: Any) -> Operation:
    return operation("start", 0, 1, answer, argument={"x": 3}, **more)


def good(**changes: Any) -> Execution:
    return execution(attempt("left", 1), attempt("right", 2), attempt("total", 3), workflow_id=STEPS,
                     output={"total": 12}, **changes)


def read(output: str | None, status: str = "COMPLETED", at: float = 2) -> Operation:
    return operation("read", at, at + 1, {"is": "shown", "status": status, "output": output})


def test_nothing_is_wrong() -> None:
    assert judged(STEPS, [start(), read('{"total": 12}')], good()) == []


def test_a_lost_acknowledgement() -> None:
    found = judged(STEPS, [start(), read(None, "RUNNING")])
    assert "acknowledgement" in promises(found)
    [lost] = [each for each in found if each.promise == "acknowledgement"]
    assert any("start" in line for line in lost.excerpt) and "the cluster knows of no such execution" in lost.excerpt


def test_a_lost_write_is_found_by_the_judges_own_read() -> None:
    subject = "v-register-0x1"
    written = operation("write", 1, 2, DONE, argument="a")
    seen = operation("read", 3, 4, {"is": "shown", "status": "RUNNING", "value": None}, caller="judge")
    found = judged(subject, [start(), written, seen], execution(workflow_id=subject, status="RUNNING"))
    assert promises(found) == {"order"}
    assert any(line.startswith("left: ") for line in found[0].excerpt)


def test_a_refused_start_that_took_effect() -> None:
    assert "refusal" in promises(judged(STEPS, [start(None, outcome="none")], good()))


def test_an_unknown_start_may_be_there_or_not() -> None:
    unknown = start(None, outcome="unknown")
    assert judged(STEPS, [unknown], good()) == []
    assert judged(STEPS, [unknown]) == []


def test_one_request_with_two_effects() -> None:
    assert "once" in promises(judged(STEPS, [start(), start()], good()))
    key = "v-once-c1x1"
    answers = [operation("start", 0, 1, {"id": "x", "existing": False}, argument={"x": 3})]
    twice = [dataclasses.replace(good(), workflow_id="x"), dataclasses.replace(good(), workflow_id="y")]
    assert "once" in promises(judged(key, answers, *twice))


def test_an_attempt_that_was_accepted_twice() -> None:
    twice = execution(attempt("left", 1), attempt("left", 2, number=2), attempt("right", 3), attempt("total", 4),
                      workflow_id=STEPS, output={"total": 12})
    assert "attempts" in promises(judged(STEPS, [start()], twice))
    assert "attempts" in promises(judged(STEPS, [start()], good(), worked=False))


def test_a_wrong_end() -> None:
    assert promises(judged(STEPS, [start()], dataclasses.replace(good(), output={"total": 1}))) == {"end"}


def test_a_wrong_compensation_and_timer() -> None:
    saga = execution(attempt("reserve", 1), attempt("charge", 2, began=20),
                     attempt("ship", 3, "FAILED_WITH_TERMINAL_ERROR", began=40), workflow_id="v-saga-c1x1",
                     status="FAILED")
    begun = operation("start", 0, 1, MADE, argument={"x": 1, "mode": "fail"})
    assert promises(judged("v-saga-c1x1", [begun], saga)) == {"compensation"}
    timer = execution(attempt("timer", 1, kind="WAIT", ended=1), attempt("after", 2), workflow_id="v-timer-c1x1",
                      output={"total": 6})
    assert promises(judged("v-timer-c1x1", [start()], timer)) == {"timer"}


def test_a_session_that_ends_by_itself_is_a_violation_unless_faults_may_end_it() -> None:
    lost = attempt("left", 1, "TIMED_OUT", reason="WORKER_LOST", worker="w1")
    one = execution(lost, attempt("left", 2, worker="w2", number=2), attempt("right", 3), attempt("total", 4),
                    workflow_id=STEPS, output={"total": 12})
    for may_end in (False, True):
        judge = Judge(sessions_may_end=may_end)
        judge.history.add(dataclasses.replace(start(), subject=STEPS))
        for task in one.tasks:
            judge.take_worker_line({"line": "ran", "at": 0, "ran": dataclasses.asdict(ran(task, STEPS))}, "")
        for session in ("s1", "s2"):
            judge.take_worker_line({"line": "session", "session": session}, "w1")
        assert judge.lost_sessions == 1
        assert promises(judge.judge({STEPS: Seen((one,))})) == (set() if may_end else {"attempts"})


# -- the record --------------------------------------------------------------------------------------------------------

def recorded(file: Path, *, forgets: int = 0) -> tuple[Judge, dict[str, int]]:
    """Three operations, of which so many completions are not written down."""
    recorder = Recorder(file, "c1")
    names = [recorder.begin(0, "write", STEPS, value) for value in range(3)]
    for number, name in enumerate(names):
        if number < forgets:
            recorder.completed += 1
        else:
            recorder.complete(name, "answered", DONE)
    recorder.close()
    judge = Judge()
    for line in Lines().new(file):
        judge.history.take(line)
    return judge, {"begun": recorder.begun, "completed": recorder.completed}


def test_a_whole_record(tmp_path: Path) -> None:
    judge, told = recorded(tmp_path / "c1.client")
    assert judge.record({"c1": told}) == []
    assert [each.answer for each in judge.history.by_object[STEPS]] == [DONE] * 3


def test_an_acknowledgement_that_the_recorder_has_dropped(tmp_path: Path) -> None:
    judge, told = recorded(tmp_path / "c1.client", forgets=1)
    found = judge.record({"c1": told})
    assert promises(found) == {"record"} and len(found) == 2
    assert "1 operations have no end" in found[1].what


def test_of_a_killed_client_the_outcome_is_unknown(tmp_path: Path) -> None:
    judge, _ = recorded(tmp_path / "c1.client", forgets=1)
    assert judge.record({}) == []
    assert [each.outcome for each in judge.history.by_object[STEPS]] == ["unknown", "answered", "answered"]


def test_a_caller_that_gave_up(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "c1.client", "c1")
    recorder.fault("InternalError")
    judge = Judge()
    for line in Lines().new(tmp_path / "c1.client"):
        judge.history.take(line)
    assert [each.what for each in judge.record({})] == ["InternalError"]
    assert judge.record({}) == []
    recorder.close()


def test_half_a_line_is_taken_when_it_is_whole(tmp_path: Path) -> None:
    file, lines = tmp_path / "x", Lines()
    file.write_bytes(b'{"a":1}\n{"a":')
    assert list(lines.new(file)) == [{"a": 1}]
    with file.open("ab") as more:
        more.write(b"2}\n")
    assert list(lines.new(file)) == [{"a": 2}]


def test_what_was_judged_is_forgotten() -> None:
    history = History()
    history.add(dataclasses.replace(start(), subject=STEPS))
    history.forget([STEPS])
    assert history.by_object == {}


def test_what_can_not_be_decided_is_counted() -> None:
    judge, subject = Judge(configurations_max=1_000), "v-mailbox-0x1"
    judge.history.add(operation("start", 0, 1, MADE, subject=subject))
    for number in range(24):
        judge.history.add(operation("signal", 1, None, argument=str(number), subject=subject))
    shown = {"is": "shown", "status": "RUNNING", "taken": ["nobody's"]}
    judge.history.add(operation("read", 2, 3, shown, subject=subject))
    assert judge.judge({subject: Seen((execution(workflow_id=subject, status="RUNNING"),))}) == []
    assert judge.undecided == [subject]
