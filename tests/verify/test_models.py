"""What each kind of object may answer: every planted answer that it may not is found."""

from __future__ import annotations

import pytest

from orchestrator.verify.history import Operation
from orchestrator.verify.linearizability import check
from orchestrator.verify.models import (
    ABSENT,
    DONE,
    ENDED,
    MADE,
    MAILBOX_SIGNALS,
    NOT_PAUSED,
    TAKEN,
    kind_of,
    model_of,
)
from tests.verify.making import operation


def history(kind: str, *steps: tuple[str, object, object]) -> list[Operation]:
    """One after the other: (kind, argument, answer)."""
    return [operation(what, 2 * at, 2 * at + 1, answer, argument=argument, subject=f"v-{kind}-0x1")
            for at, (what, argument, answer) in enumerate(steps)]


def verdict(operations: list[Operation]) -> str:
    return check(operations, None, model_of(operations[0].subject)).result


def register_read(status: str, value: object) -> tuple[str, None, dict[str, object]]:
    return "read", None, {"is": "shown", "status": status, "value": value}


def mail_read(status: str, *taken: str) -> tuple[str, None, dict[str, object]]:
    return "read", None, {"is": "shown", "status": status, "taken": list(taken)}


def work_read(status: str, output: str | None = None, what: str = "read") -> tuple[str, None, dict[str, object]]:
    return what, None, {"is": "shown", "status": status, "output": output}


START, AGAIN = ("start", None, MADE), ("start", None, TAKEN)
SIGNALS = [("signal", str(number), DONE) for number in range(MAILBOX_SIGNALS)]
ALL = [str(number) for number in range(MAILBOX_SIGNALS)]


@pytest.mark.parametrize("steps", [
    pytest.param(("register", ("read", None, ABSENT), ("write", 1, ABSENT), START, AGAIN, ("write", 1, DONE),
                  register_read("RUNNING", 1)), id="register"),
    pytest.param(("register", START, ("pause", None, DONE), ("pause", None, DONE), register_read("PAUSED", None),
                  ("write", 1, DONE), ("resume", None, DONE), ("resume", None, NOT_PAUSED),
                  register_read("RUNNING", 1)), id="pause"),
    pytest.param(("register", START, ("terminate", None, DONE), ("terminate", None, DONE), ("write", 1, ENDED),
                  ("pause", None, ENDED), ("resume", None, ENDED), register_read("TERMINATED", None)), id="terminate"),
    pytest.param(("mailbox", START, ("signal", "a", DONE), mail_read("RUNNING", "a"), ("signal", "b", DONE),
                  mail_read("RUNNING", "a", "b")), id="mailbox"),
    pytest.param(("mailbox", START, *SIGNALS, mail_read("COMPLETED", *ALL), ("signal", "more", ENDED)), id="full"),
    pytest.param(("once", ("start", None, {"id": "x", "existing": False}), ("start", None, {"id": "x",
                  "existing": True})), id="once"),
    pytest.param(("saga", START, work_read("RUNNING"), work_read("COMPENSATING"), work_read("FAILED", "{}", "wait"),
                  work_read("FAILED", "{}"), ("terminate", None, ENDED)), id="saga"),
    pytest.param(("again", START, work_read("FAILED", "{}"), ("retry", None, DONE), work_read("RUNNING"),
                  work_read("COMPLETED", "1")), id="retry"),
])
def test_what_may_be(steps: tuple[str, tuple[str, object, object]]) -> None:
    assert verdict(history(*steps)) == "linearizable"


@pytest.mark.parametrize("steps", [
    pytest.param(("register", START, START), id="two starts have made it"),
    pytest.param(("register", AGAIN), id="a start finds what is not there"),
    pytest.param(("register", START, ("read", None, ABSENT)), id="an acknowledged start is lost"),
    pytest.param(("register", START, ("pause", None, DONE), register_read("RUNNING", None)), id="a pause is lost"),
    pytest.param(("register", START, ("terminate", None, DONE), ("write", 1, DONE)), id="the end is not final"),
    pytest.param(("register", START, ("resume", None, DONE)), id="resumed without a pause"),
    pytest.param(("mailbox", START, ("signal", "a", DONE), mail_read("RUNNING")), id="a signal is lost"),
    pytest.param(("mailbox", START, ("signal", "a", DONE), mail_read("RUNNING", "a", "a")), id="a signal twice"),
    pytest.param(("mailbox", START, ("signal", "a", DONE), ("signal", "b", DONE), mail_read("RUNNING", "b", "a")),
                 id="signals out of order"),
    pytest.param(("mailbox", START, *SIGNALS, ("signal", "more", DONE)), id="a signal after the end"),
    pytest.param(("once", ("start", None, {"id": "x", "existing": False}), ("start", None, {"id": "y",
                  "existing": False})), id="one key, two executions"),
    pytest.param(("once", ("start", None, {"id": "x", "existing": False}), ("start", None, {"id": "y",
                  "existing": True})), id="one key, two answers"),
    pytest.param(("steps", START, work_read("COMPLETED", "1"), work_read("RUNNING")), id="it has ended, and runs"),
    pytest.param(("steps", START, work_read("COMPLETED", "1"), work_read("COMPLETED", "2")), id="another output"),
    pytest.param(("saga", START, work_read("COMPENSATING"), work_read("RUNNING")), id="it goes forward again"),
    pytest.param(("saga", START, ("terminate", None, DONE), work_read("RUNNING")), id="a termination is lost"),
    pytest.param(("saga", START, work_read("COMPLETED", "1"), ("terminate", None, DONE)), id="ended, and terminated"),
])
def test_what_may_not_be(steps: tuple[str, tuple[str, object, object]]) -> None:
    assert verdict(history(*steps)) == "violated"


def test_the_first_of_two_starts_with_a_key_may_have_had_no_answer() -> None:
    unknown = operation("start", 0, None, subject="v-once-0x1")
    found = operation("start", 1, 2, {"id": "x", "existing": True}, subject="v-once-0x1")
    assert verdict([unknown, found]) == "linearizable"
    assert verdict([found]) == "violated"


def test_the_kind_stands_in_the_id() -> None:
    assert kind_of("verify-3f-register-2x17") == "register" and kind_of("a-b-once-c1x1") == "once"
