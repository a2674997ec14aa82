"""The rules of one execution: what keeps them passes, and each planted violation is found."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import pytest

from orchestrator.verify import rules
from orchestrator.verify.rules import Effect, Labour
from orchestrator.verify.work import Expected, expected
from orchestrator_client import Execution, TaskAttempt
from tests.verify.making import attempt, execution, ran


def labour(*tasks: TaskAttempt, lost: Sequence[str] = ()) -> Labour:
    return Labour([ran(task) for task in tasks], (), frozenset(lost))


def attempts(*tasks: TaskAttempt, lost: Sequence[str] = (), status: str = "COMPLETED") -> list[str]:
    return list(rules.wrong_attempts(execution(*tasks, status=status), labour(*tasks, lost=lost)))


# -- attempts ----------------------------------------------------------------------------------------------------------

LOST = attempt("left", 1, "TIMED_OUT", worker="w1", reason="WORKER_LOST")
AGAIN = attempt("left", 2, worker="w2", number=2)


def test_attempts_in_order() -> None:
    assert attempts(attempt("left", 1), attempt("right", 2), attempt("total", 3)) == []
    assert attempts(attempt("flaky", 1, "FAILED"), attempt("flaky", 2, number=2)) == []


def test_a_killed_worker_is_why_it_was_handed_out_again() -> None:
    assert attempts(LOST, AGAIN, lost=["w1"]) == []


def test_a_paused_worker_may_begin_late_what_it_was_given() -> None:
    late = Labour([ran(AGAIN), ran(LOST)], (), frozenset({"w1"}))
    assert list(rules.wrong_attempts(execution(LOST, AGAIN), late)) == []
    failed = attempt("left", 1, "FAILED")
    late = Labour([ran(AGAIN), ran(failed)])
    assert any("lower fencing token" in each for each in rules.wrong_attempts(execution(failed, AGAIN), late))


def test_handed_out_again_while_its_worker_lived() -> None:
    [found] = attempts(LOST, AGAIN)
    assert "taken from its worker w1, which nobody had killed" in found
    running = dataclasses.replace(LOST, status=AGAIN.status.IN_PROGRESS, reason="")
    assert any("handed out again" in each for each in attempts(running, AGAIN, lost=["w1"]))


def test_who_is_told_to_cancel_lets_go() -> None:
    assert attempts(LOST, status="TERMINATED") == []
    assert attempts(LOST, AGAIN, status="TERMINATED") != []


def test_two_completions_of_one_step() -> None:
    found = attempts(attempt("left", 1), attempt("left", 2, number=2))
    assert any("2 completions were accepted" in each for each in found)


def test_a_completion_that_no_worker_has_executed() -> None:
    task = attempt("left", 1)
    assert any("no worker executed it" in each for each in rules.wrong_attempts(execution(task), Labour()))


def test_an_attempt_that_nobody_knows_any_more() -> None:
    task = attempt("left", 1)
    forgotten = attempt("left", 9, number=2)
    assert any("nobody knows any more" in each for each in rules.wrong_attempts(execution(task),
                                                                             labour(task, forgotten)))


def test_attempts_with_another_key() -> None:
    assert any("different idempotency keys" in each
               for each in attempts(LOST, dataclasses.replace(AGAIN, idempotency_key="other"), lost=["w1"]))


def test_what_must_be_unique() -> None:
    one, other = execution(attempt("a", 1)), execution(attempt("b", 1), workflow_id="y")
    assert any("fencing tokens given to two" in each for each in rules.handed_out_twice([one, other], []))
    task = ran(attempt("a", 1))
    assert any("leases executed twice" in each for each in rules.handed_out_twice([one], [task, task]))
    assert list(rules.handed_out_twice([one], [task])) == []


# -- ends --------------------------------------------------------------------------------------------------------------

def test_ends() -> None:
    must = expected("steps", {"x": 3}, terminated=False)
    assert must == Expected(("COMPLETED",), {"total": 12})
    assert list(rules.wrong_end(execution(output={"total": 12}), must)) == []
    assert list(rules.wrong_end(execution(output={"total": 13}), must)) == ['came to {"total": 13}, not {"total": 12}']
    assert list(rules.wrong_end(execution(status="FAILED"), must)) != []


@pytest.mark.parametrize(("kind", "mode", "statuses"), [
    ("saga", "fail", ("FAILED",)), ("saga", "good", ("COMPLETED",)), ("timer", "", ("COMPLETED",)),
])
def test_what_each_kind_comes_to(kind: str, mode: str, statuses: tuple[str, ...]) -> None:
    assert expected(kind, {"x": 1, "mode": mode}, terminated=False).statuses == statuses


def test_a_termination_may_have_come_too_late() -> None:
    must = expected("saga", {"x": 1, "mode": "terminated"}, terminated=True)
    assert must.statuses == ("COMPLETED", "TERMINATED")


# -- compensations -----------------------------------------------------------------------------------------------------

RESERVE, CHARGE = attempt("reserve", 1, began=0), attempt("charge", 2, began=20)
SHIP = attempt("ship", 3, "FAILED_WITH_TERMINAL_ERROR", began=40)
REFUND = attempt("charge__undo", 4, began=60, compensates="charge")
RELEASE = attempt("reserve__undo", 5, began=80, compensates="reserve")
UNDONE = [Effect("key-charge", True), Effect("key-reserve", True)]
FAIL = {"x": 1, "mode": "fail"}


def saga(*tasks: TaskAttempt, done: tuple[str, ...] = ("charge", "reserve"), status: str = "FAILED",
         left: tuple[str, ...] = (), state: str = "") -> Execution:
    return execution(*tasks, status=status, done=done, left=left, state=state)


def compensation(found: Execution, effects: Sequence[Effect] = UNDONE, mode: str = "fail") -> list[str]:
    return list(rules.wrong_compensation(found, {"x": 1, "mode": mode}, effects))


def test_undone_in_reverse_order() -> None:
    assert compensation(saga(RESERVE, CHARGE, SHIP, REFUND, RELEASE)) == []


def test_nothing_is_undone_of_what_is_complete() -> None:
    done = saga(RESERVE, CHARGE, done=(), status="COMPLETED")
    assert compensation(done, [], "good") == []
    assert compensation(done, [Effect("key-charge", True)], "good") != []
    assert compensation(saga(RESERVE, CHARGE, REFUND, done=(), status="COMPLETED"), [], "good") != []


def test_undone_in_the_order_of_completion() -> None:
    early = dataclasses.replace(RELEASE, sequence=4), dataclasses.replace(REFUND, sequence=5)
    found = compensation(saga(RESERVE, CHARGE, SHIP, *early, done=("reserve", "charge")))
    assert "was undone as ['reserve', 'charge'], and not as ['charge', 'reserve']" in found


def test_a_step_that_is_not_undone() -> None:
    found = compensation(saga(RESERVE, CHARGE, SHIP, REFUND, done=("charge",)), UNDONE[:1])
    assert any("was undone as ['charge']" in each for each in found)
    assert any("workers have undone ['key-charge']" in each for each in found)
    assert compensation(saga(RESERVE, CHARGE, SHIP, REFUND, RELEASE, left=("reserve",))) != []


def test_said_to_be_undone_and_no_worker_did_it() -> None:
    assert compensation(saga(RESERVE, CHARGE, SHIP, REFUND, RELEASE), UNDONE[:1]) != []


def test_undone_twice() -> None:
    again = attempt("charge__undo", 6, began=100, compensates="charge", number=2)
    assert "was undone twice: ['charge']" in compensation(saga(RESERVE, CHARGE, SHIP, REFUND, RELEASE, again))


def test_undone_at_the_same_time() -> None:
    overlapping = attempt("reserve__undo", 5, began=65, compensates="reserve")
    assert "reserve was being undone before charge was" in compensation(saga(RESERVE, CHARGE, SHIP, REFUND,
                                                                             overlapping))


def test_what_may_have_happened_is_undone_first() -> None:
    unknown = attempt("charge", 2, "FAILED_WITH_TERMINAL_ERROR", began=20)
    found = saga(RESERVE, unknown, REFUND, RELEASE)
    assert compensation(found, mode="unknown") == []
    # What failed for certain is not.
    assert compensation(found, mode="fail") != []
    lost = attempt("charge", 2, "TIMED_OUT", reason="WORKER_LOST", began=20)
    assert compensation(saga(RESERVE, lost, REFUND, RELEASE, status="TERMINATED"), mode="terminated") == []


def test_a_compensation_that_is_stuck() -> None:
    assert any("is STUCK" in each for each in compensation(saga(RESERVE, CHARGE, SHIP, REFUND, RELEASE, state="STUCK")))


# -- timers and replicas -----------------------------------------------------------------------------------------------

def test_timers() -> None:
    in_time = attempt("timer", 1, kind="WAIT", began=0, ended=rules.TIMER_MS)
    assert list(rules.wrong_timer(execution(in_time))) == []
    early = attempt("timer", 1, kind="WAIT", began=0, ended=rules.TIMER_MS - 1)
    assert list(rules.wrong_timer(execution(early))) == ["its timer of 700 ms fired after 699 ms"]
    assert list(rules.wrong_timer(execution(in_time, dataclasses.replace(in_time, sequence=2)))) != []


def test_replicas() -> None:
    one = execution(attempt("a", 1), output={"total": 1})
    assert list(rules.wrong_replica("a", one, "b", one)) == []
    assert list(rules.wrong_replica("a", one, "b", None)) == [
        'a shows COMPLETED {"total": 1} with 1 attempts, and b nothing'
    ]
    other = dataclasses.replace(one, output={"total": 2})
    assert list(rules.wrong_replica("a", one, "b", other)) != []
