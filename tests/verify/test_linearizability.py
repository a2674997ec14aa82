"""The checker finds every order that there is, and none where there is none."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence

import pytest

from orchestrator.verify.history import Operation
from orchestrator.verify.linearizability import State, check
from orchestrator.verify.models import DONE, MADE, MODELS
from tests.verify.making import operation

REGISTER = MODELS["register"]
START = operation("start", 0.0, 0.1, MADE)


def write(value: str, invoked: float, completed: float | None, *, known: bool = True) -> Operation:
    return operation("write", invoked, completed, DONE if known else None, argument=value)


def read(value: str | None, invoked: float, completed: float) -> Operation:
    return operation("read", invoked, completed, {"is": "shown", "status": "RUNNING", "value": value})


def verdict(*operations: Operation) -> str:
    return check([START, *operations], None, REGISTER).result


def test_one_after_the_other() -> None:
    assert verdict(write("a", 1, 2), read("a", 3, 4), write("b", 5, 6), read("b", 7, 8)) == "linearizable"


def test_what_overlaps_may_come_in_any_order() -> None:
    assert verdict(write("a", 1, 9), write("b", 1, 9), read("b", 2, 3), read("a", 4, 5)) == "linearizable"


@pytest.mark.parametrize("history", [
    pytest.param([write("a", 1, 2), read(None, 3, 4)], id="an acknowledged write is lost"),
    pytest.param([write("a", 1, 2), write("b", 3, 4), read("a", 5, 6)], id="a read is stale"),
    pytest.param([write("a", 1, 9), read("a", 2, 3), read(None, 4, 5)], id="two reads go back in time"),
    pytest.param([read("z", 1, 2)], id="nobody has written what is read"),
    pytest.param([write("a", 1, 2), write("b", 3, 4), read("b", 5, 6), read("a", 7, 8)],
                 id="a write takes effect twice"),
])
def test_violations(history: list[Operation]) -> None:
    found = check([START, *history], None, REGISTER)
    assert found.result == "violated" and found.left
    assert {*map(id, found.order), *map(id, found.left)} == {id(START), *map(id, history)}


def test_an_unknown_operation_takes_effect_later_or_never() -> None:
    lost = write("a", 1, None, known=False)
    assert verdict(lost, read(None, 2, 3)) == "linearizable"
    assert verdict(lost, read(None, 2, 3), read("a", 4, 5)) == "linearizable"
    # Also long after its caller has given up, but once only.
    given_up = write("a", 1, 2, known=False)
    assert verdict(given_up, read(None, 3, 4), read("a", 5, 6)) == "linearizable"
    assert verdict(given_up, read("a", 3, 4), write("b", 5, 6), read("a", 7, 8)) == "violated"
    # Never before it was called.
    assert verdict(read("a", 0.2, 0.3), lost) == "violated"


def test_what_certainly_had_no_effect_has_none() -> None:
    refused = operation("write", 1, 2, argument="a", outcome="none")
    assert verdict(refused, read(None, 3, 4)) == "linearizable"
    assert verdict(refused, read("a", 3, 4)) == "violated"


def test_it_gives_up_and_says_so() -> None:
    writes = [write(str(number), 1, 100) for number in range(14)]
    reads = [read("nobody", 101, 102)]
    assert check([START, *writes, *reads], None, REGISTER, configurations_max=1_000).result == "undecided"


def test_long_histories_are_quick() -> None:
    """Three callers at a time, 300 operations: looked at are few configurations, not all orders."""
    dice = random.Random(7)
    history, value = [START], None
    for number in range(100):
        written = str(number)
        history += [write(written, number + 1, number + 1.5), read(value, number + 0.9, number + 1.4),
                    read(written, number + 1.1, number + 1.9)]
        value = written
    dice.shuffle(history)
    assert check(history, None, REGISTER, configurations_max=5_000).result == "linearizable"


def brute_force(history: Sequence[Operation]) -> bool:
    """Tries every order of every subset that has all answered operations."""
    answered = [each for each in history if each.is_known]
    unknown = [each for each in history if each.outcome == "unknown"]
    for count in range(len(unknown) + 1):
        for chosen in itertools.combinations(unknown, count):
            for order in itertools.permutations([*answered, *chosen]):
                if in_real_time(order) and fits(order):
                    return True
    return False


def in_real_time(order: Sequence[Operation]) -> bool:
    return not any(later.is_known and later.completed is not None and later.completed < earlier.invoked
                   for earlier, later in itertools.combinations(order, 2))


def fits(order: Sequence[Operation]) -> bool:
    states: set[State] = {None}
    for each in order:
        states = {after for state in states for after in REGISTER(state, each)}
    return bool(states)


def test_it_agrees_with_a_dumb_checker() -> None:
    dice = random.Random(20261123)
    verdicts = set()
    for _ in range(400):
        history = [START]
        for number in range(dice.randrange(1, 6)):
            invoked = dice.uniform(0, 4)
            completed = invoked + dice.uniform(0.1, 3)
            if dice.randrange(2):
                history.append(write(str(number % 3), invoked, completed, known=bool(dice.randrange(4))))
            else:
                history.append(read(dice.choice([None, "0", "1", "2"]), invoked, completed))
        expected = "linearizable" if brute_force(history) else "violated"
        assert check(history, None, REGISTER).result == expected, "\n".join(map(str, history))
        verdicts.add(expected)
    assert len(verdicts) == 2
